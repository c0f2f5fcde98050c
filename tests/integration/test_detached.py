"""Detached jobs: the program that submits one ends, and others collect its results, each of them once."""

import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest

import multihost
from tests.integration import tasks
from tests.integration.cluster import Cluster

SUBMIT = """
import multihost, os, pathlib, signal, sys, time

def work(n):
    while n >= 30 and not pathlib.Path(sys_argv, "go").exists():
        time.sleep(0.01)
    with open(pathlib.Path(sys_argv, "ran"), "a") as file:
        file.write(f"{n}\\n")
    if n == 45:
        raise KeyError(n)
    return n * n

sys_argv = sys.argv[1]
if __name__ == "__main__":
    pool = multihost.Pool()
    pool.map_async(work, range(60), chunksize=4, detached="squares")
    os.kill(os.getpid(), signal.SIGKILL)
"""
# Dies over the tenth result that it has got, when it has written it down.
COLLECT = """
import multihost, os, signal, sys
with multihost.attach("squares") as job:
    for number, result in enumerate(job):
        print(result, flush=True)
        if number == 9:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def attach(cluster: Cluster, name: str) -> "multihost.Job[Any]":
    return multihost.attach(name, address=str(cluster.address), authkey=cluster.authkey, timeout=20)


def outcomes_of(job: "multihost.Job[Any]") -> list[Any]:
    """Results, and in their places the exceptions' types."""
    found: list[Any] = []
    while True:
        try:
            found.append(next(job))
        except StopIteration:
            return found
        except KeyError as error:
            found.append(type(error))


def test_a_job_outlives_its_program_a_killed_collector_and_a_killed_master(lasting: Cluster, tmp_path: Path) -> None:
    script = tmp_path / "submit.py"
    script.write_text(SUBMIT.replace("sys_argv = sys.argv[1]", f"sys_argv = {str(tmp_path)!r}"))
    lasting.start_master()
    lasting.start_worker()
    assert lasting.start_python(script).wait() == -9
    collector = lasting.start_python("-c", COLLECT)
    assert collector.wait() == -9
    assert collector.log().split() == [str(n * n) for n in range(10)]
    lasting.master.kill()
    lasting.start_master()
    (tmp_path / "go").touch()
    with attach(lasting, "squares") as job:
        assert len(job) == 60
        # The result over which the other one died was not acknowledged.
        assert outcomes_of(job) == [KeyError if n == 45 else n * n for n in range(9, 60)]
    with pytest.raises(multihost.JobUnknown):
        attach(lasting, "squares")
    assert sorted(map(int, (tmp_path / "ran").read_text().split())) == [*range(60)], "each ran once"
    lasting.wait_for(sessions=1)  # that of the pool, whose program may come back


def test_the_master_is_killed_while_results_are_collected(lasting: Cluster) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        job = pool.map_async(tasks.square, range(100), chunksize=7, detached="j")
    found = [next(job) for _ in range(50)]
    lasting.master.kill()
    lasting.start_master()
    found += job
    assert found == [n * n for n in range(100)]


def test_a_job_of_single_calls_comes_in_order(lasting: Cluster) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        pool.options(retries=1).starmap_async(pow, [(n, 2) for n in range(20)], detached="powers")
    assert [*attach(lasting, "powers")] == [n * n for n in range(20)]


def test_a_list_of_results_stays_until_the_job_is_closed(lasting: Cluster) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        job = pool.map_async(tasks.square, range(30), detached="j")
        with pytest.raises(multihost.JobExists):
            pool.map_async(tasks.square, range(30), detached="j")
    assert job.get(30) == [n * n for n in range(30)]
    assert job.get() == [n * n for n in range(30)]
    job.__exit__(OSError, OSError("the list was lost"), None)
    with attach(lasting, "j") as again:
        with pytest.raises(multihost.JobBusy):
            attach(lasting, "j")
        assert again.ready()
        assert again.get() == [n * n for n in range(30)]
    with pytest.raises(multihost.JobUnknown):
        attach(lasting, "j")


