"""``Pool`` beside the standard library's: what holds for one holds for the other."""

import gc
import itertools
import multiprocessing
import pickle
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

import pytest

import multihost
from tests.contract import tasks
from tests.contract.conftest import CONTEXT, STANDARD, Place
from tests.integration.cluster import wait_until


def numbers_and_an_error(count: int) -> Iterator[int]:
    yield from range(count)
    raise LookupError("in the input")


# --- apply -----------------------------------------------------------------------------------------------------------


def test_apply_takes_arguments_and_keywords(pool: Any) -> None:
    assert pool.apply(tasks.total, (1, 2, 3), {"scale": 2}) == 12
    assert pool.apply(tasks.square, [4]) == 16
    assert pool.apply(tasks.total) == 0


def test_apply_async_has_a_result_that_can_be_asked(pool: Any) -> None:
    result = pool.apply_async(tasks.square, (7,))
    assert result.get(30) == 49
    assert result.ready()
    assert result.successful()
    assert result.wait() is None
    assert result.get() == 49


def test_a_result_that_is_not_ready_says_so(pool: Any, place: Place) -> None:
    result = pool.apply_async(tasks.mark_and_wait, (place.task, "begun"))
    assert not result.ready()
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    result.wait(0.02)
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.02)
    (place.test / "go").touch()
    assert result.get(30) == "begun"


def test_the_callback_gets_the_result_and_the_error_callback_the_exception(pool: Any) -> None:
    seen: list[object] = []
    calls = {"callback": seen.append, "error_callback": seen.append}
    assert pool.apply_async(tasks.square, (5,), **calls).get(30) == 25
    assert seen == [25]
    with pytest.raises(ValueError, match="on purpose"):
        pool.apply_async(tasks.fail, **calls).get(30)
    assert [type(value) for value in seen] == [int, ValueError]


def test_an_exception_is_itself_and_shows_the_traceback_from_its_process(pool: Any) -> None:
    result = pool.apply_async(tasks.fail, ("told so",))
    with pytest.raises(ValueError, match="told so") as caught:
        result.get(30)
    assert not result.successful()
    assert "in fail" in "".join(traceback.format_exception(caught.value))
    assert "in fail" in str(caught.value.__cause__)


def test_what_cannot_be_sent_is_the_error_of_its_call(pool: Any) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pool.apply_async(tasks.identity, (threading.Lock(),)).get(30)
    assert pool.apply(tasks.square, (3,)) == 9


def test_a_result_that_cannot_travel_is_a_maybe_encoding_error(pool: Any) -> None:
    with pytest.raises(MaybeEncodingError) as caught:
        pool.apply(tasks.a_lock)
    assert "lock" in caught.value.value
    assert "pickle" in caught.value.exc
    assert pool.apply(tasks.square, (3,)) == 9


@pytest.mark.parametrize(
    ("function", "arguments", "error"),
    [
        (tasks.exit_by_exception, (3,), SystemExit),
        (tasks.interrupt, (), KeyboardInterrupt),
        (tasks.exit_at_once, (0,), multihost.WorkerDied),
        (tasks.kill_oneself, (), multihost.WorkerDied),
        (tasks.fail_awkwardly, (), multihost.RemoteError),
    ],
)
def test_where_the_standard_librarys_pool_hangs_ours_ends_in_an_error(
    pool: Any, is_ours: bool, function: Callable[..., object], arguments: tuple[object, ...], error: type[BaseException]
) -> None:
    if not is_ours:
        return  # it waits for ever: there is nothing to compare with
    with pytest.raises(error):
        pool.apply_async(function, arguments).get(60)
    assert pool.apply(tasks.square, (3,)) == 9


# --- map -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [None, 1, 3, 1000])
def test_map_keeps_the_order_whatever_its_chunks(pool: Any, chunksize: int | None) -> None:
    assert pool.map(tasks.square, range(100), chunksize) == [x * x for x in range(100)]
    assert pool.map(tasks.square, iter(range(100)), chunksize) == [x * x for x in range(100)]
    assert pool.map(tasks.square, [], chunksize) == []


def test_map_async_calls_back_once_with_the_whole_list(pool: Any) -> None:
    seen: list[object] = []
    result = pool.map_async(tasks.square, range(10), callback=seen.append)
    assert result.get(30) == [x * x for x in range(10)]
    assert seen == [[x * x for x in range(10)]]


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_map_raises_the_exception_of_an_item(pool: Any, chunksize: int | None) -> None:
    seen: list[BaseException] = []
    result = pool.map_async(tasks.fail_at_7, range(20), chunksize, error_callback=seen.append)
    with pytest.raises(ValueError, match="7"):
        result.get(30)
    assert [str(error) for error in seen] == ["7"]
    assert not result.successful()


