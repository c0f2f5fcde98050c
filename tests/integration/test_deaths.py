"""What is told of a process that died in the middle of a task, and what becomes of the processes it started."""

import contextlib
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import multihost
from tests.integration import deadly_tasks as tasks
from tests.integration import tasks as common
from tests.integration.cluster import DEADLINE, Cluster, wait_until

# --- certificates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGRTMIN + 3])
def test_death_by_a_signal_is_told_with_its_name_place_memory_and_last_output(
    pool: multihost.Pool, number: int
) -> None:
    with pytest.raises(multihost.WorkerDied) as caught:
        pool.apply(tasks.print_and_be_killed, (int(number),))
    assert len(caught.value.deaths) == len(caught.value.losses) == 3
    for death in caught.value.deaths:
        assert death.signal == (signal.Signals(number).name if number < 32 else f"signal {int(number)}")
        assert (death.exit_status, death.worker, death.host) == (None, "w1", socket.gethostname())
        assert death.output == "the task's first line\nand, not ended yet, its last"
        assert 5 << 20 < death.peak_bytes < 1 << 30
        assert not death.oom
        assert death.stack == ""
    text = str(caught.value)
    assert all(part in text for part in (death.signal, "worker w1", "delivery 3", "MiB", "the task's first line"))


def test_death_by_exit_is_told_with_its_status(pool: multihost.Pool) -> None:
    with pytest.raises(multihost.WorkerDied, match="exit status 7 and without an outcome") as caught:
        pool.apply(tasks.print_and_exit, (7,))
    assert [(death.signal, death.exit_status, death.oom) for death in caught.value.deaths] == [("", 7, None)] * 3
    assert caught.value.deaths[0].output == "before the exit"


def test_death_by_a_fatal_fault_is_told_with_the_python_stack(pool: multihost.Pool) -> None:
    with pytest.raises(multihost.WorkerDied, match="SIGSEGV") as caught:
        pool.apply(tasks.touch_nothing)
    assert "in touch_nothing" in caught.value.deaths[0].stack
    assert "multihost/runner" not in caught.value.deaths[0].stack
    assert "in touch_nothing" in str(caught.value)


def test_peak_memory_is_that_of_the_moment_of_death(pool: multihost.Pool) -> None:
    with pytest.raises(multihost.WorkerDied) as caught:
        pool.apply(tasks.take_memory_and_die, (200,))
    assert all(200 << 20 < death.peak_bytes < 400 << 20 for death in caught.value.deaths)


def test_output_of_the_task_before_is_not_told_as_that_of_the_one_that_died(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1)
    with cluster.pool() as pool:
        assert pool.apply(print, ("of another task",)) is None
        with pytest.raises(multihost.WorkerDied) as caught:
            pool.apply(common.exit_at_once, (3,))
    assert [death.output for death in caught.value.deaths] == ["", "", ""]


def test_timeout_that_ended_with_a_kill_tells_the_last_output(pool: multihost.Pool) -> None:
    with pytest.raises(multihost.TaskTimeout, match="before the loop") as caught:
        pool.options(timeout=0.3).apply(tasks.print_and_never_end)
    assert caught.value.killed
    assert caught.value.output == "before the loop"
    assert "in print_and_never_end" in caught.value.stack


def test_certificate_of_an_item_of_a_chunk_is_that_of_the_item(pool: multihost.Pool) -> None:
    iterator = pool.imap(tasks.print_and_exit, [5], chunksize=2)
    with pytest.raises(multihost.WorkerDied) as caught:
        iterator.next(DEADLINE)
    assert [(death.exit_status, death.output) for death in caught.value.deaths] == [(5, "before the exit")] * 3


# --- what tasks have started -----------------------------------------------------------------------------------------


def started(directory: Path) -> list[int]:
    """The processes that a task has started, in each way there is; waits until it has."""
    files = [directory / how for how in tasks.WAYS]
    wait_until(lambda: all(file.exists() for file in files), "the task has started its processes")
    return [int(file.read_text()) for file in files]


