"""A master with a journal: killed at any moment it begins where it ended, and a full disk only makes it wait."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

import multihost
from tests.integration import failing_master, tasks
from tests.integration.cluster import DEADLINE, ROOT, Cluster, Program, wait_until
from tests.integration.failing_master import POINTS

MEGABYTE = 1024 * 1024
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")

LEAVE_TASKS = """
import threading, multihost
pool = multihost.Pool()
outcomes = [pool.apply_async(abs, (-n,)) for n in range(100)]
threading.Event().wait()
"""
LEAVE_JOB = """
import threading, multihost
pool = multihost.Pool()
pool.map_async(abs, range(10), 2, detached="job")
print("it is whole", flush=True)
threading.Event().wait()
"""
QUEUES = """
import os
from multihost import QueueManager
host, port = os.environ["MULTIHOST_ADDRESS"].split(":")
manager = QueueManager((host, int(port)), os.environ["MULTIHOST_AUTHKEY"].encode())
manager.connect()
queue = manager.get_task_queue()
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    directory = tmp_path / "journal-of-the-master"
    directory.mkdir()
    return directory


@pytest.fixture
def lasting(tmp_path: Path, journal: Path) -> Iterator[Cluster]:
    """A cluster whose master has a journal."""
    with Cluster(tmp_path, MULTIHOST_JOURNAL=str(journal)) as cluster:
        yield cluster


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of four megabytes."""
    directory = Path(tempfile.mkdtemp())
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", "--lazy", directory], check=True)
    directory.rmdir()


def _has_lines(file: Path, more_than: int) -> bool:
    return file.exists() and len(file.read_text().split()) > more_than


def restart(cluster: Cluster) -> Program:
    cluster.master.kill()
    return cluster.start_master()


def test_what_was_accepted_is_there_after_the_master_was_killed(lasting: Cluster) -> None:
    lasting.start_master()
    client = lasting.start_python("-c", LEAVE_TASKS)
    wait_until(lambda: lasting.statistics()["submitted"] == 100, "the tasks were submitted")
    client.kill()
    for _ in range(2):
        restart(lasting)
        assert (lasting.statistics()["queued"], lasting.statistics()["sessions"]) == (100, 1)
    lasting.start_worker()
    lasting.wait_for(done=100, queued=0)


@pytest.mark.parametrize("chunksize", [1, 20])
def test_no_task_runs_twice_because_the_master_was_killed(lasting: Cluster, tmp_path: Path, chunksize: int) -> None:
    ran = tmp_path / "ran"
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(ran), n) for n in range(400)], chunksize)
        for count in (50, 150, 250):
            wait_until(partial(_has_lines, ran, count), "the job goes on")
            restart(lasting)
        assert outcome.get(DEADLINE) == list(range(400))
    assert sorted(int(line) for line in ran.read_text().split()) == list(range(400))


@pytest.mark.parametrize("point", POINTS)
def test_master_that_dies_around_a_commit_loses_and_repeats_nothing(
    lasting: Cluster, tmp_path: Path, point: str
) -> None:
    ran = tmp_path / "ran"
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(ran), n) for n in range(400)], chunksize=1)
        lasting.master.kill()
        for commits in (1, 2, 5, 20):
            failing = lasting.start(
                "failing", sys.executable, "-m", failing_master.__name__, point, str(commits), cwd=ROOT
            )
            assert failing.wait(DEADLINE) == -signal.SIGKILL
        lasting.start_master()
        assert outcome.get(DEADLINE) == list(range(400))
    assert sorted(int(line) for line in ran.read_text().split()) == list(range(400))
    statistics = lasting.statistics()
    assert (statistics["done"], statistics["redelivered"]) == (400, 0)


def job_is_there(cluster: Cluster, *build: str) -> bool:
    """The master dies before it commits that a detached job is whole; is the job there when its program was told so?"""
    failing = [failing_master.__name__, "before the commit", "seal", *build]
    master = cluster.start("failing", sys.executable, "-m", *failing, cwd=ROOT)
    client = cluster.start_python("-c", LEAVE_JOB)
    assert master.wait(DEADLINE) == -signal.SIGKILL
    if not build:
        assert "it is whole" not in client.log()
        cluster.start_master()
    client.wait_for_log("it is whole")
    client.kill()
    if build:
        cluster.start_master()
    cluster.start_worker()
    try:
        with multihost.attach("job", address=str(cluster.address), authkey=cluster.authkey) as job:
            return job.get(DEADLINE) == [*range(10)]
    except multihost.JobError:
        return False


def test_job_whose_program_was_told_that_it_is_whole_is_there_wherever_the_master_dies(lasting: Cluster) -> None:
    assert job_is_there(lasting)


def test_master_that_answers_before_it_commits_is_found_out(lasting: Cluster) -> None:
    """The test above can fail."""
    assert not job_is_there(lasting, "replies first")


def test_task_that_runs_while_the_master_is_away_is_settled_under_its_token(lasting: Cluster, tmp_path: Path) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "it"))
        wait_until(lambda: list(tmp_path.glob("it.began.*")), "the task runs")
        lasting.master.kill()
        (tmp_path / "go").touch()
        wait_until(lambda: list(tmp_path.glob("it.ended.*")), "the task ended")
        lasting.start_master()
        outcome.get(DEADLINE)
    assert len(list(tmp_path.glob("it.began.*"))) == 1
    assert lasting.statistics()["redelivered"] == 0


def test_items_of_shared_queues_outlive_the_master(lasting: Cluster) -> None:
    lasting.start_master()
    lasting.run("-c", QUEUES + "for n in range(5): queue.put(('item', n))")
    lasting.run("-c", QUEUES + "assert queue.get() == ('item', 0); queue.task_done()")
    restart(lasting)
    output = lasting.run("-c", QUEUES + "print([queue.get()[1] for _ in range(queue.qsize())])")
    assert output.strip() == "[1, 2, 3, 4]"


def test_master_that_ends_by_itself_leaves_what_it_knew(lasting: Cluster) -> None:
    master = lasting.start_master()
    client = lasting.start_python("-c", LEAVE_TASKS)
    wait_until(lambda: lasting.statistics()["submitted"] == 100, "the tasks were submitted")
    client.kill()
    master.process.terminate()
    assert master.wait(5.0) == 0
    lasting.start_master()
    assert lasting.statistics()["queued"] == 100


def test_second_master_on_a_journal_says_so_and_exits_with_75(lasting: Cluster) -> None:
    lasting.start_master()
    second = lasting.start_python(Path(__file__).parents[2] / "master" / "task_master.py")
    assert second.wait() == 75
    assert "is used by another master" in second.log()


def test_master_without_the_directory_of_its_journal_exits_with_74(lasting: Cluster, journal: Path) -> None:
    journal.rmdir()
    master = lasting.start_python(Path(__file__).parents[2] / "master" / "task_master.py")
    assert master.wait() == 74
    assert "there is no such directory" in master.log()


def test_journal_does_not_grow_with_what_is_done(lasting: Cluster, journal: Path) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        for _ in range(40):
            pool.map(len, [bytes(10_000)] * 100, chunksize=1)
    size = (journal / "journal").stat().st_size
    assert size < 20 * MEGABYTE, f"{size:,} bytes after 40 MB went through"
    restart(lasting)
    assert lasting.statistics()["done"] == 4000


def status_printed(cluster: Cluster) -> str:
    asker = cluster.start("asker", sys.executable, "-m", "multihost", "status")
    assert asker.wait() == 0
    return asker.log()


@needs_root
def test_full_disk_makes_the_master_wait_until_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    filler = small_disk / "filler"
    with Cluster(tmp_path, MULTIHOST_JOURNAL=str(small_disk)) as cluster:
        master = cluster.start_master()
        cluster.start_worker()
        filler.write_bytes(bytes(3 * MEGABYTE))
        with cluster.pool() as pool:
            outcome = pool.map_async(len, [bytes(100_000)] * 20, chunksize=1)
            master.wait_for_log("could not be written")
            with pytest.raises(multihost.TimeoutError):
                outcome.get(1.0)
            assert cluster.statistics()["workers"], "questions are answered"
            for command in (["dead", "list"], ["dead", "drop", "1"], ["explain", "0"]):
                asker = cluster.start("asker", sys.executable, "-m", "multihost", *command)
                assert asker.wait() == 74
                assert "could not be written" in asker.log()
            assert outcome.explain().reason == "journal"
            assert pool.statistics().answered
            assert "could not be written (No space left on device)" in status_printed(cluster)
            filler.unlink()
            assert outcome.get(DEADLINE) == [100_000] * 20
            assert "could not be written" not in status_printed(cluster)
        assert "work goes on" in master.log()
        assert len([line for line in master.log().splitlines() if "could not be written" in line]) < 3
