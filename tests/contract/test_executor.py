"""``Executor`` beside the standard library's ``ProcessPoolExecutor``: what holds for one holds for the other."""

import asyncio
import gc
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

import multihost
from tests.contract import tasks
from tests.contract.conftest import CONTEXT, STANDARD, Place
from tests.integration.cluster import wait_until


def block(executor: Any, place: Place) -> list["futures.Future[str]"]:
    """Two calls that occupy both processes until the file ``go`` is there."""
    blocking = [executor.submit(tasks.mark_and_wait, place.task, f"busy-{n}", "go") for n in range(2)]
    wait_until(lambda: len(list(place.test.glob("busy-*"))) == 2, "both processes were busy")
    return blocking


def test_a_submitted_call_has_its_result(executor: Any) -> None:
    assert executor.submit(tasks.square, 3).result(30) == 9


def test_keyword_arguments_arrive(executor: Any) -> None:
    assert executor.submit(int, "ff", base=16).result(30) == 255


def test_map_keeps_the_order(executor: Any) -> None:
    assert list(executor.map(tasks.square, range(50))) == [x * x for x in range(50)]


def test_map_of_several_iterables_ends_with_the_shortest(executor: Any) -> None:
    assert list(executor.map(pow, [2, 3, 4], [5, 2])) == [32, 9]


def test_map_times_out(executor: Any, place: Place) -> None:
    blocking = block(executor, place)
    with pytest.raises(futures.TimeoutError):
        list(executor.map(tasks.square, range(4), timeout=0.1))
    (place.test / "go").touch()
    futures.wait(blocking, timeout=30)


def test_an_exception_is_raised_as_itself_with_the_remote_traceback(executor: Any) -> None:
    future = executor.submit(tasks.fail, "told so")
    with pytest.raises(ValueError, match="told so") as caught:
        future.result(30)
    assert "in fail" in str(caught.value.__cause__)
    assert isinstance(future.exception(), ValueError)


def test_a_queued_call_can_be_cancelled_and_never_runs(executor: Any, place: Place) -> None:
    blocking = block(executor, place)
    queued = [executor.submit(tasks.leave_a_mark, place.task, f"ran-{n}") for n in range(20)]
    last = queued[-1]  # the standard library's executor puts some aside for its processes: these it cannot cancel
    assert last.cancel()
    assert last.cancelled()
    assert last.done()
    with pytest.raises(futures.CancelledError):
        last.result(30)
    (place.test / "go").touch()
    assert futures.wait([*blocking, *queued], timeout=30).not_done == set()
    assert not (place.test / "ran-19").exists()
    assert (place.test / "ran-0").exists()


def test_a_running_call_cannot_be_cancelled(executor: Any, place: Place) -> None:
    blocking = block(executor, place)
    assert not blocking[0].cancel()
    (place.test / "go").touch()
    assert blocking[0].result(30) == "busy-0"
    assert not blocking[0].cancel()


def test_shutdown_can_cancel_what_is_queued(own_executor: Any, place: Place) -> None:
    blocking = block(own_executor, place)
    queued = [own_executor.submit(tasks.square, n) for n in range(20)]
    stopping = threading.Thread(target=own_executor.shutdown, kwargs={"cancel_futures": True})
    stopping.start()
    wait_until(queued[-1].cancelled, "the queued calls were cancelled")
    (place.test / "go").touch()
    stopping.join(30)
    assert [future.result(30) for future in blocking] == ["busy-0", "busy-1"]


def test_shutdown_waits_for_what_was_submitted(own_executor: Any) -> None:
    submitted = [own_executor.submit(tasks.square, n) for n in range(100)]
    own_executor.shutdown()
    assert all(future.done() for future in submitted)


def test_shutdown_without_waiting_lets_calls_finish(own_executor: Any, place: Place) -> None:
    blocking = block(own_executor, place)
    own_executor.shutdown(wait=False)
    (place.test / "go").touch()
    assert [future.result(30) for future in blocking] == ["busy-0", "busy-1"]


def test_nothing_can_be_submitted_after_shutdown(own_executor: Any) -> None:
    own_executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        own_executor.submit(tasks.square, 1)


