"""What a cluster in containers survives: killed, stopped and cut-off workers, a master that restarts or hangs."""

import time
from collections import Counter
from typing import Any

import pytest

import multihost
from tests.acceptance import hostile_tasks
from tests.acceptance.cluster import Cluster, free_port, host_name, in_container, wait_until
from tests.acceptance.conftest import ClusterMaker


def test_tasks_of_a_killed_worker_run_again_and_no_others(cluster: Cluster) -> None:
    cluster.scale(workers=3)
    count = 24
    job = cluster.start_ledger_job(count, seconds=1.0)
    victim = cluster.workers[0]
    wait_until(lambda: job.ledger().unfinished(host_name(victim)), "the victim was in the middle of a task")

    victim.kill()

    job.succeed()
    interrupted = job.ledger().unfinished(host_name(victim))
    assert interrupted
    assert job.ledger().began == Counter(range(count)) + Counter(interrupted)
    assert job.ledger().ended == Counter(range(count))
    assert job.output() == squares(count)


def test_a_worker_that_crashes_is_started_again_and_its_task_is_not_lost(cluster: Cluster) -> None:
    cluster.scale(workers=1)
    count = 8
    job = cluster.start_ledger_job(count, seconds=1.0)
    (worker,) = cluster.workers
    wait_until(lambda: job.ledger().began, "the worker was in the middle of a task")

    signal_program(worker, "KILL")

    job.succeed()
    worker.reload()
    assert worker.attrs["RestartCount"] == 1
    assert job.ledger().ended == Counter(range(count))
    assert job.output() == squares(count)


def test_stopped_workers_finish_what_they_run_and_the_job_goes_on_with_new_ones(cluster: Cluster) -> None:
    cluster.scale(workers=3)
    count = 40
    job = cluster.start_ledger_job(count, seconds=1.0)
    stopped = cluster.workers
    wait_until(lambda: len(job.ledger().workers) == 3, "every worker took part")

    begun = time.monotonic()
    cluster.compose("stop", "worker")

    assert time.monotonic() - begun < 10.0, "tasks of one second were not drained but waited for"
    for worker in stopped:
        worker.reload()
        assert (worker.status, worker.attrs["State"]["ExitCode"]) == ("exited", 0)
        assert "drained and stopped" in worker.logs(tail=3).decode()
    assert job.running
    drained = job.ledger()
    assert 0 < len(drained.began) < count
    assert drained.began == drained.ended
    cluster.scale(workers=3)
    job.succeed()
    assert job.ledger().began == job.ledger().ended == Counter(range(count))
    assert job.output() == squares(count)


def test_workers_and_pools_find_a_restarted_master_by_themselves(make_cluster: ClusterMaker) -> None:
    # A port that stays: a free one would be another one after the restart, and the pool is outside.
    cluster = make_cluster(MULTIHOST_PUBLISH=f"127.0.0.1:{free_port()}")
    cluster.scale(workers=2)
    started = started_at(cluster)
    with multihost.Pool(address=str(cluster.address), authkey=cluster.authkey) as pool:
        assert pool.starmap(pow, [(n, 2) for n in range(10)]) == [n * n for n in range(10)]

        cluster.master.restart()
        cluster.wait_for_workers(2)
        assert pool.starmap(pow, [(n, 3) for n in range(10)]) == [n**3 for n in range(10)]

        cluster.master.kill()
        cluster.master.start()
        cluster.wait_for_workers(2)
        assert pool.starmap(pow, [(n, 4) for n in range(10)]) == [n**4 for n in range(10)]
    assert started_at(cluster) == started, "the workers did not wait for the master but were started anew"


def test_a_job_survives_its_master(cluster: Cluster) -> None:
    cluster.scale(workers=2)
    count = 20
    job = cluster.start_ledger_job(count, seconds=0.5)
    wait_until(lambda: len(job.ledger().ended) >= 4, "some tasks had ended and more had not")

    signal_program(cluster.master, "KILL")

    job.succeed()
    assert cluster.master.attrs["RestartCount"] == 1
    assert job.ledger().began == job.ledger().ended == Counter(range(count)), "its journal knew what ran where"
    assert job.output() == squares(count)
    cluster.wait_for_workers(2)


def test_a_master_that_hangs_is_unhealthy_until_it_goes_on_and_its_job_is_completed(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster()
    cluster.scale(workers=1)
    count = 10
    job = cluster.start_ledger_job(count, seconds=0.5)
    wait_until(lambda: job.ledger().began, "the job was under way")
    cluster.wait_for_health(cluster.master, "healthy")

    signal_program(cluster.master, "STOP")
    cluster.wait_for_health(cluster.master, "unhealthy")
    assert job.running
    signal_program(cluster.master, "CONT")

    cluster.wait_for_health(cluster.master, "healthy")
    job.succeed()
    assert {*job.ledger().ended} == {*range(count)}
    assert job.output() == squares(count)


def test_tasks_of_a_worker_that_is_cut_off_run_elsewhere_and_it_joins_again(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster(MULTIHOST_LEASE_TIMEOUT="3")
    cluster.scale(workers=2)
    count = 20
    job = cluster.start_ledger_job(count, seconds=1.0)
    victim = cluster.workers[0]
    started = started_at(cluster)
    network = cluster.engine.networks.get(f"{cluster.project}_cluster")
    wait_until(lambda: job.ledger().unfinished(host_name(victim)), "the victim was in the middle of a task")

    network.disconnect(victim)
    cluster.wait_for_workers(1)
    network.connect(victim)
    cluster.wait_for_workers(2)

    job.succeed()
    repeated = job.ledger().began - Counter(range(count))
    assert repeated, "no task was redelivered"
    assert {*repeated.values()} == {1}
    assert job.output() == squares(count)
    assert started_at(cluster) == started, "the worker did not join again but was started anew"


def squares(count: int) -> str:
    return f"{[n * n for n in range(count)]}\n"


def started_at(cluster: Cluster) -> list[str]:
    return [worker.attrs["State"]["StartedAt"] for worker in cluster.workers]


def signal_program(container: Any, name: str) -> None:
    """Signal the container's program itself, the one child of its init."""
    script = f"kill -{name} $(cat /proc/1/task/1/children)"
    code, output = in_container(container, "sh", "-c", script)
    # With its program the container ends, and with the container the shell that sent the signal, be it done or not.
    assert output == ""
    assert code in ((0, 137) if name == "KILL" else (0,))


def test_a_fork_bomb_takes_the_processes_of_its_container_and_no_others(make_cluster: ClusterMaker) -> None:
    most = 150
    cluster = make_cluster(MULTIHOST_PIDS=str(most), MULTIHOST_SLOTS="2")
    cluster.scale(workers=2)
    with multihost.Pool(address=str(cluster.address), authkey=cluster.authkey) as pool:
        assert 0 < pool.apply(hostile_tasks.fork_until_refused, (4 * most,)) < most
        assert pool.starmap(pow, [(n, 2) for n in range(100)], chunksize=1) == [n * n for n in range(100)]


def test_a_full_disk_is_that_tasks_error_and_the_next_one_finds_room(make_cluster: ClusterMaker) -> None:
    cluster = make_cluster(MULTIHOST_TMP="32m", MULTIHOST_SLOTS="1")
    cluster.scale(workers=1)
    with multihost.Pool(address=str(cluster.address), authkey=cluster.authkey) as pool:
        for _ in range(3):
            with pytest.raises(OSError, match="No space left"):
                pool.apply(hostile_tasks.write_to_scratch, (64,))
            assert pool.apply(hostile_tasks.write_to_scratch, (16,)) == 16 << 20
