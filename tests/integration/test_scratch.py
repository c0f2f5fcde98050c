"""Scratch directories: a task has one of its own, and nothing of it is left when the task has ended, however it did."""

import subprocess
import sys
from pathlib import Path

import pytest

import multihost
from tests.integration import scratch_tasks as tasks
from tests.integration.cluster import Cluster, wait_until


@pytest.mark.parametrize("chunksize", [1, 5])
def test_each_task_and_each_item_has_an_empty_directory_that_is_gone_with_it(
    pool: multihost.Pool, chunksize: int
) -> None:
    found = pool.map(tasks.write, [f"name-{n}" for n in range(20)], chunksize)
    assert [before for _, before in found] == [[]] * 20
    directories = {directory for directory, _ in found}
    assert len(directories) == 20
    wait_until(lambda: not any(directory.exists() for directory in directories), "all were removed")


def test_directory_of_a_task_that_raised_is_gone_when_its_caller_is_told(pool: multihost.Pool, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="note"):
        pool.apply(tasks.write_and_raise, (str(tmp_path / "note"),))
    assert not Path((tmp_path / "note").read_text()).exists()


def test_directory_of_a_task_that_was_killed_is_removed(pool: multihost.Pool, tmp_path: Path) -> None:
    with pytest.raises(multihost.WorkerDied):
        pool.apply(tasks.write_and_die, (str(tmp_path / "note"),))
    wait_until(lambda: not Path((tmp_path / "note").read_text()).exists(), "it was removed")


def test_directories_of_a_worker_that_was_killed_are_removed_by_the_next_one(cluster: Cluster, tmp_path: Path) -> None:
    room = tmp_path / "room"
    room.mkdir()
    note = tmp_path / "note"
    cluster.start_master()
    first = cluster.start_worker("w1", TMPDIR=str(room))
    with cluster.pool() as pool:
        pool.apply_async(tasks.write_and_wait, (str(note),))
        wait_until(note.exists, "the task has its directory")
        kept = Path(note.read_text())
        neighbour = cluster.start_worker("w2", TMPDIR=str(room))
        assert kept.exists(), "its worker lives"
        neighbour.end()
        first.kill()
    cluster.start_worker("w3", TMPDIR=str(room))
    wait_until(lambda: not kept.exists() and len([*room.glob("multihost-*")]) == 1, "that of the living one is left")


def test_outside_of_tasks_it_is_the_processs_own_until_its_end() -> None:
    text = "import multihost; first = multihost.scratch(); assert multihost.scratch() == first; print(first)"
    run = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30, check=True)
    assert run.stdout.startswith("/")
    assert not Path(run.stdout.strip()).exists()
