"""What a pool hands out, without a pool: results that come, and how far an imap reads ahead."""

import gc
import multiprocessing
import threading
import weakref
from typing import Any

import pytest

from multihost.client.results import AsyncResult, IMapIterator, MapResult, Window
from multihost.explain import Explanation
from multihost.payload import Outcomes

MEGABYTE = 1024 * 1024


class Pool:
    """Counts calls."""

    def __init__(self) -> None:
        self.calls = 0

    def begin(self) -> bool:
        self.calls += 1
        return True

    def end(self) -> None:
        self.calls -= 1

    def check_process(self) -> None:
        pass


class Bar:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.figures: list[tuple[int, int]] = []
        self.closed = 0

    def advance(self, done: int, failed: int) -> None:
        self.figures.append((done, failed))

    def close(self) -> None:
        self.closed += 1


def of(pairs: list[tuple[bool, Any]]) -> Outcomes:
    """Outcomes, given as (succeeded, value or exception) of each item."""
    errors = {place: value for place, (success, value) in enumerate(pairs) if not success}
    return Outcomes([value if success else None for success, value in pairs], errors)


@pytest.fixture
def pool() -> Pool:
    return Pool()


# --- results ---------------------------------------------------------------------------------------------------


def test_a_result_counts_as_a_call_until_its_callback_has_returned(pool: Pool) -> None:
    seen: list[int] = []
    result: AsyncResult[int] = AsyncResult(pool, lambda value: seen.append(pool.calls))
    assert pool.calls == 1
    result._set(True, 7)
    assert (seen, pool.calls, result.get(0)) == ([1], 0, 7)


