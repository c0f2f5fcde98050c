"""Futures of an executor in detail: states, callbacks, ``wait``, ``as_completed``, asyncio, what is kept."""

import asyncio
import gc
import os
import signal
import threading
import weakref
from collections.abc import Callable
from concurrent import futures
from typing import Any

import pytest

from tests.contract import tasks
from tests.contract.conftest import Place
from tests.integration.cluster import wait_until


def cancelled_one(executor: Any, place: Place) -> tuple[list["futures.Future[Any]"], "futures.Future[Any]"]:
    """What occupies both processes and the queue behind them, and a call that was cancelled before it began."""
    waiting = [executor.submit(tasks.mark_and_wait, place.task, f"busy-{n}") for n in range(2)]
    wait_until(lambda: len(list(place.test.glob("busy-*"))) == 2, "both processes were busy")
    waiting += [executor.submit(tasks.square, n) for n in range(10)]  # some of these may be with a process already
    last = executor.submit(tasks.square, 11)
    assert last.cancel()
    return waiting, last


# --- states ----------------------------------------------------------------------------------------------------------


def test_a_future_is_one_of_the_standard_librarys(executor: Any) -> None:
    future = executor.submit(tasks.square, 3)
    assert isinstance(future, futures.Future)
    assert future.result(timeout=30) == 9
    assert future.exception(timeout=0) is None
    assert "state=finished returned int" in repr(future)
    failed = executor.submit(tasks.fail)
    futures.wait([failed], timeout=30)
    assert "state=finished raised ValueError" in repr(failed)


def test_a_cancelled_future_says_so_everywhere(executor: Any, place: Place) -> None:
    waiting, last = cancelled_one(executor, place)
    assert (last.cancelled(), last.done(), last.running()) == (True, True, False)
    for ask in (last.result, last.exception):
        with pytest.raises(futures.CancelledError):
            ask(0)
    assert last.cancel()  # again
    assert "state=cancelled" in repr(last)
    (place.test / "go").touch()
    assert futures.wait([*waiting, last], timeout=30).not_done == set()


def test_a_future_that_has_ended_cannot_be_cancelled(executor: Any) -> None:
    good, bad = executor.submit(tasks.square, 3), executor.submit(tasks.fail)
    futures.wait([good, bad], timeout=30)
    for future in (good, bad):
        assert not future.cancel()
        assert not future.cancelled()
        assert future.done()
        assert not future.running()
    assert good.result(0) == 9


def test_a_running_future_is_known_to_run_once_it_could_not_be_cancelled(executor: Any, place: Place) -> None:
    future = executor.submit(tasks.mark_and_wait, place.task, "begun")
    wait_until((place.test / "begun").exists, "the call ran")
    assert not future.cancel()
    assert future.running()
    assert not future.done()
    (place.test / "go").touch()
    assert future.result(30) == "begun"
    assert not future.running()


def test_what_waits_for_a_free_process_can_be_cancelled(own_executor: Any, is_ours: bool, place: Place) -> None:
    """The standard library's puts a few aside for its processes, and takes those for running."""
    for name in ("first", "second"):
        own_executor.submit(tasks.mark_and_wait, place.task, name)
    wait_until(lambda: len(list(place.test.iterdir())) == 2, "both processes were busy")
    queued = [own_executor.submit(tasks.square, n) for n in range(20)]
    if not is_ours:
        wait_until(queued[0].running, "it was put aside")
    assert queued[0].cancel() is is_ours
    assert not is_ours or all(future.cancel() for future in queued)
    assert queued[-1].cancel()


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_a_future_without_patience_times_out_at_once(executor: Any, place: Place, timeout: float) -> None:
    future = executor.submit(tasks.mark_and_wait, place.task, "begun")
    for ask in (future.result, future.exception):
        with pytest.raises(TimeoutError):
            ask(timeout)
    (place.test / "go").touch()
    assert future.result(30) == "begun"
    assert future.result(timeout) == "begun"


def test_an_error_is_raised_by_every_result(executor: Any) -> None:
    future = executor.submit(tasks.fail)
    for _ in range(3):
        with pytest.raises(ValueError, match="on purpose"):
            future.result(30)
    assert isinstance(future.exception(0), ValueError)


def test_several_threads_wait_for_one_future(executor: Any, place: Place) -> None:
    future = executor.submit(tasks.mark_and_wait, place.task, "begun")
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(future.result(30))) for _ in range(5)]
    for thread in threads:
        thread.start()
    (place.test / "go").touch()
    for thread in threads:
        thread.join(30)
    assert found == ["begun"] * 5


