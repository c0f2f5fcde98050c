"""Coroutines, several tasks at a time in one process, and what tasks print."""

import functools
import inspect
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import multihost
from multihost.client.session import Session
from tests.integration import slow_tasks as tasks
from tests.integration.cluster import Cluster, wait_until

Lines = list[tuple[str, int, str]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """What sessions made after this show: function, sequence number, line."""
    seen: Lines = []
    made = Session.__init__

    def make(self: Session, *args: Any, **kwds: Any) -> None:
        kwds["show"] = lambda name, sequence, worker, text: seen.extend(
            (name, sequence, line) for line in text.splitlines()
        )
        made(self, *args, **kwds)

    monkeypatch.setattr(Session, "__init__", make)
    return seen


def threaded(cluster: Cluster, threads: int) -> multihost.Pool:
    """A pool on a worker of one process with so many threads."""
    cluster.start_master()
    cluster.start_worker(slots=1, MULTIHOST_THREADS=str(threads))
    return cluster.pool()


# --- coroutines ------------------------------------------------------------------------------------------------------


def test_coroutine_functions_run_in_one_loop_of_the_process(shared_cluster: Cluster) -> None:
    pool = shared_cluster.pool(processes=1)
    assert len({pool.apply(tasks.same_loop) for _ in range(5)}) <= 2


def test_items_of_a_chunk_may_be_coroutines(shared_cluster: Cluster) -> None:
    async def double(x: int) -> int:
        return 2 * x

    assert shared_cluster.pool().map(double, range(10), chunksize=5) == [*range(0, 20, 2)]


def wrapped(function: Callable[[int], Any]) -> Callable[[int], Any]:
    """As a decorator that does something before the call, whatever is called."""

    @functools.wraps(function)
    def call(x: int) -> Any:
        return function(x + 1)

    return call


def marked(function: Callable[[int], Any]) -> Callable[[int], Any]:
    mark: Any = getattr(inspect, "markcoroutinefunction", None) or pytest.skip("new in Python 3.12")

    def call(x: int) -> Any:
        return function(x + 1)

    decorated: Callable[[int], Any] = mark(call)
    return decorated


@pytest.mark.parametrize("decorate", [wrapped, marked])
def test_a_coroutine_function_may_be_decorated(
    shared_cluster: Cluster, decorate: Callable[[Callable[[int], Any]], Callable[[int], Any]]
) -> None:
    async def double(x: int) -> int:
        return 2 * x

    pool, function = shared_cluster.pool(), decorate(double)
    assert pool.apply(function, (1,)) == 4
    assert pool.map(function, range(10), chunksize=5) == [*range(2, 22, 2)]


def test_coroutine_that_raises_fails_as_a_function_does(shared_cluster: Cluster) -> None:
    async def fail() -> None:
        raise LookupError("in a coroutine")

    with pytest.raises(LookupError, match="in a coroutine"):
        _ = shared_cluster.pool().apply_async(fail).get(30)


# --- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [tasks.meet, tasks.meet_in_coroutines])
def test_as_many_tasks_run_at_once_in_a_process_as_it_has_threads(
    cluster: Cluster, tmp_path: Path, function: Callable[..., Any]
) -> None:
    pool = threaded(cluster, 4)
    directory = tmp_path / "meeting"
    directory.mkdir()
    results = [pool.apply_async(function, (str(directory), f"task-{n}", 3)) for n in range(4)]
    assert len({result.get(60) for result in results}) == 4
    worker = cluster.worker("w1")
    assert worker is not None
    assert worker["slots"] == 4


def test_tiny_tasks_and_chunks_in_threads(cluster: Cluster) -> None:
    pool = threaded(cluster, 3)
    assert pool.map(abs, range(500), chunksize=1) == [*range(500)]
    assert pool.map(abs, range(500), chunksize=50) == [*range(500)]


def test_late_function_in_a_thread_is_killed_and_those_beside_it_run_again(cluster: Cluster, tmp_path: Path) -> None:
    pool = threaded(cluster, 2)
    directory = tmp_path / "meeting"
    directory.mkdir()
    late = pool.options(timeout=0.5).apply_async(tasks.catch_everything, (str(tmp_path),))
    wait_until(lambda: [*tmp_path.glob("began*")], "it ran")
    beside = pool.apply_async(tasks.meet, (str(directory), "beside", 1))
    with pytest.raises(multihost.TaskTimeout, match="its process was killed"):
        late.get(60)
    (directory / "another").touch()
    assert beside.get(60) == "beside"


def test_late_coroutine_beside_others_is_cancelled_alone(cluster: Cluster, tmp_path: Path) -> None:
    pool = threaded(cluster, 2)
    process = pool.apply(tasks.pid)
    with pytest.raises(multihost.TaskTimeout, match="was interrupted"):
        _ = pool.options(timeout=0.3).apply_async(tasks.sleep_in_a_coroutine, (str(tmp_path),)).get(30)
    assert pool.apply(tasks.pid) == process


def test_tasks_in_threads_wait_for_tasks_of_theirs(cluster: Cluster) -> None:
    pool = threaded(cluster, 2)
    assert pool.apply_async(tasks.leaves, (4,)).get(60) == 16
    results = [pool.apply_async(tasks.leaves, (2,)) for _ in range(6)]
    assert [result.get(60) for result in results] == [4] * 6


# --- output ----------------------------------------------------------------------------------------------------------


def test_what_a_task_prints_comes_by_lines_to_its_client_and_to_the_log_of_its_worker(
    shared_cluster: Cluster, lines: Lines
) -> None:
    shared_cluster.pool().apply(tasks.talk, (2,))
    texts = [text for _, _, text in lines]
    assert sorted(texts) == sorted(["line 0", "line 1", "on stderr", "WARNING:root:logged", "no end"])
    assert {name for name, _, _ in lines} == {"talk"}
    assert "line 1" in shared_cluster.programs[1].log()


def test_lines_come_while_the_task_runs(shared_cluster: Cluster, lines: Lines, tmp_path: Path) -> None:
    result = shared_cluster.pool().apply_async(tasks.print_and_wait, (str(tmp_path),))
    wait_until(lambda: lines, "the first line came")
    assert [text for _, _, text in lines] == ["seen while it runs"]
    (tmp_path / "go").touch()
    result.get(30)
    assert [text for _, _, text in lines][1:] == ["the beginning of a line and its end"]


def test_output_of_one_task_is_bounded(shared_cluster: Cluster, lines: Lines) -> None:
    shared_cluster.pool().apply(tasks.talk, (20_000,))
    texts = [text for _, _, text in lines]
    assert texts.count("[... more output left out]") == 1
    assert sum(map(len, texts)) < 70_000


def test_last_lines_come_with_a_failure(shared_cluster: Cluster) -> None:
    with pytest.raises(LookupError) as caught:
        shared_cluster.pool().apply(tasks.fail_at, (2,))
    assert "last output:\nworking on 2" in caught.value.__notes__


def test_lines_of_tasks_side_by_side_are_told_apart(cluster: Cluster, lines: Lines, tmp_path: Path) -> None:
    pool = threaded(cluster, 4)
    functions: tuple[Callable[..., Any], ...] = (tasks.meet, tasks.meet_in_coroutines)
    for function in functions:
        directory = tmp_path / function.__name__
        directory.mkdir()
        lines.clear()
        results = [pool.apply_async(function, (str(directory), f"task-{n}", 3)) for n in range(4)]
        names = {result.get(60)[0] if function is tasks.meet_in_coroutines else result.get(60) for result in results}
        said = {sequence: text.split()[-1] for _, sequence, text in lines}
        assert set(said.values()) == names
        assert all(said[sequence] == text.split()[-1] for _, sequence, text in lines)


def test_process_that_a_task_forked_prints_to_the_log_only(shared_cluster: Cluster, lines: Lines) -> None:
    shared_cluster.pool().apply(tasks.print_from_a_fork)
    assert [text for _, _, text in lines] == ["printed by the task"]
    shared_cluster.programs[1].wait_for_log("printed by a fork")


def test_local_cluster_prints_once(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), multihost.Pool(1) as pool:
        pool.apply(print, ("only once",))
        with pytest.raises(LookupError) as caught:
            pool.apply(tasks.fail_at, (2,))
    assert "last output:\nworking on 2" in caught.value.__notes__
    out, err = capfd.readouterr()
    assert (out + err).count("only once") == 1
