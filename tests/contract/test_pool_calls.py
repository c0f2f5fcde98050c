"""Calls of a pool in detail: callbacks, results that are waited for, what is kept, signals, threads."""

import gc
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.contract import tasks
from tests.contract.conftest import STANDARD, Place
from tests.integration.cluster import wait_until

# --- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["map_async", "starmap_async"])
def test_only_the_callback_that_fits_is_called_and_once(pool: Any, method: str) -> None:
    good: list[Any] = []
    bad: list[Any] = []
    call = getattr(pool, method)
    items = [(n,) for n in range(10)] if method == "starmap_async" else range(10)
    call(tasks.square, items, 3, good.append, bad.append).get(30)
    with pytest.raises(ValueError, match="7"):
        call(tasks.fail_at_7, items, 3, good.append, bad.append).get(30)
    assert good == [[n * n for n in range(10)]]
    assert [str(error) for error in bad] == ["7"]


def test_a_callback_was_called_when_the_result_is_there(pool: Any) -> None:
    seen: list[Any] = []
    for number in range(50):
        pool.apply_async(tasks.square, (number,), callback=seen.append).wait()
        assert len(seen) == number + 1


def test_a_callback_may_submit(pool: Any) -> None:
    further: list[Any] = []

    def go_on(value: int) -> None:
        further.append(pool.apply_async(tasks.square, (value,)))

    assert pool.apply_async(tasks.square, (3,), callback=go_on).get(30) == 9
    assert further[0].get(30) == 81


def test_the_callback_of_an_empty_map_is_called_with_ours(pool: Any, is_ours: bool) -> None:
    """The standard library's forgets it."""
    seen: list[Any] = []
    result = pool.map_async(tasks.square, [], callback=seen.append)
    assert result.ready()
    assert result.successful()
    assert result.get(30) == []
    assert seen == ([[]] if is_ours else [])


def test_a_callback_that_raises_is_logged_by_ours(
    make_pool: Callable[..., Any], is_ours: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends the standard library's thread that brings results, and nothing comes any more."""
    if not is_ours:
        return
    pool = make_pool(1)
    assert pool.apply_async(tasks.square, (3,), callback=lambda value: tasks.fail("of a callback")).get(30) == 9
    assert pool.apply(tasks.square, (4,)) == 16
    assert "of a callback" in caplog.text


# --- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_get_without_patience_times_out_at_once(pool: Any, place: Place, timeout: float) -> None:
    result = pool.apply_async(tasks.mark_and_wait, (place.task, "begun"))
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(timeout)
    result.wait(timeout)
    assert not result.ready()
    (place.test / "go").touch()
    assert result.get(timeout=30) == "begun"
    assert result.get(timeout) == "begun"


def test_an_error_is_raised_by_every_get(pool: Any) -> None:
    result = pool.apply_async(tasks.fail)
    for _ in range(3):
        with pytest.raises(ValueError, match="on purpose"):
            result.get(30)
    assert result.ready()
    assert not result.successful()


def test_a_map_ends_when_all_its_calls_have_ended_although_the_first_has_failed(pool: Any, place: Place) -> None:
    result = pool.starmap_async(tasks.first_fails, [(place.task, n) for n in range(2)], 1)
    wait_until((place.test / "mark-1").exists, "the second call ran")
    with pytest.raises(multiprocessing.TimeoutError):
        result.get(0.1)
    with pytest.raises(ValueError, match="not ready"):
        result.successful()
    (place.test / "go").touch()
    with pytest.raises(ValueError, match="the first"):
        result.get(30)


def test_several_threads_wait_for_one_result(pool: Any, place: Place) -> None:
    result = pool.apply_async(tasks.mark_and_wait, (place.task, "begun"))
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(result.get(30))) for _ in range(5)]
    for thread in threads:
        thread.start()
    (place.test / "go").touch()
    for thread in threads:
        thread.join(30)
    assert found == ["begun"] * 5


def test_ctrl_c_interrupts_who_waits_and_nothing_else(pool: Any, place: Place) -> None:
    result = pool.apply_async(tasks.mark_and_wait, (place.task, "begun"))
    wait_until((place.test / "begun").exists, "the call ran")
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        result.get(30)
    (place.test / "go").touch()
    assert result.get(30) == "begun"
    assert pool.map(tasks.square, range(5)) == [0, 1, 4, 9, 16]


# --- map -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_what_the_input_raises_half_way_is_raised_at_once(pool: Any, method: str) -> None:
    def items() -> Iterator[tuple[int]]:
        yield (1,)
        raise LookupError("in the input")

    with pytest.raises(LookupError, match="in the input"):
        getattr(pool, method)(tasks.square, items())