def test_waiting_for_a_result_ends_in_time_and_can_go_on(lasting: Cluster) -> None:
    lasting.start_master()
    with lasting.pool() as pool:
        job = pool.map_async(tasks.square, range(3), detached="j")
    with pytest.raises(multiprocessing.TimeoutError):
        job.next(0.05)
    with pytest.raises(multiprocessing.TimeoutError):
        job.get(0.05)
    assert job.ended() == 0
    lasting.start_worker()
    assert [*job] == [0, 1, 4]


def test_a_dropped_job_is_gone_and_its_name_is_free(lasting: Cluster) -> None:
    lasting.start_master()
    with lasting.pool() as pool:
        pool.map_async(tasks.square, range(3), detached="j").drop()
        lasting.wait_for(queued=0, cancelled=3)
        pool.map_async(tasks.square, range(3), detached="j")
    lasting.wait_for(queued=3)


def test_what_cannot_be_sent_fails_at_once_and_leaves_no_job(lasting: Cluster) -> None:
    lasting.start_master()
    with lasting.pool() as pool:
        with pytest.raises(TypeError):
            pool.map_async(tasks.square, [1, iter(range(3)).__next__, threading.Lock()], chunksize=1, detached="j")
        lasting.wait_for(sessions=1, queued=0)


def test_a_job_that_is_not_whole_is_said_to_be_so_and_goes_with_its_program(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master(MULTIHOST_SESSION_TIMEOUT="1")
    program = cluster.start_python(
        "-c",
        "import multihost.detached, threading\n"
        "multihost.detached.Session.seal = lambda *_: threading.Event().wait()\n"
        "multihost.Pool().map_async(abs, range(3), detached='j')",
    )
    cluster.wait_for(queued=3)
    with pytest.raises(multihost.JobIncomplete):
        attach(cluster, "j")
    program.kill()
    cluster.wait_for(queued=0)
    with pytest.raises(multihost.JobUnknown):
        attach(cluster, "j")


def test_a_job_nobody_comes_for_is_dropped_when_its_time_is_over(cluster: Cluster) -> None:
    cluster.start_master(MULTIHOST_JOB_TTL="0.2")
    cluster.start_worker()
    with cluster.pool() as pool:
        pool.map_async(tasks.square, range(3), detached="j")
    cluster.wait_for(done=3)
    cluster.master.wait_for_log("detached job j ended: its time to live is over")
    with pytest.raises(multihost.JobUnknown):
        attach(cluster, "j")


def test_a_cluster_of_ones_own_has_no_detached_jobs() -> None:
    with multihost.Pool(1) as pool, pytest.raises(multihost.SettingsError, match="outlives"):
        pool.map_async(tasks.square, range(3), detached="j")
    with pytest.raises(multihost.SettingsError, match="address"):
        multihost.attach("j")


def test_a_collector_that_loses_its_connection_goes_on_where_it_was(lasting: Cluster) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        job = pool.map_async(tasks.square, range(40), chunksize=3, detached="j")
    found = []
    for result in job:
        found.append(result)
        if len(found) % 5 == 0 and job._link is not None:
            job._link.interrupt()
    assert found == [n * n for n in range(40)]


def test_a_job_whose_last_acknowledgement_goes_unanswered_is_over_nevertheless(
    lasting: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lasting.start_master()
    lasting.start_worker()
    with lasting.pool() as pool:
        job = pool.map_async(tasks.square, range(3), detached="j")
    lasting.wait_for(sessions=1, done=3)
    found = [next(job) for _ in range(3)]

    def lose_the_answer(*_: object) -> None:
        lasting.wait_for(sessions=0)
        raise ConnectionError("lost")

    monkeypatch.setattr(job, "_receive", lose_the_answer)
    assert [*found, *job] == [0, 1, 4]
    assert [*job] == [], "over it stays"
    assert (len(job), job.ended(), job.ready()) == (3, 3, True)
    job.close()
    with pytest.raises(ValueError, match="closed"):
        next(job)