def test_what_the_input_of_map_raises_is_raised_in_the_caller(pool: Any) -> None:
    with pytest.raises(LookupError, match="in the input"):
        pool.map(tasks.square, numbers_and_an_error(5))
    with pytest.raises(TypeError, match="iterable"):
        pool.map(tasks.square, 5)


def test_starmap_spreads_the_arguments(pool: Any) -> None:
    pairs = [(a, b) for a in range(5) for b in range(1, 5)]
    assert pool.starmap(tasks.divide, pairs) == [a / b for a, b in pairs]
    assert pool.starmap(tasks.divide, iter(pairs), 3) == [a / b for a, b in pairs]
    seen: list[object] = []
    assert pool.starmap_async(pow, [(2, 3), (3, 2)], callback=seen.append).get(30) == [8, 9]
    assert seen == [[8, 9]]


# --- imap ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 4, 1000])
def test_imap_yields_in_order_and_its_twin_in_any(pool: Any, chunksize: int) -> None:
    assert list(pool.imap(tasks.square, range(50), chunksize)) == [x * x for x in range(50)]
    assert sorted(pool.imap_unordered(tasks.square, range(50), chunksize)) == [x * x for x in range(50)]
    assert list(pool.imap(tasks.square, [], chunksize)) == []
    assert list(pool.imap_unordered(tasks.square, iter([]), chunksize)) == []


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_a_chunk_of_imap_has_one_item_at_least(pool: Any, method: str) -> None:
    for chunksize in (0, -1):
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
            getattr(pool, method)(tasks.square, [1], chunksize)


def test_a_chunk_of_map_has_one_item_at_least_with_ours(pool: Any, is_ours: bool) -> None:
    """The standard library's takes 0 and returns as many None as there are items."""
    if is_ours:
        with pytest.raises(ValueError, match=r"Chunksize must be 1\+"):
            pool.map(tasks.square, [1, 2], 0)
    else:
        assert pool.map(tasks.square, [1, 2], 0) == [None, None]


@pytest.mark.parametrize("chunksize", [1, 3])
def test_imap_raises_an_exception_in_its_place_and_goes_on(pool: Any, chunksize: int, is_ours: bool) -> None:
    results = pool.imap(tasks.fail_at_7, range(12), chunksize)
    seen: list[object] = []
    while True:
        try:
            seen.append(next(results))
        except StopIteration:
            break
        except ValueError as error:
            seen.append(str(error))
    if is_ours or chunksize == 1:
        assert seen == [0, 1, 2, 3, 4, 5, 6, "7", 8, 9, 10, 11]
    else:  # with chunks the standard library's fails for the whole chunk, and is then at its end
        assert seen == [0, 1, 2, 3, 4, 5, "7"]


@pytest.mark.parametrize("method", ["imap", "imap_unordered"])
def test_what_the_input_of_imap_raises_comes_after_what_it_gave(pool: Any, method: str) -> None:
    results = getattr(pool, method)(tasks.square, numbers_and_an_error(4))
    seen = []
    with pytest.raises(LookupError, match="in the input"):  # noqa: PT012
        for _ in range(5):
            seen.append(next(results))  # noqa: PERF401
    assert len(seen) == 4 or method == "imap_unordered"


def test_next_times_out_and_the_result_can_be_had_later(pool: Any, place: Place) -> None:
    results = pool.imap(tasks.mark_and_wait_at, [(place.task, "one"), (place.task, "two")])
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.05)
    (place.test / "go").touch()
    assert [results.next(30), results.next(30)] == ["one", "two"]
    with pytest.raises(StopIteration):
        results.next(30)
    assert iter(results) is results


def test_imap_is_lazy_enough_for_endless_input_with_ours(own_pool: Any, is_ours: bool) -> None:
    """The standard library's reads on and on, until memory ends."""
    if is_ours:
        results = own_pool.imap(tasks.square, itertools.count())
        assert [next(results) for _ in range(3000)] == [x * x for x in range(3000)]


# --- processes -------------------------------------------------------------------------------------------------------


def test_an_initializer_is_called_once_in_each_process(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2, tasks.initialize, ("once",))
    assert set(map(tuple, pool.map(tasks.initialized, range(20), 1))) == {("once",)}


