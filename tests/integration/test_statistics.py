"""``statistics`` of pools and executors, and the command ``status``, of a real cluster."""

import json
from pathlib import Path
from typing import Any

import multihost
from multihost.statistics import Tasks
from tests.integration import tasks as common
from tests.integration.cluster import Cluster, wait_until


def adds_up(tasks: Tasks) -> bool:
    return tasks.submitted == tasks.ended + tasks.waiting + tasks.running


def test_a_pool_tells_where_the_time_of_its_tasks_went(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        for _ in range(3):
            pool.apply(common.sleep, (0.2,))
        pool.apply(common.size, (bytes(300_000),))
        pool.apply(common.zeros, (200_000,))
        told = pool.statistics()
        assert told.answered
        assert (told.tasks.submitted, told.tasks.done, told.calls_submitted, told.calls_ended) == (5, 5, 5, 5)
        assert adds_up(told.tasks)
        assert adds_up(told.cluster)
        assert told.cluster.submitted >= 5
        assert (told.sent.tasks, told.received.tasks) == (5, 5)
        assert told.sent.bytes > 300_000
        assert told.received.bytes > 200_000
        assert (told.total.count, told.queued.count, told.run.count) == (5, 5, 5)
        assert 0.2 <= told.run.max_seconds <= told.total.max_seconds
        assert 0.6 <= told.run.sum_seconds <= told.total.sum_seconds
        assert told.queued.sum_seconds <= told.total.sum_seconds
        parts = told.queued.sum_seconds + told.run.sum_seconds + 5 * told.transfer_mean_seconds
        assert abs(parts - told.total.sum_seconds) < 1e-6
        assert "5 submitted: 5 done" in str(told)


def test_calls_in_chunks_are_counted_one_by_one(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        pool.map(common.square, range(1000), chunksize=100)
        told = pool.statistics()
    assert (told.calls_submitted, told.calls_ended, told.tasks.done) == (1000, 1000, 10)


def test_what_waits_and_runs_is_told_and_adds_up(tmp_path: Path, shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        results = [pool.apply_async(common.mark_and_wait, (tmp_path, f"{n}")) for n in range(5)]
        # A worker that has just run tiny tasks takes more at first, and gives them back.
        wait_until(lambda: waiting_and_running(pool) == (3, 2), "two slots are busy")
        told = pool.statistics()
        assert (told.tasks.submitted, told.tasks.ended) == (5, 0)
        assert results[4].cancel()
        assert pool.statistics().tasks.cancelled == 1
        (tmp_path / "go").touch()
        for result in results[:4]:
            result.get(30)
        told = pool.statistics()
        assert (told.tasks.done, told.tasks.cancelled, told.calls_ended) == (4, 1, 5)
        assert adds_up(told.tasks)


def waiting_and_running(pool: multihost.Pool) -> tuple[int, int]:
    told = pool.statistics().tasks
    return told.waiting, told.running


def test_an_executor_and_a_task_that_has_a_pool_have_statistics(shared_cluster: Cluster) -> None:
    address, authkey = str(shared_cluster.address), shared_cluster.authkey
    with multihost.Executor(address=address, authkey=authkey) as executor:
        assert executor.submit(of_a_task).result(30) == (True, 3)
        assert executor.statistics().tasks.done == 1


def of_a_task() -> tuple[bool, int]:
    with multihost.Pool() as pool:
        pool.map(common.square, range(3), chunksize=1)
        told = pool.statistics()
        return told.answered, told.tasks.done


def test_a_closed_pool_tells_what_this_side_knows(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        pool.apply(common.square, (3,))
    told = pool.statistics()
    assert (told.answered, told.calls_ended, told.tasks.submitted) == (False, 1, 0)
    assert "the master did not answer" in str(told)


def test_the_command_status_tells_of_master_workers_and_sessions(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    cluster.start_master(MULTIHOST_JOURNAL=str(tmp_path / "journal"), MULTIHOST_LEASE_TIMEOUT="1.5")
    cluster.start_worker(slots=2)

    def status() -> dict[str, Any]:
        printed = cluster.run("-m", "multihost", "status", "--json")
        told: dict[str, Any] = json.loads(printed)
        return told

    with cluster.pool() as pool:
        pool.map(common.sleep, [0.1] * 4, chunksize=1)
        wait_until(lambda: status()["workers"][0]["load"].get("sent_tasks") == 4, "a heartbeat told of it")
        told = status()
        assert adds_up(Tasks(**told["tasks"]))
        (worker,) = told["workers"]
        assert (worker["ended"], worker["run"]["count"]) == (4, 4)
        assert worker["run"]["sum_seconds"] >= 0.4
        assert 0.0 < worker["busy_share"] <= 1.0
        assert worker["load"]["children_started"] == 2
        assert worker["load"]["children_bytes"] > 1_000_000
        (session,) = told["sessions"]
        assert session["tasks"]["done"] == 4
        assert told["journal"]["rows"] == told["journal"]["commit"]["count"] > 0
        assert told["turns"] > 0
        assert told["uptime_seconds"] > 0.4
        assert "worker w1, ready, 2 slots" in cluster.run("-m", "multihost", "status")
