"""What is told of a process that died in the middle of a task, and what becomes of the processes it started."""

import signal
import socket
from collections.abc import Iterator

import pytest

import multihost
from tests.integration import deadly_tasks as tasks
from tests.integration import tasks as common
from tests.integration.cluster import DEADLINE, Cluster


@pytest.fixture
def pool(shared_cluster: Cluster) -> Iterator[multihost.Pool]:
    with shared_cluster.pool() as pool:
        yield pool


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