@pytest.mark.parametrize("method", ["map", "map_async", "starmap", "starmap_async"])
def test_an_input_that_is_no_iterable_is_an_error_at_once(pool: Any, method: str) -> None:
    with pytest.raises(TypeError, match="not iterable"):
        getattr(pool, method)(tasks.square, 3)


def test_an_item_of_starmap_that_is_no_iterable_is_an_error_of_its_call(pool: Any) -> None:
    with pytest.raises(TypeError):
        pool.starmap(tasks.square, [(1,), 2])
    assert pool.starmap(tasks.square, [[1], (2,), iter([3])]) == [1, 4, 9]


@pytest.mark.parametrize("chunksize", [None, 1, 2])
def test_map_takes_whatever_can_be_iterated(pool: Any, chunksize: int | None) -> None:
    several: list[Any] = [{"a": 1, "b": 2}, "ab", range(3, 9, 2), {4}, [], b"xy", {"c": 0}.items()]
    for items in several:
        assert pool.map(tasks.identity, items, chunksize) == list(items)
        assert pool.map(tasks.identity, iter(items), chunksize) == list(items)


def test_functions_of_every_standard_kind_can_be_called(pool: Any) -> None:
    assert pool.map(abs, [-1, 2]) == [1, 2]
    assert pool.map(str.upper, ["a"]) == ["A"]
    assert pool.map("a-b".split, ["-"]) == [["a", "b"]]
    assert [kept.number for kept in pool.map(tasks.Kept, [1, 2])] == [1, 2]
    assert pool.map(tasks.Adder(3), [1, 2]) == [4, 5]
    assert pool.map(tasks.Adder(3).add, [1, 2]) == [4, 5]


def test_large_values_travel_in_both_directions(pool: Any) -> None:
    value = os.urandom(2_000_000)
    assert pool.apply(tasks.identity, (value,)) == value
    assert pool.map(tasks.identity, [value] * 3) == [value] * 3


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_neither_arguments_nor_results_are_kept_by_who_has_them_no_more(pool: Any) -> None:
    items = [tasks.Kept(number) for number in range(10)]
    gone = [weakref.ref(item) for item in items]
    result = pool.map_async(tasks.identity, items, 3)
    gone += [weakref.ref(kept) for kept in result.get(30)]
    del items, result
    pool.apply(tasks.square, (2,))  # whoever brought them has gone on
    gc.collect()
    wait_until(lambda: all(ref() is None for ref in gone), "arguments and results were collected")


def test_a_result_is_in_no_cycle_of_references(pool: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        result = pool.apply_async(tasks.Kept, (1,), callback=lambda value: None)
        gone = [weakref.ref(result), weakref.ref(result.get(30))]
        del result
        pool.apply(tasks.square, (2,))
        wait_until(lambda: all(ref() is None for ref in gone), "result and value were released")
    finally:
        gc.enable()


def test_an_error_that_was_raised_is_in_no_cycle_of_references(pool: Any, kind: str) -> None:
    gc.collect()
    gc.disable()
    try:
        result = pool.apply_async(tasks.fail_with_kept)
        try:
            result.get(30)
        except tasks.KeptError as error:
            gone = weakref.ref(error)
        del result
        pool.apply(tasks.square, (2,))
        if kind == STANDARD:
            gc.collect()  # its result holds the error, whose traceback holds the frame that holds the result
        wait_until(lambda: gone() is None, "the error was released")
    finally:
        gc.enable()


# --- processes -------------------------------------------------------------------------------------------------------


def test_a_process_of_a_short_life_does_not_keep_close_from_its_end(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2, maxtasksperchild=1)
    results = [pool.apply_async(tasks.square, (n,)) for n in range(10)]
    pool.close()
    pool.join()
    assert [result.get(0) for result in results] == [n * n for n in range(10)]


def test_initargs_may_be_of_any_kind(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1, initializer=tasks.initialize, initargs=["one", "two"])
    assert pool.apply(tasks.initialized) == ["one", "two"]


def test_what_an_initializer_of_ours_raises_is_the_outcome(make_pool: Callable[..., Any], is_ours: bool) -> None:
    """The standard library's starts processes for ever."""
    if is_ours:
        pool = make_pool(1, tasks.fail, ("not ready",))
        with pytest.raises(ValueError, match="not ready"):
            pool.apply_async(tasks.square, (3,)).get(60)


def test_a_pool_says_its_state_and_size(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    assert "state=RUN pool_size=2>" in repr(pool)
    pool.close()
    assert "state=CLOSE" in repr(pool)


def test_no_more_calls_run_at_once_than_there_are_processes(make_pool: Callable[..., Any], place: Place) -> None:
    pool = make_pool(2)
    assert max(pool.starmap(tasks.how_many_at_once, [(place.task, str(n)) for n in range(30)], 1)) <= 2