def wait_until_gone(processes: list[int]) -> None:
    wait_until(lambda: not any(map(alive, processes)), f"{processes} are gone", 10.0)


def alive(process: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_processes_of_a_task_die_with_the_child_that_a_timeout_kills(pool: multihost.Pool, tmp_path: Path) -> None:
    with pytest.raises(multihost.TaskTimeout, match="was killed"):
        pool.options(timeout=3.0).apply(tasks.start_all_and_stay, (str(tmp_path),))
    # No waiting: the outcome is told when they are gone.
    assert [how for how, process in zip(tasks.WAYS, started(tmp_path), strict=True) if alive(process)] == []


def test_processes_of_a_task_die_with_the_child_that_a_cancel_kills(shared_cluster: Cluster, tmp_path: Path) -> None:
    with multihost.Executor(address=str(shared_cluster.address), authkey=shared_cluster.authkey) as executor:
        future = executor.submit(tasks.start_all_and_stay, str(tmp_path))
        processes = started(tmp_path)
        wait_until((tmp_path / "stays").exists, "the task ignores what is raised in it")
        assert future.terminate()
        wait_until_gone(processes)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_processes_of_a_task_die_with_the_child_that_dies_by_itself(
    pool: multihost.Pool, tmp_path: Path, number: int
) -> None:
    neighbour = pool.apply_async(common.mark_and_wait, (tmp_path, "neighbour"))
    with pytest.raises(multihost.WorkerDied):
        pool.apply(tasks.start_all_and_be_killed, (str(tmp_path), int(number)))
    deliveries = [*tmp_path.glob("of-*")]
    assert len(deliveries) == 3
    assert [process for each in deliveries for process in started(each) if alive(process)] == []
    (tmp_path / "go").touch()
    assert neighbour.get(DEADLINE)


@pytest.mark.parametrize("end", ["killed", "drained"])
def test_processes_of_tasks_die_with_their_worker(cluster: Cluster, tmp_path: Path, end: str) -> None:
    cluster.start_master()
    worker = cluster.start_worker(slots=1)
    with cluster.pool() as pool:
        pool.apply_async(tasks.start_all_and_stay if end == "killed" else tasks.start_all, (str(tmp_path),))
        processes = started(tmp_path)
        family = worker.descendants()
        if end == "killed":
            worker.kill()
        else:
            worker.term()
            assert worker.wait() == 0
        wait_until_gone([*processes, *family])


def test_processes_of_a_task_live_on_while_its_child_runs_others(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1)
    with cluster.pool() as pool:
        child = pool.apply(tasks.start_all, (str(tmp_path),))
        assert pool.apply(common.pid) == child
        assert all(map(alive, started(tmp_path)))
    wait_until_gone(started(tmp_path))


def test_task_that_signals_its_process_group_does_not_reach_the_worker(pool: multihost.Pool) -> None:
    with pytest.raises(multihost.WorkerDied, match="SIGTERM"):
        pool.apply(tasks.signal_the_group, (int(signal.SIGTERM),))
    assert pool.apply(common.square, (3,)) == 9


def test_orphans_that_end_are_not_left_as_zombies(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    worker = cluster.start_worker(slots=1)
    with cluster.pool() as pool:
        pool.apply(tasks.leave_orphans, (20,))
        wait_until(lambda: len(worker.descendants()) == 4, "there are fork server, resource tracker, warden and child")


def test_warden_that_is_killed_takes_its_child_with_it(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1)
    with cluster.pool() as pool:
        outcome = pool.apply_async(tasks.kill_the_parent_once, (str(tmp_path),))
        assert outcome.get(DEADLINE) == "the second time"
        assert pool.apply(common.square, (3,)) == 9


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [tasks.take, tasks.take_in_small_pieces])
def test_task_that_asks_for_more_than_its_limit_fails_and_spares_its_neighbour(
    pool: multihost.Pool, tmp_path: Path, function: Callable[[int], int]
) -> None:
    neighbour = pool.apply_async(common.mark_and_wait, (tmp_path, "neighbour"))
    with pytest.raises(multihost.TaskOutOfMemory, match="was refused more memory") as caught:
        pool.options(memory="100M").apply(function, (400,))
    assert (caught.value.limit_bytes, caught.value.worker, caught.value.killed) == (100 << 20, "w1", False)
    assert f"in {function.__name__}" in str(caught.value.__cause__)
    assert "multihost/runner" not in str(caught.value.__cause__)
    assert pool.apply(tasks.take, (400,)) == 400
    assert pool.options(memory="1G").apply(tasks.take, (400,)) == 400
    (tmp_path / "go").touch()
    assert neighbour.get(DEADLINE)


def test_task_may_do_with_less_and_what_is_not_limited_stays_so(pool: multihost.Pool) -> None:
    before = pool.apply(tasks.own_limit)
    limited = pool.options(memory="100M")
    assert limited.apply(tasks.take_and_do_with_less, (400,)) == "with less"
    assert limited.apply(tasks.own_limit) == 100 << 20
    assert pool.apply(tasks.own_limit) == before


def test_task_that_takes_what_it_need_not_ask_for_is_killed(pool: multihost.Pool, tmp_path: Path) -> None:
    neighbour = pool.apply_async(common.mark_and_wait, (tmp_path, "neighbour"))
    with pytest.raises(multihost.TaskOutOfMemory, match="was killed") as caught:
        pool.options(memory="100M").apply(tasks.take_shared, (300,))
    assert caught.value.killed
    assert caught.value.used_bytes > 100 << 20
    assert caught.value.output == "before the memory"
    (tmp_path / "go").touch()
    assert neighbour.get(DEADLINE)
    assert len([*tmp_path.glob("neighbour.began*")]) == 1


@pytest.mark.parametrize("shared", [False, True])
def test_only_the_item_that_takes_too_much_fails(pool: multihost.Pool, shared: bool) -> None:
    iterator = pool.options(memory="100M").imap(partial(tasks.take_if_third, shared=shared), range(6), chunksize=6)
    assert [iterator.next(DEADLINE) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(multihost.TaskOutOfMemory) as caught:
        iterator.next(DEADLINE)
    assert caught.value.killed == shared
    assert [*iterator] == [4, 5]


@pytest.mark.parametrize("function", [tasks.take, tasks.take_shared])
def test_too_much_memory_is_worth_another_try_if_the_caller_says_so(
    pool: multihost.Pool, tmp_path: Path, function: Callable[[int], object]
) -> None:
    once = partial(tasks.only_once, str(tmp_path), function, 300)
    limited = pool.options(memory="100M", retries=1, backoff=0.01)
    with pytest.raises(multihost.TaskOutOfMemory):
        limited.options(retry_for=ValueError).apply(once)
    (tmp_path / "once").unlink()
    assert limited.options(retry_for=MemoryError).apply(once) == "the second time"


@pytest.mark.parametrize("threads", [1, 2])
def test_worker_limits_all_its_tasks_and_no_option_raises_that(cluster: Cluster, threads: int) -> None:
    cluster.start_master()
    cluster.start_worker(slots=1, MULTIHOST_TASK_MEMORY="150M", MULTIHOST_THREADS=str(threads))
    with cluster.pool() as pool:
        assert pool.apply(tasks.take, (50,)) == 50
        for asked in (pool, pool.options(memory="1G")):
            with pytest.raises(multihost.TaskOutOfMemory) as caught:
                asked.apply(tasks.take, (400,))
            assert caught.value.limit_bytes == 150 << 20
        with pytest.raises(multihost.TaskOutOfMemory, match="was killed"):
            pool.apply(tasks.take_shared, (300,))
        with pytest.raises(multihost.TaskOutOfMemory) as caught:
            pool.options(memory="80M").apply(tasks.take, (100,))
        assert caught.value.limit_bytes == 80 << 20
        assert pool.map(common.square, range(300)) == [x * x for x in range(300)]
