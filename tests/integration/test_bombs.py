"""Fork bombs: what a worker needs to stay connected and to end them, it has already."""

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import multihost
from tests.integration import bombs, tasks
from tests.integration.cluster import DEADLINE, WORKER, Cluster, Program, wait_until

PIDS = Path("/sys/fs/cgroup/pids")
MOST = 40


@pytest.fixture
def room() -> Iterator[Path]:
    """A cgroup in which there are few processes at a time."""
    group = PIDS / f"multihost-test-{secrets.token_hex(4)}"
    try:
        group.mkdir()
        (group / "pids.max").write_text(str(MOST))
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    yield group
    wait_until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
    group.rmdir()


def start_confined(cluster: Cluster, group: Path, slots: int) -> Program:
    inside = ("sh", "-c", f'echo $$ >{group}/cgroup.procs && exec "$0" "$1"')
    settings = {"MULTIHOST_NAME": "w1", "MULTIHOST_SLOTS": str(slots)}
    worker = cluster.start("w1", *inside, sys.executable, WORKER, cwd=None, **settings)
    wait_until(lambda: cluster.worker("w1"), "the worker joined")
    return worker


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds", "heeds no interrupt"])
def test_a_fork_bomb_is_ended_by_its_timeout_and_costs_nobody_else_a_delivery(
    room: Path, cluster: Cluster, tmp_path: Path, heeds: bool
) -> None:
    def processes() -> int:
        return int((room / "pids.current").read_text())

    # Where the interrupt meets a hook of os.fork, Python prints and forgets it; then the bomb is killed, too.
    cluster.tracebacks_expected = True
    cluster.start_master(MULTIHOST_LEASE_TIMEOUT="2")
    worker = start_confined(cluster, room, slots=3)
    with cluster.pool() as pool, cluster.pool() as other:
        neighbour = pool.apply_async(tasks.mark_and_wait, (tmp_path, "neighbour"))
        wait_until(lambda: [*tmp_path.glob("neighbour.began.*")], "the neighbour runs")
        before = processes()
        bomb = pool.options(timeout=4.0).apply_async(bombs.fork_for_ever, (heeds,))
        wait_until(lambda: processes() == MOST, "there is no room left")
        late = other.apply_async(tasks.square, (3,))  # for which a process would have to be started
        worker.wait_for_log("no process could be started")
        with pytest.raises(multihost.TaskTimeout):
            bomb.get(DEADLINE)
        wait_until(lambda: processes() <= before + 4, "the bomb's processes are gone")
        (tmp_path / "go").touch()
        neighbour.get(DEADLINE)
        assert late.get(DEADLINE) == 9
        assert pool.map(tasks.square, range(100), chunksize=1) == [x * x for x in range(100)]
    assert worker.running
    assert len([*tmp_path.glob("neighbour.began.*")]) == 1
    assert cluster.master.log().count("worker joined") == 1, "it stayed connected"


def test_the_copy_of_a_process_in_which_its_task_returns_neither_answers_nor_takes_tasks(
    shared_cluster: Cluster,
) -> None:
    with shared_cluster.pool() as pool:
        for _ in range(5):
            here = pool.apply(bombs.return_twice)
            assert pool.map(tasks.square, range(100), chunksize=1) == [x * x for x in range(100)]
            assert here in pool.map(tasks.pid, range(20), chunksize=1)