def test_callbacks_get_the_future_and_one_that_raises_does_no_harm(
    executor: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []
    future = executor.submit(tasks.square, 4)
    future.add_done_callback(lambda done: tasks.fail("a callback's own error"))
    future.add_done_callback(lambda done: seen.append(done.result()))
    assert executor.submit(tasks.square, 5).result(30) == 25
    wait_until(lambda: seen == [16], "the second callback was called")
    assert "exception calling callback" in caplog.text


def test_wait_and_as_completed_take_the_futures(executor: Any, place: Place) -> None:
    blocking = block(executor, place)
    assert futures.wait(blocking, timeout=0.05).done == set()
    (place.test / "go").touch()
    assert {future.result() for future in futures.as_completed(blocking, timeout=30)} == {"busy-0", "busy-1"}


def test_asyncio_awaits_the_calls(executor: Any) -> None:
    async def both() -> list[int]:
        loop = asyncio.get_running_loop()
        wrapped = [asyncio.wrap_future(executor.submit(tasks.square, n)) for n in range(3)]
        return [*await asyncio.gather(*wrapped), await loop.run_in_executor(executor, tasks.square, 9)]

    assert asyncio.run(both()) == [0, 1, 4, 81]


def test_a_call_whose_process_dies_fails_as_a_broken_pool_does(own_executor: Any) -> None:
    with pytest.raises(BrokenProcessPool):
        own_executor.submit(tasks.kill_oneself).result(60)


@pytest.mark.parametrize("chunksize", [1, 3])
def test_map_ends_with_the_first_exception(executor: Any, chunksize: int) -> None:
    results = executor.map(tasks.divide, [1, 1, 1, 1], [1, 1, 1, 0], chunksize=chunksize)
    assert [next(results) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_map_submits_all_calls_at_once(own_executor: Any, place: Place) -> None:
    own_executor.map(tasks.leave_a_mark, [place.task] * 20, map(str, range(20)))  # nobody looks at the results
    own_executor.shutdown()
    assert len(list(place.test.glob("[0-9]*"))) == 20


def test_a_map_that_is_closed_cancels_what_has_not_begun(own_executor: Any, place: Place) -> None:
    results = own_executor.map(tasks.mark_and_go_on, [place.task] * 200, range(200))
    assert next(results) == 0
    results.close()
    (place.test / "go").touch()
    own_executor.shutdown()
    assert len(list(place.test.glob("mark-*"))) < 100


def test_a_map_does_not_hold_the_results_it_has_yielded(executor: Any) -> None:
    results = executor.map(tasks.Kept, range(4), chunksize=2)
    for _ in range(4):
        result = next(results)
        gone = weakref.ref(result)
        del result
        assert gone() is None


def test_a_call_that_raises_cancelled_error_itself_was_not_cancelled(executor: Any) -> None:
    future = executor.submit(tasks.raise_cancelled)
    with pytest.raises(futures.CancelledError):
        future.result(30)
    assert not future.cancelled()


def test_a_result_is_collected_with_its_future(executor: Any) -> None:
    future = executor.submit(tasks.Kept, 1)
    gone = weakref.ref(future.result(30))
    executor.submit(tasks.square, 2).result(30)  # whoever delivered it has gone on
    del future
    wait_until(lambda: gone() is None, "the result was collected")


# --- calls -----------------------------------------------------------------------------------------------------------


def test_keywords_of_any_name_reach_the_function(executor: Any) -> None:
    assert executor.submit(tasks.keywords, 1, 2, fn=3, self=4).result(30) == (1, 2, {"fn": 3, "self": 4})
    with pytest.raises(TypeError):
        executor.submit()
    with pytest.raises(TypeError):
        executor.submit(arg=1)


def test_a_future_goes_through_its_states(executor: Any, place: Place) -> None:
    waiting = executor.submit(tasks.mark_and_wait, place.task, "begun")
    wait_until((place.test / "begun").exists, "the call had begun")
    assert not waiting.done()
    assert not waiting.cancelled()
    (place.test / "go").touch()
    assert waiting.result(30) == "begun"
    assert waiting.done()
    assert not waiting.running()
    assert waiting.exception() is None


def test_a_future_that_is_not_ready_times_out_and_can_be_had_later(executor: Any, place: Place) -> None:
    waiting = executor.submit(tasks.mark_and_wait, place.task, "begun")
    with pytest.raises(futures.TimeoutError):
        waiting.result(0.05)
    with pytest.raises(futures.TimeoutError):
        waiting.exception(0.05)
    (place.test / "go").touch()
    assert waiting.result(30) == "begun"


def test_a_callback_that_is_added_late_is_called_at_once(executor: Any) -> None:
    future = executor.submit(tasks.square, 3)
    assert future.result(30) == 9
    seen: list[object] = []
    future.add_done_callback(seen.append)
    assert seen == [future]


def test_callbacks_are_called_in_the_order_in_which_they_were_added(executor: Any, place: Place) -> None:
    future = executor.submit(tasks.mark_and_wait, place.task, "begun")
    seen: list[int] = []
    for number in range(5):
        future.add_done_callback(lambda done, number=number: seen.append(number))
    (place.test / "go").touch()
    future.result(30)
    wait_until(lambda: len(seen) == 5, "every callback was called")
    assert seen == [0, 1, 2, 3, 4]


def test_wait_returns_at_the_first_end_or_the_first_exception(executor: Any, place: Place) -> None:
    waiting = executor.submit(tasks.mark_and_wait, place.task, "begun")
    quick = executor.submit(tasks.square, 2)
    done, rest = futures.wait([waiting, quick], timeout=30, return_when=futures.FIRST_COMPLETED)
    assert (done, rest) == ({quick}, {waiting})
    failing = executor.submit(tasks.fail)
    done, rest = futures.wait([waiting, failing], timeout=30, return_when=futures.FIRST_EXCEPTION)
    assert (done, rest) == ({failing}, {waiting})
    (place.test / "go").touch()
    assert futures.wait([waiting, failing], timeout=30).not_done == set()


def test_an_exception_shows_the_traceback_from_its_process(executor: Any) -> None:
    error = executor.submit(tasks.fail, "told so").exception(30)
    text = "".join(traceback.format_exception(error))
    assert "in fail" in text
    assert "ValueError: told so" in text


def test_an_argument_or_a_result_that_cannot_travel_fails_its_call_alone(executor: Any) -> None:
    with pytest.raises(TypeError, match="pickle"):
        executor.submit(tasks.identity, threading.Lock()).result(30)
    assert executor.submit(tasks.square, 3).result(30) == 9
    error = executor.submit(tasks.a_lock).exception(30)
    assert error is not None
    assert "pickle" in str(error)
    assert executor.submit(tasks.square, 4).result(30) == 16


def test_sys_exit_is_the_exception_of_its_call(executor: Any) -> None:
    with pytest.raises(SystemExit) as caught:
        executor.submit(tasks.exit_by_exception, 3).result(30)
    assert caught.value.code == 3


def test_a_process_that_ends_itself_breaks_the_call(own_executor: Any) -> None:
    with pytest.raises(BrokenProcessPool):
        own_executor.submit(tasks.exit_at_once, 1).result(60)


# --- map -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunksize", [1, 3, 100])
def test_map_in_chunks_keeps_the_order(executor: Any, chunksize: int) -> None:
    assert list(executor.map(tasks.square, range(50), chunksize=chunksize)) == [x * x for x in range(50)]


def test_map_of_nothing_is_nothing(executor: Any) -> None:
    assert list(executor.map(tasks.square, [])) == []
    assert list(executor.map(tasks.square)) == []


def test_a_chunk_of_map_has_one_item_at_least(executor: Any) -> None:
    with pytest.raises(ValueError, match="chunksize must be >= 1"):
        executor.map(tasks.square, [1], chunksize=0)


def test_what_the_input_of_map_raises_is_raised_at_once(executor: Any) -> None:
    def numbers() -> Any:
        yield 1
        raise LookupError("in the input")

    with pytest.raises(LookupError, match="in the input"):
        executor.map(tasks.square, numbers())


# --- processes -------------------------------------------------------------------------------------------------------


def test_an_initializer_is_called_once_in_each_process(make_executor: Callable[..., Any]) -> None:
    executor = make_executor(2, initializer=tasks.initialize, initargs=("once",))
    assert set(map(tuple, executor.map(tasks.initialized, range(20)))) == {("once",)}


def test_an_initializer_that_raises_is_the_end_of_each_call(make_executor: Callable[..., Any], is_ours: bool) -> None:
    executor = make_executor(1, initializer=tasks.fail, initargs=("not ready",))
    with pytest.raises(ValueError if is_ours else BrokenProcessPool):
        executor.submit(tasks.square, 1).result(60)


def test_a_process_runs_no_more_calls_than_allowed(make_executor: Callable[..., Any]) -> None:
    executor = make_executor(1, max_tasks_per_child=2)
    ran = Counter(executor.submit(tasks.process).result(60) for _ in range(6))
    assert max(ran.values()) == 2


def test_a_number_of_processes_below_one_is_an_error(make_executor: Callable[..., Any]) -> None:
    for number in (0, -1):
        with pytest.raises(ValueError, match="max_workers must be greater than 0"):
            make_executor(number)


# --- the end ---------------------------------------------------------------------------------------------------------


def test_a_with_block_waits_for_its_calls(make_executor: Callable[..., Any]) -> None:
    with make_executor(2) as executor:
        submitted = [executor.submit(tasks.square, n) for n in range(20)]
    assert [future.result(0) for future in submitted] == [n * n for n in range(20)]
    executor.shutdown()  # again


def test_a_dropped_executor_is_collected_and_its_calls_end(kind: str, where: dict[str, Any]) -> None:
    made = futures.ProcessPoolExecutor(2, CONTEXT) if kind == STANDARD else multihost.Executor(2, **where)
    future = made.submit(tasks.square, 6)
    gone = weakref.ref(made)
    del made
    assert future.result(30) == 36
    gc.collect()
    wait_until(lambda: gone() is None, "the executor was collected")


def test_a_running_call_is_stopped_by_terminate(make_executor: Callable[..., Any], is_ours: bool, place: Place) -> None:
    """The standard library has no such thing for one call."""
    future = make_executor(1).submit(tasks.mark_and_wait, place.task, "begun")
    wait_until((place.test / "begun").exists, "the call had begun")
    if is_ours:
        assert future.terminate()
        with pytest.raises(futures.CancelledError):
            future.result(30)
    (place.test / "go").touch()


def test_a_coroutine_function_runs_as_a_coroutine(executor: Any, is_ours: bool) -> None:
    """The standard library's gives back the coroutine, and that cannot travel."""
    future = executor.submit(tasks.in_a_coroutine, 5)
    if is_ours:
        assert future.result(30) == 25
    else:
        with pytest.raises(TypeError, match="coroutine"):
            future.result(30)
