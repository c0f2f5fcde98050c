"""How an executor ends: ``shutdown`` in all its forms, and calls that are left; and how it begins."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent import futures
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext, suppress
from typing import Any

import pytest

import multihost
from tests.contract import tasks
from tests.contract.conftest import Place
from tests.contract.test_pool_end import ends
from tests.integration.cluster import wait_until


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_may_be_repeated_and_nothing_more_is_taken(make_executor: Callable[..., Any], wait: bool) -> None:
    executor = make_executor(1)
    future = executor.submit(tasks.square, 3)
    for _ in range(3):
        executor.shutdown(wait)
        with pytest.raises(RuntimeError, match=r"^cannot schedule new futures after shutdown$"):
            executor.submit(tasks.square, 3)
    assert future.result(30) == 9
    assert ends(executor.shutdown)


def test_shutdown_waits_for_the_callbacks(make_executor: Callable[..., Any]) -> None:
    executor = make_executor(1)
    seen: list[Any] = []
    for number in range(20):
        executor.submit(tasks.square, number).add_done_callback(lambda future: seen.append(future.result()))
    executor.shutdown()
    assert sorted(seen) == [n * n for n in range(20)]


def test_shutdown_in_several_threads_of_ours(make_executor: Callable[..., Any], is_ours: bool, place: Place) -> None:
    """The standard library's closes its pipe twice then."""
    if not is_ours:
        return
    executor = make_executor(1)
    future = executor.submit(tasks.mark_and_wait, place.task, "begun")
    threads = [threading.Thread(target=executor.shutdown) for _ in range(4)]
    for thread in threads:
        thread.start()
    (place.test / "go").touch()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert future.result(0) == "begun"


@pytest.mark.parametrize("wait", [True, False])
def test_shutdown_that_cancels_lets_finish_what_runs(
    make_executor: Callable[..., Any], place: Place, wait: bool
) -> None:
    executor = make_executor(1)
    running = executor.submit(tasks.mark_and_wait, place.task, "begun")
    wait_until((place.test / "begun").exists, "the call ran")
    queued = [executor.submit(tasks.leave_a_mark, place.task, f"ran-{n}") for n in range(20)]
    stopping = threading.Thread(target=executor.shutdown, kwargs={"wait": wait, "cancel_futures": True})
    stopping.start()
    wait_until(queued[-1].cancelled, "what was queued was cancelled")
    (place.test / "go").touch()
    stopping.join(30)
    assert running.result(30) == "begun"
    futures.wait([future for future in queued if not future.cancelled()], timeout=30)
    ran = {path.name for path in place.test.glob("ran-*")}
    assert ran == {f"ran-{n}" for n, future in enumerate(queued) if not future.cancelled()}
    assert len(ran) < 5  # the standard library's has put some aside for its processes


def test_a_with_block_that_raises_waits_all_the_same(make_executor: Callable[..., Any], place: Place) -> None:
    executor = make_executor(2)
    future = executor.submit(tasks.leave_a_mark, place.task, "ran")
    with pytest.raises(ValueError, match="on purpose"), executor:
        tasks.fail()
    assert future.done()
    assert (place.test / "ran").exists()


def test_the_with_block_gives_the_executor_itself(make_executor: Callable[..., Any]) -> None:
    executor = make_executor(1)
    with executor as entered:
        assert entered is executor


def test_an_executor_that_has_done_nothing_ends(make_executor: Callable[..., Any]) -> None:
    assert ends(make_executor(1).shutdown)
    with make_executor(1):
        pass


@pytest.mark.parametrize("method", ["terminate_workers", "kill_workers"])
def test_an_end_by_force_ends_every_call(
    make_executor: Callable[..., Any], is_ours: bool, place: Place, method: str
) -> None:
    """The standard library has it from Python 3.14 on; what was queued then breaks, with ours it is cancelled."""
    executor = make_executor(1)
    if not hasattr(executor, method):
        assert not is_ours
        return
    running = executor.submit(tasks.mark_and_wait, place.task, "begun")
    queued = executor.submit(tasks.square, 3)
    wait_until((place.test / "begun").exists, "the call ran")
    getattr(executor, method)()
    for future in (running, queued):
        with pytest.raises(futures.CancelledError if is_ours else (BrokenProcessPool, futures.CancelledError)):
            future.result(30)
    with pytest.raises(RuntimeError):
        executor.submit(tasks.square, 3)


# --- the beginning ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_workers": -1}, ValueError, "max_workers must be greater than 0"),
        ({"initializer": 3}, TypeError, "initializer must be a callable"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"max_tasks_per_child": 1.5}, TypeError, "max_tasks_per_child must be an integer"),
    ],
)
def test_wrong_arguments_are_errors(
    make_executor: Callable[..., Any], arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        make_executor(**arguments)


def test_a_context_is_taken(kind: str, where: dict[str, Any]) -> None:
    context = multiprocessing.get_context("spawn")
    made = futures.ProcessPoolExecutor if kind == "standard library" else multihost.Executor
    with made(1, context, tasks.initialize, ("once",), **where) as executor:
        assert executor.submit(tasks.initialized).result(60) == ["once"]


def test_what_an_initializer_does_is_there_for_every_call(make_executor: Callable[..., Any]) -> None:
    executor = make_executor(2, initializer=tasks.initialize, initargs=("one", "two"))
    several = [executor.submit(tasks.initialized) for _ in range(20)]
    assert [future.result(60) for future in several] == [["one", "two"]] * 20


def test_an_initializer_that_raises_ends_all_calls(make_executor: Callable[..., Any], is_ours: bool) -> None:
    """The standard library's is broken then, and does not say by what; ours raises what the initializer raised."""
    executor = make_executor(2, initializer=tasks.fail, initargs=("not ready",))
    several: list[Any] = []
    for n in range(3):
        with nullcontext() if is_ours else suppress(BrokenProcessPool):  # it may be broken by then
            several.append(executor.submit(tasks.square, n))
    assert several
    for future in several:
        with pytest.raises(ValueError if is_ours else BrokenProcessPool):
            future.result(60)


def test_many_threads_use_one_executor(executor: Any) -> None:
    found: list[list[int]] = []

    def use(number: int) -> None:
        several = [executor.submit(tasks.square, n) for n in range(number, number + 10)]
        found.append([future.result(60) for future in several])

    threads = [threading.Thread(target=use, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(found) == [[x * x for x in range(n, n + 10)] for n in range(8)]


def test_an_executor_in_a_forked_process_is_refused_by_ours(make_executor: Callable[..., Any], is_ours: bool) -> None:
    """In the standard library's the thread that would send the call is not in the forked process: it waits for ever."""
    if not is_ours:
        return
    executor = make_executor(1)
    assert executor.submit(tasks.square, 3).result(30) == 9
    fork = multiprocessing.get_context("fork")
    seen = fork.SimpleQueue()

    def use() -> None:
        try:
            executor.submit(tasks.square, 4)
        except multihost.ForkedClient:
            seen.put("refused")
        executor.shutdown()  # of the parent's it ends nothing

    forked = fork.Process(target=use)
    forked.start()
    forked.join(30)
    assert forked.exitcode == 0
    assert seen.get() == "refused"
    assert executor.submit(tasks.square, 5).result(30) == 25
