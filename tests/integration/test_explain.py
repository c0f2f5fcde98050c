"""``explain`` through the whole cluster: of results, of futures, and on the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

import multihost
from tests.integration import tasks as common
from tests.integration.cluster import Cluster, wait_until


def test_results_futures_and_the_command_line_tell_why_a_task_is_not_done(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.start_master()
        address, authkey = str(cluster.address), cluster.authkey
        with cluster.pool() as pool, multihost.Executor(address=address, authkey=authkey) as executor:
            first = pool.apply_async(common.mark_and_wait, (tmp_path, "first"))
            cluster.wait_for(queued=1)
            assert first.explain().reason == "no worker"
            cluster.start_worker(slots=1)
            wait_until(lambda: (tmp_path / "first").exists() or [*tmp_path.glob("first*")], "it runs")
            told = first.explain()
            assert (told.state, told.reason, told.worker) == ("leased", "running", "w1")
            assert told.seconds is not None

            future = executor.submit(common.square, 3)
            gpu = executor.options(labels="gpu").submit(common.square, 3)
            late = pool.options(delay=3600).apply_async(common.square, (3,))
            many = pool.map_async(common.square, range(10), chunksize=2)
            cluster.wait_for(submitted=9)
            assert future.explain().reason in ("turn", "backlog")
            assert gpu.explain().reason == "labels"
            assert "for 3" in str(late.explain())
            assert many.explain().state in ("queued", "leased")

            words = cluster.run("-m", "multihost", "explain", "--address", address, "0")
            assert "worker w1 has it for" in words
            rows = cluster.run("-m", "multihost", "explain", "--json", f"{told.session[:6]}/1")
            (row,) = [json.loads(line) for line in rows.splitlines()]
            assert (row["session"], row["task"], row["reason"]) == (told.session, 1, "delay")
            assert "for 3" in row["text"]

            (tmp_path / "go").touch()
            assert many.get(30) == [x * x for x in range(10)]
            assert future.result(30) == 9
            first.get(30)
            assert (first.explain().state, first.explain().reason) == ("ended", "result")
            assert (future.explain().state, future.explain().reason) == ("ended", "result")
            assert late.cancel()
            assert (late.explain().state, late.explain().reason) == ("ended", "cancelled")
            assert gpu.cancel()
            assert gpu.explain().reason == "cancelled"


def wait_in_a_task(directory: Path, depth: int) -> int:
    if not depth:
        return common.mark_and_wait(directory, "leaf")
    with multihost.Pool() as pool:
        results = [pool.apply_async(wait_in_a_task, (directory, depth - 1)) for _ in range(2)]
        return sum(result.get() for result in results)


def test_a_task_that_waits_for_its_own_tasks_says_for_which(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster") as cluster:
        cluster.start_master()
        cluster.start_worker(slots=2)
        with cluster.pool() as pool:
            result = pool.apply_async(wait_in_a_task, (tmp_path, 2))
            wait_until(lambda: len([*tmp_path.glob("leaf.began*")]) == 2, "two leaves run")
            told = result.explain()
            assert (told.reason, told.waits_for) == ("children", 2)
            assert f"waits for 2 of the tasks that it has submitted: {told.children[0][:8]}/0, " in str(told)
            children = [explained(cluster, child) for child in told.children]
            for child in children:
                assert (child["state"], child["reason"], child["waits_for"]) == ("leased", "children", 2)
            leaves = [explained(cluster, leaf) for child in children for leaf in child["children"]]
            assert "running" in [leaf["reason"] for leaf in leaves], "two of the four have a slot"
            (tmp_path / "go").touch()
            result.get(30)


def explained(cluster: Cluster, task: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(cluster.run("-m", "multihost", "explain", "--json", task))
    return told


def test_a_chunk_that_the_master_has_no_room_for_says_so(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        cluster.start_master(MULTIHOST_MAX_TASKS="1")
        with cluster.pool() as pool:
            first = pool.map_async(common.square, range(2), chunksize=2)
            cluster.wait_for(queued=1)
            second = pool.map_async(common.square, range(2), chunksize=2)
            wait_until(lambda: second.explain().reason == "full", "the master has refused it")
            assert first.explain().reason == "no worker"
            assert "the master is full" in str(second.explain())
            cluster.start_worker()
            assert second.get(30) == first.get(30) == [0, 1]


def test_who_asks_in_a_callback_is_not_kept_waiting(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        told: list[str] = []
        waiting = pool.options(delay=3600).apply_async(common.square, (3,))
        pool.apply_async(common.square, (3,), callback=lambda _: told.append(waiting.explain().reason)).get(30)
        wait_until(lambda: told, "the callback has asked")
        assert told in (["callback"], ["unsent"])


def test_while_the_master_is_away_the_explanation_says_so(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        master = cluster.start_master()
        with cluster.pool() as pool:
            result = pool.apply_async(common.square, (3,))
            master.kill()
            wait_until(lambda: result.explain().reason == "unreachable", "it is known that the master is away")
            cluster.start_master()
            cluster.start_worker()
            assert result.get(60) == 9


@pytest.mark.parametrize("task", ["999999", "nobody/0"])
def test_no_such_task_is_told_with_exit_code_1(shared_cluster: Cluster, task: str) -> None:
    with pytest.raises(AssertionError, match="has no such task"):
        shared_cluster.run("-m", "multihost", "explain", task)