def test_ctrl_c_interrupts_who_waits_and_nothing_else(executor: Any, place: Place) -> None:
    future = executor.submit(tasks.mark_and_wait, place.task, "begun")
    wait_until((place.test / "begun").exists, "the call ran")
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        future.result(30)
    (place.test / "go").touch()
    assert future.result(30) == "begun"


def test_stop_iteration_of_a_task_is_its_exception(executor: Any) -> None:
    with pytest.raises(StopIteration, match="in a task"):
        executor.submit(tasks.stop_iteration_at_2, 2).result(30)
    with pytest.raises(RuntimeError, match="StopIteration"):
        list(executor.map(tasks.stop_iteration_at_2, range(4)))


# --- callbacks -------------------------------------------------------------------------------------------------------


def test_callbacks_are_called_with_the_future_whatever_its_end(executor: Any, place: Place) -> None:
    waiting, last = cancelled_one(executor, place)
    seen: list[Any] = []
    last.add_done_callback(seen.append)
    assert seen == [last]
    (place.test / "go").touch()
    for future in (executor.submit(tasks.square, 3), executor.submit(tasks.fail)):
        future.add_done_callback(seen.append)
        futures.wait([future], timeout=30)
        wait_until(lambda future=future: seen[-1] is future, "the callback was called")  # type: ignore[misc]
    futures.wait(waiting, timeout=30)


def test_a_callback_of_a_queued_call_is_called_by_cancel(executor: Any, place: Place) -> None:
    waiting, _ = cancelled_one(executor, place)
    queued = executor.submit(tasks.square, 5)
    seen: list[Any] = []
    queued.add_done_callback(seen.append)
    assert queued.cancel()
    assert seen == [queued]
    (place.test / "go").touch()
    futures.wait(waiting, timeout=30)


def test_a_callback_may_ask_and_submit(executor: Any) -> None:
    further: list[Any] = []
    all_done = threading.Event()

    def go_on(future: "futures.Future[int]") -> None:
        if len(further) < 5:
            further.append(future.result())
            executor.submit(tasks.square, len(further)).add_done_callback(go_on)
        else:
            all_done.set()

    executor.submit(tasks.square, 0).add_done_callback(go_on)
    assert all_done.wait(30)
    assert further == [0, 1, 4, 9, 16]


def test_a_callback_may_add_a_callback(executor: Any) -> None:
    seen: list[Any] = []
    future = executor.submit(tasks.square, 3)
    future.add_done_callback(lambda done: done.add_done_callback(seen.append))
    wait_until(lambda: seen == [future], "the second was called")


def test_a_late_callback_that_raises_is_logged(executor: Any, caplog: pytest.LogCaptureFixture) -> None:
    future = executor.submit(tasks.square, 3)
    futures.wait([future], timeout=30)
    future.add_done_callback(lambda done: tasks.fail("of a late callback"))
    assert "of a late callback" in caplog.text
    assert future.result() == 9


# --- wait and as_completed -------------------------------------------------------------------------------------------


def test_wait_for_all_takes_results_errors_and_what_was_cancelled(executor: Any, place: Place) -> None:
    waiting, last = cancelled_one(executor, place)
    failed = executor.submit(tasks.fail)
    (place.test / "go").touch()
    done, not_done = futures.wait([*waiting, last, failed, last], timeout=30)
    assert done == {*waiting, last, failed}
    assert not_done == set()


def test_wait_for_the_first_exception_waits_for_all_if_there_is_none(executor: Any) -> None:
    several = [executor.submit(tasks.square, n) for n in range(10)]
    assert futures.wait(several, timeout=30, return_when=futures.FIRST_EXCEPTION) == (set(several), set())


def test_wait_for_the_first_exception_returns_at_once_if_there_was_one(executor: Any, place: Place) -> None:
    failed = executor.submit(tasks.fail)
    assert failed.exception(30) is not None
    waiting = executor.submit(tasks.mark_and_wait, place.task, "begun")
    for when in (futures.FIRST_EXCEPTION, futures.FIRST_COMPLETED):
        assert futures.wait([waiting, failed], timeout=30, return_when=when) == ({failed}, {waiting})
    (place.test / "go").touch()
    assert waiting.result(30) == "begun"


def test_as_completed_gives_what_is_done_first_and_each_once(executor: Any, place: Place) -> None:
    waiting = executor.submit(tasks.mark_and_wait, place.task, "begun")
    quick = executor.submit(tasks.square, 3)
    found = futures.as_completed([waiting, quick, quick, waiting], timeout=30)
    assert next(found) is quick
    (place.test / "go").touch()
    assert list(found) == [waiting]


