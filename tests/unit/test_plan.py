"""A map is cut into single items first, then into chunks of a few milliseconds each."""

from collections.abc import Iterator

import pytest

from multihost.client.plan import Pace, Paces, Plan


def small(_: int) -> int:
    return 5


def taken(plan: Plan, slots: int = 2) -> list[range]:
    """All that the plan gives now."""
    return list(iter(lambda: plan.take(slots, small), None))


def sizes_of(plan: Plan, seconds: float) -> list[int]:
    """The sizes of all chunks of a map whose items take so long, one chunk after another."""
    outstanding, sizes = taken(plan), list[int]()
    while outstanding:
        chunk = outstanding.pop(0)
        sizes.append(len(chunk))
        plan.part(len(chunk), len(chunk) * seconds, 10)
        plan.ended()
        outstanding += taken(plan)
    return sizes


def test_a_chosen_chunksize_is_obeyed_and_nothing_is_held_back() -> None:
    assert taken(Plan(10, 4)) == [range(4), range(4, 8), range(8, 10)]
    assert taken(Plan(2, 5)) == [range(2)]


def test_an_empty_map_has_no_chunk() -> None:
    assert taken(Plan(0)) == []


def test_the_first_items_go_one_by_one_two_for_each_slot() -> None:
    assert taken(Plan(100), slots=3) == [range(n, n + 1) for n in range(6)]


def test_items_of_a_short_function_go_in_chunks_of_five_milliseconds() -> None:
    plan = Plan(1_000_000)
    taken(plan)
    plan.part(2, 0.0002, 10)
    plan.ended()
    assert [len(chunk) for chunk in taken(plan)] == [50] * 5, "four for each slot are under way"


def test_a_chunk_has_at_most_16384_items() -> None:
    plan = Plan(1_000_000)
    taken(plan)
    plan.part(1, 1e-9, 10)
    plan.ended()
    assert {len(chunk) for chunk in taken(plan)} == {16384}


def test_chunks_become_smaller_at_the_end_so_that_all_slots_end_together() -> None:
    sizes = sizes_of(Plan(104), 0.001)
    assert sizes[:5] == [1, 1, 1, 1, 5]
    assert sizes[4:] == sorted(sizes[4:], reverse=True)
    assert sizes[-1] == 1
    assert sum(sizes) == 104


def test_chunks_are_not_so_small_that_they_cost_more_than_their_items() -> None:
    sizes = sizes_of(Plan(1000), 0.0001)
    assert min(sizes[4:-1]) == 10
    assert sum(sizes) == 1000


def test_a_lone_item_is_known_to_take_longer_than_one_of_many() -> None:
    plan = Plan(100_000)
    taken(plan)
    plan.part(1, 0.00003, 10)
    (first, *_) = taken(plan)
    assert len(first) == 500


def test_many_items_are_believed_at_once_that_they_are_short_and_a_single_one_that_it_is_long() -> None:
    plan = Plan(1_000_000)
    taken(plan)
    plan.part(1, 0.1, 10)
    plan.part(500, 500 * 0.00001, 10)
    plan.ended()
    assert len(taken(plan)[0]) > 20
    plan.part(1, 0.1, 10)
    plan.ended()
    assert len(taken(plan)[0]) == 1


def test_a_map_that_should_be_over_at_once_is_cut_into_two_chunks_for_each_slot() -> None:
    pace = Pace()
    plan = Plan(1000, pace=pace)
    taken(plan)
    plan.part(10, 0.00001, 10)
    assert pace.seconds == pytest.approx(0.000001)
    assert [len(chunk) for chunk in taken(Plan(1001, pace=pace))] == [251, 251, 251, 248]
    assert taken(Plan(1_000_000, pace=pace)) == [range(n, n + 1) for n in range(4)], "this one takes a second"
    assert [len(chunk) for chunk in taken(Plan(1000, 300, pace))] == [300, 300, 300, 100]


