"""``Executor.map`` in detail: order, chunks, time, laziness, errors, what is cancelled and kept."""

import gc
import itertools
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import tasks
from tests.contract.conftest import Place
from tests.integration.cluster import wait_until

CHUNKS = pytest.mark.parametrize("chunksize", [1, 2, 5, 100])


@CHUNKS
def test_several_iterables_side_by_side_end_with_the_shortest(executor: Any, chunksize: int) -> None:
    results = executor.map(pow, range(1, 9), itertools.repeat(2), iter(range(100, 104)), chunksize=chunksize)
    assert list(results) == [1, 4, 9, 16]


@CHUNKS
def test_results_before_an_error_come_and_then_the_end(executor: Any, is_ours: bool, chunksize: int) -> None:
    """With chunks, the standard library's loses the results before it in its chunk."""
    results = executor.map(tasks.fail_at_7, range(12), chunksize=chunksize)
    before: list[int] = []
    with pytest.raises(ValueError, match="7"):
        before.extend(iter(lambda: next(results), None))
    whole = 7 if is_ours else 7 // chunksize * chunksize
    assert before == list(range(whole))
    assert list(results) == []


def test_the_results_are_a_generator(executor: Any) -> None:
    results = executor.map(tasks.square, range(3))
    assert iter(results) is results
    assert next(results) == 0
    results.close()
    assert list(results) == []


def test_the_time_is_up_in_chunks_too(executor: Any, place: Place) -> None:
    results = executor.map(tasks.mark_and_wait, [place.task] * 3, "abc", timeout=0.1, chunksize=2)
    with pytest.raises(TimeoutError):
        next(results)


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_time_at_all_is_up_at_once(executor: Any, place: Place, timeout: float) -> None:
    results = executor.map(tasks.mark_and_wait, [place.task], ["begun"], timeout=timeout)
    with pytest.raises(TimeoutError):
        next(results)


def test_all_of_the_input_is_read_at_once(executor: Any) -> None:
    items = iter(range(50))
    results = executor.map(tasks.square, items)
    assert list(items) == []
    assert list(results) == [n * n for n in range(50)]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_with_a_buffersize_no_more_of_the_input_is_read_than_that(executor: Any, is_ours: bool, chunksize: int) -> None:
    """The standard library has it from Python 3.14 on."""
    if not is_ours and sys.version_info < (3, 14):
        return
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = executor.map(tasks.square, numbers(), buffersize=2, chunksize=chunksize)
    assert len(read) == 2 * chunksize
    assert [next(results) for _ in range(50)] == [n * n for n in range(50)]
    assert len(read) <= 50 + 3 * chunksize
    results.close()


@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError)]
)
def test_a_wrong_buffersize_is_an_error_at_once(
    executor: Any, is_ours: bool, buffersize: Any, error: type[Exception]
) -> None:
    if is_ours or sys.version_info >= (3, 14):
        with pytest.raises(error, match="buffersize must be"):
            executor.map(tasks.square, [1], buffersize=buffersize)


@pytest.mark.parametrize("chunksize", [0, -1])
def test_a_wrong_chunksize_is_an_error_at_once(executor: Any, chunksize: int) -> None:
    with pytest.raises(ValueError, match=r"chunksize must be >= 1\."):
        executor.map(tasks.square, [1], chunksize=chunksize)


def test_what_is_no_iterable_is_an_error_at_once(executor: Any) -> None:
    with pytest.raises(TypeError):
        executor.map(tasks.square, 3)


def test_an_error_cancels_what_has_not_begun(own_executor: Any, place: Place) -> None:
    results = own_executor.map(tasks.first_fails, [place.task] * 200, range(200))
    with pytest.raises(ValueError, match="the first"):
        next(results)
    (place.test / "go").touch()
    own_executor.shutdown()
    assert len(list(place.test.glob("mark-*"))) < 100


def test_a_map_that_is_dropped_cancels_what_has_not_begun(own_executor: Any, place: Place) -> None:
    results = own_executor.map(tasks.mark_and_go_on, [place.task] * 200, range(200))
    assert next(results) == 0
    del results
    gc.collect()
    (place.test / "go").touch()
    own_executor.shutdown()
    assert len(list(place.test.glob("mark-*"))) < 100


@CHUNKS
def test_a_result_that_was_taken_is_not_kept(executor: Any, chunksize: int) -> None:
    results = executor.map(tasks.Kept, range(6), chunksize=chunksize)
    for _ in range(6):
        gone = weakref.ref(next(results))
        assert gone() is None


def test_items_that_were_sent_are_not_kept(executor: Any) -> None:
    items = [tasks.Kept(number) for number in range(6)]
    gone = [weakref.ref(item) for item in items]
    results = executor.map(tasks.number_of, items)
    del items
    assert list(results) == [0, 1, 2, 3, 4, 5]
    executor.submit(tasks.square, 2).result(30)  # whoever sent them has gone on
    gc.collect()
    wait_until(lambda: all(ref() is None for ref in gone), "the items were collected")


def test_only_the_item_that_cannot_be_sent_fails(executor: Any) -> None:
    results = executor.map(tasks.identity, [1, tasks.Fussy("raise", True), 3])
    assert next(results) == 1
    with pytest.raises(ValueError, match="on purpose"):
        next(results)


def test_map_after_shutdown_is_an_error(make_executor: Callable[..., Any]) -> None:
    executor = make_executor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(tasks.square, [1])
