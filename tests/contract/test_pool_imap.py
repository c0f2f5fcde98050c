"""``imap`` and ``imap_unordered`` in detail: order, errors of tasks and of the input, laziness, what is kept."""

import gc
import itertools
import multiprocessing
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import tasks
from tests.contract.conftest import Place
from tests.integration.cluster import wait_until

BOTH = pytest.mark.parametrize("method", ["imap", "imap_unordered"])


def numbers_and_an_error(count: int) -> Iterator[int]:
    yield from range(count)
    raise LookupError("in the input")


def outcomes(results: Iterator[Any]) -> list[object]:
    """What the iterator gives, an error as its text, up to its end."""
    found: list[object] = []
    while True:
        try:
            found.append(next(results))
        except StopIteration:
            return found
        except Exception as error:
            found.append(str(error))


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
def test_an_input_that_raises_at_once_is_the_only_outcome(pool: Any, method: str, chunksize: int) -> None:
    assert outcomes(getattr(pool, method)(tasks.square, numbers_and_an_error(0), chunksize)) == ["in the input"]


@pytest.mark.parametrize("chunksize", [1, 2, 4, 5])
def test_an_input_that_raises_half_way_gives_what_it_gave_before(pool: Any, is_ours: bool, chunksize: int) -> None:
    """The standard library's loses the chunk that was being filled."""
    found = outcomes(pool.imap(tasks.square, numbers_and_an_error(9), chunksize))
    whole = 9 if is_ours else 9 // chunksize * chunksize
    assert found == [*(n * n for n in range(whole)), "in the input"]


@BOTH
def test_an_input_that_is_no_iterable_is_an_error(pool: Any, method: str) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        next(getattr(pool, method)(tasks.square, 5))


def test_the_unordered_twin_goes_on_after_an_error(pool: Any) -> None:
    found = outcomes(pool.imap_unordered(tasks.fail_at_7, range(10)))
    assert sorted(found, key=str) == sorted([0, 1, 2, 3, 4, 5, 6, "7", 8, 9], key=str)


@BOTH
def test_the_end_stays_the_end(pool: Any, method: str) -> None:
    results = getattr(pool, method)(tasks.square, [3])
    assert next(results) == 9
    for _ in range(3):
        with pytest.raises(StopIteration):
            next(results)


def test_next_without_patience_times_out_at_once(pool: Any, place: Place) -> None:
    results = pool.imap(tasks.mark_and_wait_at, [(place.task, "one")])
    for timeout in (0, -1, 0.0):
        with pytest.raises(multiprocessing.TimeoutError):
            results.next(timeout)
    (place.test / "go").touch()
    assert results.next(timeout=30) == "one"


@BOTH
def test_several_at_once_do_not_mix(pool: Any, method: str) -> None:
    one, other = getattr(pool, method)(tasks.square, range(20)), getattr(pool, method)(tasks.identity, range(20))
    pairs = [(next(one), next(other)) for _ in range(20)]
    assert sorted(first for first, _ in pairs) == [n * n for n in range(20)]
    assert sorted(second for _, second in pairs) == list(range(20))


@BOTH
def test_the_calls_run_although_nobody_looks(make_pool: Callable[..., Any], place: Place, method: str) -> None:
    pool = make_pool(2)
    results = getattr(pool, method)(tasks.mark_at, [(place.task, f"ran-{n}") for n in range(10)])
    wait_until(lambda: len(list(place.test.glob("ran-*"))) == 10, "every call ran")
    pool.close()
    pool.join()
    assert len(list(results)) == 10


