"""Timeouts, cancelled tasks and lifetimes of processes, in real processes: from outside, whatever the task does."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import multihost
from tests.integration import slow_tasks as tasks
from tests.integration import tasks as common
from tests.integration.cluster import Cluster, wait_until


@pytest.fixture
def executor(shared_cluster: Cluster) -> Iterator[multihost.Executor]:
    with multihost.Executor(address=str(shared_cluster.address), authkey=shared_cluster.authkey) as executor:
        yield executor


def marked(directory: Path, name: str) -> list[Path]:
    return [*directory.glob(f"{name}*")]


# --- timeouts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [tasks.sleep_and_clean_up, tasks.sleep_in_a_coroutine])
def test_task_that_is_late_is_interrupted_and_can_clean_up(
    pool: multihost.Pool, tmp_path: Path, function: Callable[..., Any]
) -> None:
    with pytest.raises(multihost.TaskTimeout, match="was interrupted") as caught:
        pool.options(timeout=0.3).apply(function, (str(tmp_path),))
    assert caught.value.args == (0.3, "w1", False, "", "")
    assert marked(tmp_path, "cleaned up")
    assert function.__name__ in str(caught.value.__cause__)
    assert "interrupts.py" not in str(caught.value.__cause__)


@pytest.mark.parametrize("function", [tasks.hold_the_gil, tasks.catch_everything])
def test_task_that_cannot_be_interrupted_is_killed_and_spares_its_neighbour(
    pool: multihost.Pool, tmp_path: Path, function: Callable[..., Any]
) -> None:
    neighbour = pool.apply_async(common.mark_and_wait, (tmp_path, "neighbour"))
    with pytest.raises(multihost.TaskTimeout, match="its process was killed") as caught:
        pool.options(timeout=0.3).apply(function, (str(tmp_path),))
    assert caught.value.killed
    assert f"in {function.__name__}" in caught.value.stack
    assert "multihost/runner" not in caught.value.stack
    (tmp_path / "go").touch()
    assert neighbour.get(30)
    assert len(marked(tmp_path, "neighbour.began")) == 1


def test_task_may_use_what_it_has_when_its_time_is_up(pool: multihost.Pool, tmp_path: Path) -> None:
    assert pool.options(timeout=0.3).apply(tasks.use_the_time, (str(tmp_path),)) == "what there was by then"


def test_many_short_tasks_with_a_timeout_are_not_disturbed(pool: multihost.Pool) -> None:
    assert pool.options(timeout=30).map(common.square, range(300)) == [x * x for x in range(300)]


def test_late_task_is_retried_if_its_caller_wants_that(pool: multihost.Pool, tmp_path: Path) -> None:
    retrying = pool.options(timeout=0.2, retries=2, backoff=0.01)
    for function in (tasks.sleep_and_clean_up, tasks.hold_the_gil):
        directory = tmp_path / function.__name__
        directory.mkdir()
        with pytest.raises(multihost.TaskTimeout):
            retrying.apply(function, (str(directory),))
        assert len(marked(directory, "began")) == 3


# --- cancelled tasks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [tasks.sleep_and_clean_up, tasks.hold_the_gil, tasks.catch_everything, tasks.sleep_in_a_coroutine],
)
def test_cancelled_task_is_stopped_whatever_it_does(
    executor: multihost.Executor, shared_cluster: Cluster, tmp_path: Path, function: Callable[..., Any]
) -> None:
    future = executor.submit(function, str(tmp_path))
    (mark,) = wait_until(lambda: marked(tmp_path, "began"), "it ran")
    process = int(mark.name.split(".")[1])
    assert future.terminate()
    with pytest.raises(CancelledError):
        future.result()

    def stopped() -> bool:
        return bool(marked(tmp_path, "cleaned up")) or not Path(f"/proc/{process}").exists()

    wait_until(stopped, "it was stopped")
    assert executor.submit(common.square, 3).result(30) == 9
    assert shared_cluster.worker("w1") is not None


def test_cancelled_task_that_has_not_started_never_does(executor: multihost.Executor, tmp_path: Path) -> None:
    blocking = [executor.submit(common.mark_and_wait, tmp_path, f"busy-{n}") for n in range(2)]
    wait_until(lambda: len(marked(tmp_path, "busy")) == 2, "both slots were busy")
    queued = [executor.submit(tasks.mark, str(tmp_path), "queued") for _ in range(5)]
    for future in queued:
        assert future.terminate()
    (tmp_path / "go").touch()
    for busy in blocking:
        busy.result(30)
    assert executor.submit(common.square, 3).result(30) == 9
    assert not marked(tmp_path, "queued")


def test_cancel_that_comes_while_the_error_of_an_item_is_pickled_ends_the_chunk(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1)
    pool = cluster.pool()
    result = pool.map_async(partial(tasks.fail_first, str(tmp_path)), range(2), 2)
    wait_until(lambda: marked(tmp_path, "pickled"), "the error was being pickled")
    assert result.terminate()
    assert pool.apply(common.square, (3,)) == 9
    assert not marked(tmp_path, "second")


def test_tasks_of_a_task_that_is_cancelled_or_late_are_stopped_with_it(
    executor: multihost.Executor, shared_cluster: Cluster, tmp_path: Path
) -> None:
    sessions = shared_cluster.statistics()["sessions"]
    future = executor.submit(tasks.wait_for_a_task, str(tmp_path))
    wait_until(lambda: marked(tmp_path, "began"), "the inner task ran")
    assert future.terminate()
    wait_until(lambda: marked(tmp_path, "cleaned up"), "the inner task was stopped")
    shared_cluster.wait_for(sessions=sessions, leased=0)
    with pytest.raises(multihost.TaskTimeout):
        executor.options(timeout=1.0).submit(tasks.wait_for_a_task, str(tmp_path)).result(30)
    shared_cluster.wait_for(sessions=sessions, leased=0)
    assert executor.submit(common.square, 3).result(30) == 9


# --- lifetimes -------------------------------------------------------------------------------------------------------


def test_process_is_replaced_after_so_many_tasks(shared_cluster: Cluster) -> None:
    address = {"address": str(shared_cluster.address), "authkey": shared_cluster.authkey}
    with multihost.Pool(maxtasksperchild=3, **address) as pool:  # type: ignore[arg-type]
        counts = pool.map(lambda _: tasks.count_process(), range(30), chunksize=1)
    assert max(counts) == 3
    assert counts.count(1) >= 10


def test_process_that_has_run_its_tasks_ends_by_itself(shared_cluster: Cluster, tmp_path: Path) -> None:
    address = {"address": str(shared_cluster.address), "authkey": shared_cluster.authkey}
    with multihost.Pool(maxtasksperchild=1, **address) as pool:  # type: ignore[arg-type]
        process = pool.apply(tasks.mark_at_exit, (str(tmp_path),))
        wait_until(lambda: marked(tmp_path, f"exit.{process}"), "its exit handler ran")
        wait_until(lambda: not Path(f"/proc/{process}").exists(), "it ended")


def test_chunk_counts_as_one_task_of_a_lifetime(shared_cluster: Cluster) -> None:
    address = {"address": str(shared_cluster.address), "authkey": shared_cluster.authkey}
    with multihost.Pool(maxtasksperchild=1, **address) as pool:  # type: ignore[arg-type]
        processes = pool.map(tasks.pid, range(12), chunksize=4)
    assert [len(set(processes[n : n + 4])) for n in (0, 4, 8)] == [1, 1, 1]
    assert len(set(processes)) == 3


# --- deaths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killer", range(10))
def test_only_the_item_that_ran_is_repeated_when_its_process_is_killed(
    pool: multihost.Pool, tmp_path: Path, killer: int
) -> None:
    arguments = [(str(tmp_path), number, killer) for number in range(10)]
    assert pool.starmap(tasks.item, arguments, chunksize=10) == [*range(10)]
    runs = [len(marked(tmp_path, f"item-{number}.")) for number in range(10)]
    assert runs == [2 if number == killer else 1 for number in range(10)]


@pytest.mark.parametrize("chunksize", [1, 100])
def test_only_the_item_that_kills_is_given_up_however_small_the_others_are(
    pool: multihost.Pool, chunksize: int
) -> None:
    pool.map(common.square, range(500), chunksize=1)
    results = [pool.apply_async(tasks.die_at_once, (number, 57)) for number in range(100)] if chunksize == 1 else []
    if chunksize == 1:
        died = [number for number, result in enumerate(results) if not succeeded(result)]
    else:
        iterator = pool.imap(lambda number: tasks.die_at_once(number, 57), range(100), chunksize=chunksize)
        died = [number for number in range(100) if not gives_number(iterator, number)]
    assert died == [57]


def succeeded(result: multihost.AsyncResult[int]) -> bool:
    result.wait(60)
    return result.successful()


def gives_number(iterator: Iterator[int], number: int) -> bool:
    try:
        return next(iterator) == number
    except multihost.WorkerDied as error:
        return len(error.losses) != 3


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_item_that_raises_does_not_end_its_chunk(pool: multihost.Pool) -> None:
    outcomes = []
    iterator = pool.imap(tasks.fail_at, range(9), chunksize=9)
    for _ in range(9):
        try:
            outcomes.append(next(iterator))
        except LookupError as error:
            outcomes.append(-error.args[0])
    assert outcomes == [0, 1, -2, 3, 4, -5, 6, 7, -8]


def test_item_whose_result_cannot_be_pickled_fails_alone(pool: multihost.Pool) -> None:
    iterator = pool.imap(tasks.unpicklable_at, range(6), chunksize=6)
    assert [next(iterator) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Exception, match="cannot pickle"):
        next(iterator)
    assert [next(iterator) for _ in range(2)] == [4, 5]


def test_result_that_is_too_large_fails_alone_and_the_others_come_in_parts(cluster: Cluster) -> None:
    cluster.start_master(MULTIHOST_MAX_PAYLOAD="500000")
    cluster.start_worker()
    iterator = cluster.pool().imap(tasks.large_at, range(6), chunksize=6)
    assert [len(next(iterator)) for _ in range(3)] == [300_000] * 3
    with pytest.raises(multihost.ResultTooLarge):
        next(iterator)
    assert [len(next(iterator)) for _ in range(2)] == [300_000] * 2


def test_slow_item_of_a_chunk_does_not_hold_back_those_before_it(pool: multihost.Pool, tmp_path: Path) -> None:
    def wait_at_three(number: int) -> int:
        while number == 3 and not (tmp_path / "go").exists():
            time.sleep(0.01)
        return number

    iterator = pool.imap(wait_at_three, range(5), chunksize=5)
    assert [iterator.next(30) for _ in range(3)] == [0, 1, 2]
    (tmp_path / "go").touch()
    assert [*iterator] == [3, 4]