def test_a_process_runs_no_more_tasks_than_allowed(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1, None, (), 2)
    ran = Counter(pool.apply(tasks.process) for _ in range(6))
    assert max(ran.values()) == 2


def test_chunks_count_as_one_task_in_a_process_lifetime(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1, maxtasksperchild=1)
    ran = Counter(pool.map(tasks.process, range(12), chunksize=4))
    assert list(ran.values()) == [4, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"processes": 0}, ValueError),
        ({"processes": -1}, ValueError),
        ({"initializer": 3}, TypeError),
        ({"maxtasksperchild": 0}, ValueError),
        ({"maxtasksperchild": "2"}, ValueError),
    ],
)
def test_wrong_arguments_are_errors(
    make_pool: Callable[..., Any], arguments: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        make_pool(**arguments)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_closed_pool_finishes_what_it_has_and_takes_nothing_more(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(20)]
    pool.close()
    for call in (pool.apply, pool.apply_async):
        with pytest.raises(ValueError, match="Pool not running"):
            call(tasks.square, (1,))
    for call in (pool.map, pool.map_async, pool.imap, pool.imap_unordered, pool.starmap):
        with pytest.raises(ValueError, match="Pool not running"):
            call(tasks.square, [1])
    pool.join()
    assert [result.get(0) for result in results] == [n * n for n in range(20)]


def test_join_before_close_is_an_error(pool: Any) -> None:
    with pytest.raises(ValueError, match="Pool is still running"):
        pool.join()


def test_terminate_does_not_wait_for_what_is_left(make_pool: Callable[..., Any], place: Place) -> None:
    pool = make_pool(2)
    pool.map_async(tasks.mark_and_wait_at, [(place.task, f"mark-{n}") for n in range(1000)], 1)
    wait_until(lambda: list(place.test.glob("mark-*")), "a task had begun")
    pool.terminate()
    pool.join()
    (place.test / "go").touch()
    assert len(list(place.test.glob("mark-*"))) < 100


def test_a_with_block_ends_the_pool(make_pool: Callable[..., Any]) -> None:
    with make_pool(2) as pool:
        assert pool.map(tasks.square, [1, 2]) == [1, 4]
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(tasks.square, (1,))
    with pytest.raises(ValueError, match="Pool not running"):
        pool.__enter__()


def test_a_pool_cannot_be_pickled(pool: Any) -> None:
    with pytest.raises(NotImplementedError, match="cannot be passed between processes or pickled"):
        pickle.dumps(pool)


def test_a_running_pool_that_is_dropped_is_a_resource_warning(kind: str, where: dict[str, Any]) -> None:
    made = CONTEXT.Pool(1) if kind == STANDARD else multihost.Pool(1, **where)
    assert made.apply(tasks.square, (3,)) == 9
    gone = weakref.ref(made)
    with pytest.warns(ResourceWarning, match="unclosed running"):  # noqa: PT031
        del made
        gc.collect()
    assert gone() is None


def test_results_are_collected_with_those_who_hold_them(pool: Any) -> None:
    result = pool.apply_async(tasks.Kept, (1,))
    gone = weakref.ref(result.get(30))
    pool.apply(tasks.square, (2,))  # whoever delivered it has gone on
    del result
    wait_until(lambda: gone() is None, "the result was collected")


def test_many_threads_use_one_pool(pool: Any) -> None:
    found: list[list[int]] = []

    def use(number: int) -> None:
        found.append(pool.map(tasks.square, range(number, number + 20), 3))

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [[x * x for x in range(n, n + 20)] for n in range(8)]


# --- beyond the standard library -------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", range(10))
def test_a_chunk_whose_process_dies_repeats_the_item_that_ran_and_no_other(
    pool: Any, is_ours: bool, place: Place, victim: int
) -> None:
    """The standard library's pool waits for ever for a chunk whose process has died."""
    if not is_ours:
        return
    items = [(place.task, number, victim) for number in range(10)]
    assert pool.starmap(tasks.die_once, items, chunksize=10) == [n * n for n in range(10)]
    runs = [(place.test / f"runs-{number}").stat().st_size for number in range(10)]
    assert runs == [2 if number == victim else 1 for number in range(10)]


def test_a_coroutine_function_runs_as_a_coroutine(pool: Any, is_ours: bool) -> None:
    """The standard library's gives back the coroutine, and that cannot travel."""
    if is_ours:
        assert pool.map(tasks.in_a_coroutine, range(5)) == [0, 1, 4, 9, 16]
    else:
        with pytest.raises(MaybeEncodingError):
            pool.apply(tasks.in_a_coroutine, (5,))
