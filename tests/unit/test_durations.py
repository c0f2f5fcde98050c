"""runner/durations.py: what a worker expects of a function by what it was measured."""

import pytest

from multihost.runner.durations import CHILD_SECONDS, HOLD_SECONDS, LONG_SECONDS, MAX_HELD, Durations

F, CHUNK_OF_F, G = ("f", False), ("f", True), ("g", False)


@pytest.fixture
def durations() -> Durations:
    return Durations()


def test_first_task_is_the_mean_and_each_later_one_an_eighth_of_it(durations: Durations) -> None:
    assert durations.get(F) is None
    durations.note(F, 0.008)
    durations.note(F, 0.016)
    assert durations.get(F) == pytest.approx(0.009)
    durations.note(F, 0.001)
    assert durations.get(F) == pytest.approx(0.008)
    assert durations.get(CHUNK_OF_F) is None


def test_task_that_took_much_longer_counts_for_half(durations: Durations) -> None:
    durations.note(F, 0.010)
    durations.note(F, 0.100)
    assert durations.get(F) == pytest.approx(0.055)


def test_task_that_is_late_makes_its_like_long(durations: Durations) -> None:
    durations.note(F, 0.001)
    durations.note_late(F)
    assert durations.get(F) == LONG_SECONDS
    durations.note(G, 1.0)
    durations.note_late(G)
    assert durations.get(G) == 1.0


def test_as_many_are_held_as_end_within_the_holding_time_by_the_slowest_that_runs(durations: Durations) -> None:
    assert durations.held([F]) == 1
    durations.note(F, HOLD_SECONDS / 40)
    durations.note(G, HOLD_SECONDS / 4)
    assert (durations.held([F]), durations.held([F, G]), durations.held([])) == (40, 4, 4)
    durations.note(CHUNK_OF_F, 0.0)
    assert durations.held([]) == MAX_HELD
    assert durations.in_pipe(F) == int(CHILD_SECONDS / (HOLD_SECONDS / 40))
    durations.forget("f")
    assert durations.in_pipe(F) == durations.in_pipe(CHUNK_OF_F) == 1