def test_as_completed_times_out_after_what_is_done(executor: Any, place: Place) -> None:
    done = executor.submit(tasks.square, 3)
    done.result(30)
    waiting = executor.submit(tasks.mark_and_wait, place.task, "begun")
    found = futures.as_completed([waiting, done], timeout=0.02)
    assert next(found) is done
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        next(found)
    (place.test / "go").touch()
    assert waiting.result(30) == "begun"


def test_as_completed_takes_futures_of_several_executors(make_executor: Callable[..., Any], executor: Any) -> None:
    other = make_executor(1)
    both = [executor.submit(tasks.square, 3), other.submit(tasks.square, 4)]
    assert sorted(future.result() for future in futures.as_completed(both, timeout=30)) == [9, 16]


# --- asyncio ---------------------------------------------------------------------------------------------------------


def test_an_exception_arrives_in_a_coroutine(executor: Any) -> None:
    async def call() -> None:
        await asyncio.get_running_loop().run_in_executor(executor, tasks.fail, "told so")

    with pytest.raises(ValueError, match="told so"):
        asyncio.run(call())


def test_a_coroutine_that_is_cancelled_cancels_what_is_queued(executor: Any, place: Place) -> None:
    waiting, _ = cancelled_one(executor, place)
    queued = executor.submit(tasks.leave_a_mark, place.task, "ran")

    async def call() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(queued), 0.02)

    asyncio.run(call())
    wait_until(queued.cancelled, "the call was cancelled")
    (place.test / "go").touch()
    futures.wait(waiting, timeout=30)
    assert executor.submit(tasks.square, 3).result(30) == 9
    assert not (place.test / "ran").exists()


def test_a_loop_is_free_while_its_calls_run(executor: Any, place: Place) -> None:
    async def call() -> str:
        running = asyncio.get_running_loop().run_in_executor(executor, tasks.mark_and_wait, place.task, "begun")
        await asyncio.to_thread(wait_until, (place.test / "begun").exists, "the call ran")
        (place.test / "go").touch()
        return await asyncio.wait_for(running, 30)

    assert asyncio.run(call()) == "begun"


def test_a_future_of_ours_is_awaited_as_it_is(executor: Any, is_ours: bool) -> None:
    """The standard library's wants ``asyncio.wrap_future``."""

    async def call() -> int:
        return int(await executor.submit(tasks.square, 3))

    if is_ours:
        assert asyncio.run(call()) == 9
    else:
        with pytest.raises(TypeError, match="await"):
            asyncio.run(call())


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_neither_arguments_nor_results_are_kept_by_who_has_them_no_more(executor: Any) -> None:
    items = [tasks.Kept(number) for number in range(10)]
    gone = [weakref.ref(item) for item in items]
    several = [executor.submit(tasks.identity, item) for item in items]
    gone += [weakref.ref(future.result(30)) for future in several] + [weakref.ref(future) for future in several]
    del items, several
    executor.submit(tasks.square, 2).result(30)  # whoever brought them has gone on
    gc.collect()
    wait_until(lambda: all(ref() is None for ref in gone), "arguments, results and futures were collected")


def test_as_completed_keeps_no_future_that_it_has_given(executor: Any) -> None:
    several = [executor.submit(tasks.square, n) for n in range(5)]
    futures.wait(several, timeout=30)
    executor.submit(tasks.square, 2).result(30)
    found = futures.as_completed(several)
    del several
    for _ in range(5):
        future = next(found)
        gone = weakref.ref(future)
        del future
        wait_until(lambda gone=gone: gone() is None, "the future was released")  # type: ignore[misc]


def test_a_result_is_in_no_cycle_of_references(executor: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        future = executor.submit(tasks.Kept, 1)
        gone = [weakref.ref(future.result(30)), weakref.ref(future)]
        del future
        executor.submit(tasks.square, 2).result(30)
        wait_until(lambda: all(ref() is None for ref in gone), "future and result were released")
    finally:
        gc.enable()


def test_an_error_that_was_raised_is_in_no_cycle_of_references(executor: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        future = executor.submit(tasks.fail_with_kept)
        try:
            future.result(30)
        except tasks.KeptError as error:
            gone = weakref.ref(error)
        del future
        executor.submit(tasks.square, 2).result(30)
        wait_until(lambda: gone() is None, "the error was released")
    finally:
        gc.enable()