def test_functions_have_each_their_pace_and_not_too_many_are_remembered() -> None:
    paces = Paces()
    paces.of("f").seconds = 1.0
    assert (paces.of("f").seconds, paces.of("g").seconds) == (1.0, None)
    for number in range(1000):
        paces.of(str(number))
    assert paces.of("f").seconds is None


def widened(plan: Plan) -> list[int]:
    """How many items are under way, each time that they were not found to be short for a while."""
    under_way = []
    while plan.widen():
        assert {len(chunk) for chunk in taken(plan)} <= {1}
        under_way.append(plan.outstanding)
    return under_way


def test_long_items_go_one_by_one_and_more_and_more_at_once_so_that_new_workers_find_some() -> None:
    plan = Plan(5000)
    taken(plan)
    plan.part(1, 60.0, 10)
    plan.ended()
    taken(plan)
    assert plan.outstanding == 8
    assert not plan.short
    assert widened(plan) == [16, 32, 64, 128]
    taken(plan)
    assert plan.outstanding == 256


def test_items_without_a_result_for_a_while_go_one_by_one_and_more_and_more_at_once() -> None:
    plan = Plan(5000)
    taken(plan)
    assert plan.outstanding == 4
    assert widened(plan) == [16, 32, 64, 128]


def test_nobody_asks_again_when_no_item_is_left() -> None:
    plan = Plan(20)
    taken(plan)
    assert plan.widen()
    taken(plan)
    assert plan.widen()
    taken(plan)
    assert not plan.widen()


def test_items_are_short_when_two_of_them_fit_into_a_chunk() -> None:
    plan = Plan(5000)
    taken(plan)
    assert not plan.short
    plan.part(1, 0.1, 10)
    assert not plan.short
    for _ in range(10):
        plan.part(1, 0.001, 10)
    assert plan.short


def test_large_arguments_make_small_chunks() -> None:
    plan = Plan(1_000_000)
    taken(plan)
    plan.part(1, 1e-6, 10)
    plan.ended()
    chunk = plan.take(2, lambda index: 100 * 1024)
    assert chunk is not None
    assert len(chunk) == 10


def test_large_results_make_small_chunks() -> None:
    plan = Plan(1_000_000)
    taken(plan)
    plan.part(1, 1e-6, 1024 * 1024)
    plan.ended()
    chunk = plan.take(2, small)
    assert chunk is not None
    assert len(chunk) == 1


def test_few_large_items_are_under_way_at_once() -> None:
    plan = Plan(5000)
    taken(plan)
    plan.part(1, 60.0, 4 * 1024 * 1024)
    plan.ended()
    widened(plan)
    taken(plan)
    assert plan.outstanding == 16


def test_items_that_could_not_run_measure_nothing() -> None:
    plan = Plan(100)
    taken(plan)
    plan.part(1, 0.0, 0)
    plan.ended()
    assert [len(chunk) for chunk in taken(plan)] == [1]


def test_a_function_that_becomes_slower_gets_smaller_chunks() -> None:
    plan = Plan(1_000_000)
    taken(plan)

    def sizes() -> Iterator[int]:
        for seconds in (2**-17, 2**-10, 2**-10, 2**-10):
            plan.part(2, 2 * seconds, 10)
            chunk = plan.take(100, small)
            assert chunk is not None
            yield len(chunk)

    found = list(sizes())
    assert found == sorted(found, reverse=True)
    assert (found[0], found[-1]) == (655, 5)


@pytest.mark.parametrize("slots", [0, 1, 7])
def test_every_item_is_taken_once(slots: int) -> None:
    plan = Plan(1000)
    outstanding, items = taken(plan, slots), list[int]()
    while outstanding:
        chunk = outstanding.pop()
        items += chunk
        plan.part(len(chunk), 0.0003 * len(chunk), 10)
        plan.ended()
        outstanding += taken(plan, slots)
    assert sorted(items) == list(range(1000))


def test_what_is_left_is_told_when_it_stops() -> None:
    plan = Plan(100)
    taken(plan)
    assert plan.stop() == range(4, 100)
    plan.ended()
    assert taken(plan) == []