def test_close_and_join_do_not_lose_the_results_of_imap(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    results = pool.imap(tasks.square, range(3000), 10)
    pool.close()
    pool.join()
    assert list(results) == [n * n for n in range(3000)]


def test_a_result_that_was_taken_is_not_kept(pool: Any) -> None:
    results = pool.imap(tasks.Kept, range(5))
    for _ in range(5):
        kept = next(results)
        gone = weakref.ref(kept)
        del kept
        assert gone() is None


def test_items_that_were_sent_are_not_kept(pool: Any) -> None:
    gone = []

    def items() -> Iterator[tasks.Kept]:
        for number in range(5):
            item = tasks.Kept(number)
            gone.append(weakref.ref(item))
            yield item
            del item

    assert list(pool.imap(tasks.number_of, items())) == [0, 1, 2, 3, 4]
    pool.apply(tasks.square, (2,))  # whoever sent them has gone on
    gc.collect()
    wait_until(lambda: all(ref() is None for ref in gone), "the items were collected")


def test_terminate_ends_an_imap_whose_input_goes_on(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    taken = threading.Event()

    def numbers() -> Iterator[int]:
        yield from range(100)
        taken.wait(30)
        yield from range(100)

    results = pool.imap(tasks.square, numbers())
    assert next(results) == 0
    taken.set()
    pool.terminate()
    pool.join()


def test_stop_iteration_of_a_task_looks_like_the_end(pool: Any) -> None:
    assert list(pool.imap(tasks.stop_iteration_at_2, range(5))) == [0, 1]


def test_stop_iteration_in_map_is_an_exception_with_ours(pool: Any, is_ours: bool) -> None:
    """The standard library's takes it for the end of the chunk, and returns a list that is too short."""
    if is_ours:
        with pytest.raises(StopIteration, match="in a task"):
            pool.map(tasks.stop_iteration_at_2, range(5), 5)
    else:
        assert pool.map(tasks.stop_iteration_at_2, range(5), 5) == [0, 1]


@BOTH
def test_stop_iteration_in_a_chunk_loses_nothing_with_ours(pool: Any, is_ours: bool, method: str) -> None:
    """The standard library's takes it for the end of the chunk, whose other results never come."""
    results = getattr(pool, method)(tasks.stop_iteration_at_2, range(5), 5)
    came = []
    for _ in range(5):
        try:
            came.append(next(results))
        except StopIteration as error:
            came.append(error.value)
    assert came == ([0, 1, "in a task", 3, 4] if is_ours else [0, 1, None, None, None])


# --- buffersize, which the standard library has from Python 3.15 on --------------------------------------------------

HAS_BUFFERSIZE = sys.version_info >= (3, 15)


@BOTH
@pytest.mark.parametrize("chunksize", [1, 3])
def test_no_more_of_the_input_is_read_than_the_buffersize(
    make_pool: Callable[..., Any], is_ours: bool, method: str, chunksize: int
) -> None:
    if not (is_ours or HAS_BUFFERSIZE):
        return
    pool = make_pool(2)
    read: list[int] = []

    def numbers() -> Iterator[int]:
        for number in itertools.count():
            read.append(number)
            yield number

    results = getattr(pool, method)(tasks.square, numbers(), chunksize, buffersize=2)
    for taken in range(1, 40):
        next(results)
        assert len(read) <= taken + 3 * chunksize
    pool.terminate()
    pool.join()


@BOTH
@pytest.mark.parametrize(
    ("buffersize", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("2", TypeError)]
)
def test_a_wrong_buffersize_is_an_error_at_once(
    pool: Any, is_ours: bool, method: str, buffersize: Any, error: type[Exception]
) -> None:
    if is_ours or HAS_BUFFERSIZE:
        with pytest.raises(error, match="buffersize must be"):
            getattr(pool, method)(tasks.square, [1], buffersize=buffersize)


@BOTH
def test_all_results_come_whatever_the_buffersize(pool: Any, is_ours: bool, method: str) -> None:
    if is_ours or HAS_BUFFERSIZE:
        for buffersize in (1, 2, 100):
            found = list(getattr(pool, method)(tasks.square, range(20), 1, buffersize))
            assert sorted(found) == [n * n for n in range(20)]
