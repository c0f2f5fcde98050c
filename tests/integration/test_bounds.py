"""A master that is full: who is refused hears it, who can wait waits, and work goes on when there is room."""

from pathlib import Path

import pytest

import multihost
from multihost.shared import QueueManager
from tests.integration import tasks as common
from tests.integration.cluster import Cluster, wait_until


def test_calls_beyond_the_bound_fail_and_a_map_waits_for_room(tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    with Cluster(tmp_path / "cluster", MULTIHOST_MAX_TASKS="10") as cluster:
        cluster.start_master()
        cluster.start_worker(slots=2)
        with cluster.pool() as pool:
            busy = [pool.apply_async(common.mark_and_wait, (tmp_path, f"busy-{n}")) for n in range(10)]
            cluster.wait_for(submitted=10)
            refused = pool.apply_async(common.square, (3,))
            with pytest.raises(multihost.ClusterFull, match=r"10 tasks.*MULTIHOST_MAX_TASKS"):
                refused.get(30)
            with pytest.raises(multihost.ClusterFull):
                pool.apply(common.square, (3,))
            maps = [pool.map_async(common.square, range(100), chunksize) for chunksize in (None, 1)]
            stream = pool.imap(common.square, range(100))
            assert cluster.statistics()["submitted"] == 10
            (tmp_path / "go").touch()
            for result in maps:
                assert result.get(60) == [x * x for x in range(100)]
            assert list(stream) == [x * x for x in range(100)]
            assert len([result.get(30) for result in busy]) == 10
            wait_until(lambda: pool.apply_async(common.square, (3,)).get(30) == 9, "calls are taken again")


def test_programs_that_meet_at_the_bound_lose_nothing(tmp_path: Path) -> None:
    with Cluster(tmp_path, MULTIHOST_MAX_TASKS="3") as cluster:
        cluster.start_master()
        cluster.start_worker(slots=2)
        with cluster.pool() as one, cluster.pool() as other:
            streams = [pool.imap(common.square, range(300)) for pool in (one, other)]
            maps = [pool.map_async(common.square, range(300), chunksize=1) for pool in (one, other)]
            for stream in streams:
                assert [stream.next(60) for _ in range(300)] == [x * x for x in range(300)]
            for result in maps:
                assert result.get(60) == [x * x for x in range(300)]
            statistics = cluster.statistics()
            assert statistics["submitted"] == statistics["done"] == 1200


def test_pool_beyond_the_bound_of_sessions_is_refused_at_once(tmp_path: Path) -> None:
    with Cluster(tmp_path, MULTIHOST_MAX_SESSIONS="1") as cluster:
        cluster.start_master()
        cluster.start_worker()
        with cluster.pool() as pool:
            with pytest.raises(multihost.ClusterFull, match=r"1 sessions.*MULTIHOST_MAX_SESSIONS"):
                cluster.pool()
            assert pool.apply(common.square, (3,)) == 9
        cluster.wait_for(sessions=0)
        with cluster.pool() as pool:
            assert pool.apply(common.square, (3,)) == 9


def test_client_beyond_the_bound_of_connections_is_refused_and_a_worker_is_not(tmp_path: Path) -> None:
    with Cluster(tmp_path, MULTIHOST_MAX_CONNECTIONS="1") as cluster:
        cluster.start_master()
        with cluster.pool() as pool:
            with pytest.raises(multihost.ClusterFull, match=r"connections.*MULTIHOST_MAX_CONNECTIONS"):
                cluster.pool()
            manager = QueueManager(address=cluster.address.pair, authkey=cluster.authkey.encode())
            with pytest.raises(ConnectionRefusedError, match="MULTIHOST_MAX_CONNECTIONS"):
                manager.connect()
            cluster.start_worker()
            assert pool.apply(common.square, (3,)) == 9