def test_a_callback_that_raises_does_not_keep_the_result_from_being_ready(pool: Pool) -> None:
    result: AsyncResult[int] = AsyncResult(pool, lambda value: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        result._set(True, 7)
    assert result.get(0) == 7
    assert pool.calls == 0


def test_a_result_forgets_the_pool_and_the_callbacks_when_it_has_come(pool: Pool) -> None:
    held = Pool()
    result: AsyncResult[int] = AsyncResult(pool, lambda value, held=held: None)  # type: ignore[misc]
    gone = weakref.ref(held)
    del held
    assert gone() is not None
    result._set(True, 7)
    assert gone() is None
    assert result._pool is None


class Failure(Exception):
    """Unlike the builtin ones, it can be referred to weakly."""


def test_an_exception_does_not_hold_itself_after_get(pool: Pool) -> None:
    result: AsyncResult[int] = AsyncResult(pool)
    result._set(False, Failure())
    gone: list[weakref.ref[Failure]] = []
    gc.disable()
    try:
        try:
            result.get(0)
        except Failure as error:
            gone.append(weakref.ref(error))
        del result
        assert gone[0]() is None
    finally:
        gc.enable()


def test_a_result_that_has_come_cannot_be_cancelled(pool: Pool) -> None:
    asked: list[bool] = []

    class Call:
        def cancel(self, running: bool) -> bool:
            asked.append(running)
            return True

        def explain(self) -> Explanation:
            return Explanation("queued", "turn")

    result: AsyncResult[int] = AsyncResult(pool)
    result._under_way = Call()
    assert result.cancel()
    assert result.terminate()
    result._set(True, 7)
    assert not result.cancel()
    assert not result.terminate()
    assert asked == [False, True]


def test_a_map_has_its_results_in_order_however_they_come(pool: Pool) -> None:
    result: MapResult[str] = MapResult(pool, 5)
    result._arrived(3, of([(True, "d"), (True, "e")]))
    result._arrived(0, of([(True, "a")]))
    assert not result.ready()
    result._arrived(1, of([(True, "b"), (True, "c")]))
    assert result.get(0) == ["a", "b", "c", "d", "e"]
    assert pool.calls == 0


def test_a_map_ends_in_its_first_exception_when_all_have_come(pool: Pool) -> None:
    errors: list[BaseException] = []
    result: MapResult[int] = MapResult(pool, 3, error_callback=errors.append)
    result._arrived(1, of([(False, LookupError("first"))]))
    result._arrived(2, of([(False, LookupError("second"))]))
    assert not result.ready()
    result._arrived(0, of([(True, 1)]))
    with pytest.raises(LookupError, match="first"):
        result.get(0)
    assert len(errors) == 1


def test_a_map_without_items_is_ready_at_once(pool: Pool) -> None:
    results: list[object] = []
    result: MapResult[int] = MapResult(pool, 0, results.append)
    assert result.get(0) == []
    assert results == [[]]
    assert pool.calls == 0


def test_a_maps_bar_is_told_of_all_items_and_closed_once(pool: Pool) -> None:
    bar = Bar()
    result: MapResult[int] = MapResult(pool, 3, bar=bar)
    result._arrived(0, of([(True, 1), (False, LookupError())]))
    assert not bar.closed
    result._arrived(2, of([(True, 1)]))
    assert (bar.figures, bar.closed) == ([(2, 1), (1, 0)], 1)


# --- imap ------------------------------------------------------------------------------------------------------


def room(window: Window, slots: int = 2, items: int = 1) -> bool:
    """Whether the input would be read on now."""
    with window._condition:
        return window._has_room(slots, items)


def fill(window: Window, slots: int = 2, limit: int = 10_000, argument_bytes: int = 0) -> int:
    """Submit items while there is room; how many."""
    count = 0
    while room(window, slots) and count < limit:
        window.submits(1, argument_bytes)
        count += 1
    return count


def test_results_are_taken_in_the_order_of_the_input(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    assert [window.submits(1, None) for _ in range(3)] == [0, 1, 2]
    window.ended()
    window.arrived(2, of([(True, "c")]), 1)
    with pytest.raises(multiprocessing.TimeoutError):
        window.take(0)
    window.arrived(0, of([(True, "a"), (True, "b")]), 2)
    assert [window.take(0)[1] for _ in range(3)] == ["a", "b", "c"]
    with pytest.raises(StopIteration):
        window.take(0)


def test_results_are_taken_as_they_come_if_the_order_does_not_matter(pool: Pool) -> None:
    results = IMapIterator[str](window := Window(pool, ordered=False))
    window.submits(2, None)
    window.ended()
    window.arrived(1, of([(True, "b")]), 1)
    window.arrived(0, of([(False, LookupError("a"))]), 1)
    assert next(results) == "b"
    with pytest.raises(LookupError):
        next(results)
    assert list(results) == []


def test_an_imap_is_a_call_until_its_last_result_has_come(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    window.submits(1, None)
    window.arrived(0, of([(True, 1)]), 1)
    assert pool.calls == 1, "the input may go on"
    window.ended()
    assert pool.calls == 0


def test_small_results_let_it_read_a_thousand_items_ahead(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    assert fill(window) == 64, "nobody knows yet how large they are"
    window.arrived(0, of([(True, None)] * 64), 640)
    assert fill(window) == 1000 - 64
    window.take(0)
    assert fill(window) == 1


def test_large_results_let_it_read_fewer_items_ahead(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    fill(window, limit=5)
    window.arrived(0, of([(True, None)] * 5), 5 * MEGABYTE)
    assert fill(window) == 11
    for _ in range(3):
        window.take(0)
    assert fill(window) == 3


def test_large_arguments_let_it_read_fewer_items_ahead(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    window.submits(1, MEGABYTE)
    window.arrived(0, of([(True, None)]), 10)
    assert fill(window, argument_bytes=MEGABYTE) == 15


def test_however_large_results_are_the_slots_have_work(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    window.submits(1, None)
    window.arrived(0, of([(True, None)]), 1000 * MEGABYTE)
    assert fill(window, slots=4) == 7, "two for each slot, and one is here"


def test_a_buffersize_is_what_may_be_submitted_and_not_taken(pool: Pool) -> None:
    window = Window(pool, ordered=True, buffersize=3)
    assert fill(window, slots=8) == 3
    window.arrived(0, of([(True, 1)]), 1)
    assert fill(window, slots=8) == 0
    window.take(0)
    assert fill(window, slots=8) == 1


def test_who_joins_has_all_of_the_input_read(pool: Pool) -> None:
    window = Window(pool, ordered=True)
    window.read_on()
    assert fill(window, limit=5000) == 5000


def test_who_joins_has_no_more_read_than_a_buffersize_allows(pool: Pool) -> None:
    window = Window(pool, ordered=True, buffersize=1)
    window.submits(1, None)
    window.read_on()
    assert not window.wait_for_room(2, 1)
    window.ended()
    window.arrived(0, of([(True, 1)]), 1)
    assert window.take(0) == (True, 1)
    with pytest.raises(StopIteration):
        window.take(0)


def test_who_waits_for_room_is_woken_when_a_result_is_taken(pool: Pool) -> None:
    window = Window(pool, ordered=True, buffersize=1)
    window.submits(1, None)
    window.arrived(0, of([(True, 1)]), 1)
    answers: list[bool] = []
    reader = threading.Thread(target=lambda: answers.append(window.wait_for_room(1, 1)))
    reader.start()
    window.take(0)
    reader.join(30)
    assert answers == [True]


def test_results_that_nobody_can_take_any_more_are_dropped_and_the_calls_go_on(pool: Pool) -> None:
    window = Window(pool, ordered=True, buffersize=2)
    results = IMapIterator[object](window)
    window.submits(2, None)
    window.arrived(0, of([(True, "held")]), 1)
    del results
    assert not window._arrived
    assert window._waiting_bytes == 0
    assert room(window)
    window.arrived(1, of([(True, "late")]), 1)
    assert not window._arrived
    window.ended()
    assert pool.calls == 0


def test_an_imaps_bar_is_told_of_all_items_and_closed_once(pool: Pool) -> None:
    bar = Bar()
    window = Window(pool, ordered=False, bar=bar)
    window.submits(2, None)
    window.arrived(0, of([(True, 1)]), 1)
    window.ended()
    assert not bar.closed
    window.arrived(1, of([(False, LookupError())]), 0)
    assert (bar.figures, bar.closed) == ([(1, 0), (1, 1)], 1)
