"""Networks that reset, delay, lose or part: each call ends with its own result, and no more runs than it must."""

import functools
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import multihost
from multihost.settings import Address
from tests.integration import tasks
from tests.integration.bad_links import CutLink, Namespace, cut_link, late_link, namespaces_work, slow_link
from tests.integration.cluster import DEADLINE, ROOT, WORKER, Cluster, Program, free_port, wait_until

FOREVER = float("inf")
COUNT = 20
CUTS = 40


@functools.cache
def _namespaces_work() -> bool:
    return namespaces_work()


@pytest.fixture
def far_host() -> Iterator[Namespace]:
    """Another host, as far as the network is concerned."""
    if not _namespaces_work():
        pytest.skip("this machine does not let us make network namespaces")
    with Namespace() as host:
        yield host


@pytest.fixture
def far_cluster(tmp_path: Path, far_host: Namespace) -> Iterator[Cluster]:
    """A cluster whose master can be reached from the far host; it ends while that is still there."""
    directory = tmp_path / "logs"
    directory.mkdir()
    with Cluster(directory) as cluster:
        cluster.address = Address(far_host.here, free_port())
        yield cluster


def start_far_worker(cluster: Cluster, host: Namespace, name: str = "far", **settings: str) -> Program:
    settings = {"MULTIHOST_NAME": name, "MULTIHOST_SLOTS": "1", **settings}
    worker = cluster.start(name, *host.inside, sys.executable, WORKER, cwd=None, **settings)
    wait_until(lambda: cluster.worker(name), f"worker {name} joined")
    return worker


def runs(file: Path) -> list[int]:
    """What ``note_turn`` noted, sorted."""
    return sorted(int(line) for line in file.read_text().split())


def began(directory: Path) -> list[Path]:
    return list(directory.glob("task.began.*"))


def connections_of(host: Namespace) -> int:
    """How many connections with that host a process of this one has open."""
    address = socket.inet_aton(host.there)[::-1].hex().upper()  # as the kernel writes it on a little-endian machine
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].startswith(address) and row[9] != "0" for row in rows)  # a socket nobody holds has no inode


# --- resets ----------------------------------------------------------------------------------------------------


def do_job(cluster: Cluster, address: Address, file: Path) -> None:
    """A pool's whole life by way of ``address``; each of its calls must have run once."""
    file.write_text("")
    with multihost.Pool(address=str(address), authkey=cluster.authkey) as pool:
        outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(COUNT)], 1)
        assert outcome.get(DEADLINE) == list(range(COUNT))
    assert runs(file) == list(range(COUNT))


def do_job_over(cuts: list[tuple[float, float]], cluster: Cluster, file: Path) -> CutLink:
    """The same by way of a link with these cuts, until its first connection has ended."""
    with cut_link(cluster.address, cuts) as link:
        do_job(cluster, link.address, file)
        wait_until(lambda: link.passed, "the connection ended")
    return link


@pytest.mark.slow
@pytest.mark.parametrize("towards_master", [True, False], ids=["to the master", "from the master"])
def test_a_client_whose_connection_is_reset_after_any_number_of_bytes_has_each_call_run_once(
    shared_cluster: Cluster, tmp_path: Path, towards_master: bool
) -> None:
    file = tmp_path / "ran"
    way = 0 if towards_master else 1
    size = do_job_over([], shared_cluster, file).passed[0][way]
    assert size > 500
    resets = 0
    for number in range(CUTS):
        # Each byte of the beginning counts, where frames are short; the rest is sampled.
        cut = number * 9 + 1 if number < CUTS // 2 else size * number // CUTS
        link = do_job_over([(cut, FOREVER) if towards_master else (FOREVER, cut)], shared_cluster, file)
        # Messages that gather take fewer bytes, so there may not be so many this time.
        assert link.resets == 1 or link.passed[0][way] < cut, f"it was not reset after {cut} bytes"
        resets += link.resets
    assert resets > CUTS * 3 // 4


def test_a_worker_whose_connection_is_reset_again_and_again_loses_no_task(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    cluster.start_master()
    # Each connection lives long enough for some outcomes: a task is given up that three connections were lost with.
    cuts = [(4000 + 611 * number, FOREVER) for number in range(8)]
    with cut_link(cluster.address, cuts) as link:
        worker = cluster.start_worker(MULTIHOST_ADDRESS=str(link.address))
        with cluster.pool() as pool:
            outcome = pool.map_async(tasks.note_turn, [(str(file), n) for n in range(1200)], 1)
            assert outcome.get(DEADLINE * 2) == list(range(1200))
        worker.end()
    assert link.resets == len(cuts)
    assert set(runs(file)) == set(range(1200))
    statistics = cluster.statistics()
    assert (statistics["submitted"], statistics["done"], statistics["dead"]) == (1200, 1200, 0)


# --- slow ones -------------------------------------------------------------------------------------------------


def test_a_slow_client_does_not_hold_up_the_others(shared_cluster: Cluster) -> None:
    with (
        slow_link(shared_cluster.address, 100_000) as address,
        multihost.Pool(address=str(address), authkey=shared_cluster.authkey) as slow,
        shared_cluster.pool() as quick,
    ):
        results = [slow.apply_async(tasks.zeros, (1_000_000,)) for _ in range(3)]
        shared_cluster.wait_for(queued=0, leased=0)  # what is left of it is on its way
        assert quick.map(tasks.square, range(500), chunksize=1) == [x * x for x in range(500)]
        assert not results[-1].ready(), "the slow one was not slow enough to hold anybody up"


def test_a_link_of_200_ms_each_way_costs_no_task_a_delivery(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "ran"
    cluster.start_master(MULTIHOST_LEASE_TIMEOUT="1.5")
    with late_link(cluster.address, 0.2) as address:
        worker = cluster.start_worker(MULTIHOST_ADDRESS=str(address), MULTIHOST_LEASE_TIMEOUT="1.5")
        with multihost.Pool(address=str(address), authkey=cluster.authkey) as pool:
            for chunksize in (1, 50):
                arguments = [(str(file), n) for n in range(500)]
                assert pool.map_async(tasks.note_turn, arguments, chunksize).get(DEADLINE) == list(range(500))
        worker.end()
    assert runs(file) == sorted([*range(500), *range(500)])
    assert cluster.statistics()["redelivered"] == 0


# --- with a host of its own ------------------------------------------------------------------------------------


def test_a_worker_that_is_cut_off_loses_its_task_and_joins_again_when_the_cable_is_back(
    far_cluster: Cluster, far_host: Namespace, tmp_path: Path
) -> None:
    far_cluster.start_master(MULTIHOST_LEASE_TIMEOUT="1.5")
    far = start_far_worker(far_cluster, far_host)
    with far_cluster.pool() as pool:
        outcome = pool.apply_async(tasks.mark_and_wait, (tmp_path, "task"))
        wait_until(lambda: began(tmp_path), "the task began")
        children = far.descendants()
        far_cluster.start_worker("near", slots=1)
        far_host.drop()
        wait_until(lambda: len(began(tmp_path)) == 2, "the task began again", 10.0)
        far_host.heal()
        wait_until(lambda: far_cluster.worker("far"), "the worker joined again")
        wait_until(lambda: not set(children) <= set(far.descendants()), "it ended what it had no lease for any more")
        (tmp_path / "go").touch()
        outcome.get(DEADLINE)
        assert pool.map(tasks.square, range(50), chunksize=1) == [x * x for x in range(50)]
    assert len(list(tmp_path.glob("task.ended.*"))) == 1
    statistics = far_cluster.statistics()
    assert (statistics["done"], statistics["redelivered"]) == (51, 1)


@pytest.mark.slow
def test_a_client_that_is_cut_off_has_its_results_when_the_cable_is_back(
    far_cluster: Cluster, far_host: Namespace, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    text = (
        "import multihost\nfrom tests.integration.tasks import note_turn\n"
        f"print(multihost.Pool().map(note_turn, [({str(file)!r}, n) for n in range(600)], 1) == [*range(600)])\n"
    )
    far_cluster.start_master()
    far_cluster.start_worker()
    client = far_cluster.start("client", *far_host.inside, sys.executable, "-c", text, cwd=ROOT)
    wait_until(lambda: file.exists() and len(runs(file)) > 50, "the job goes on")
    far_host.drop()
    wait_until(lambda: not far_cluster.statistics()["leased"], "what was submitted is done")
    far_host.heal()
    assert client.wait(60.0) == 0
    assert client.log().endswith("True\n")
    assert runs(file) == list(range(600))


@pytest.mark.slow
def test_peers_that_vanish_without_a_word_leave_no_open_file_in_the_master(
    far_cluster: Cluster, far_host: Namespace
) -> None:
    text = (
        "import os, time\nfrom multihost import QueueManager\n"
        "host, port = os.environ['MULTIHOST_ADDRESS'].split(':')\n"
        "manager = QueueManager((host, int(port)), os.environ['MULTIHOST_AUTHKEY'].encode())\n"
        "manager.connect()\nqueue = manager.get_task_queue()\nqueue.qsize()\nprint('idle')\ntime.sleep(1000)\n"
    )
    far_cluster.start_master(MULTIHOST_LEASE_TIMEOUT="1.5")
    far = start_far_worker(far_cluster, far_host)
    idle = far_cluster.start("idle", *far_host.inside, sys.executable, "-c", text)
    idle.wait_for_log("idle")
    assert connections_of(far_host) == 2
    far_host.drop()
    far.kill()
    idle.kill()
    wait_until(lambda: not far_cluster.worker("far"), "the worker was given up", 10.0)
    # An idle client of the standard library has no heartbeat: it is the kernel's that finds out, within 20 seconds.
    wait_until(lambda: connections_of(far_host) == 0, "the connections were given up", 40.0)


def test_a_network_that_loses_one_packet_in_ten_costs_no_task_a_delivery(
    far_cluster: Cluster, far_host: Namespace, tmp_path: Path
) -> None:
    file = tmp_path / "ran"
    far_cluster.start_master(MULTIHOST_LEASE_TIMEOUT="15")
    far_host.drop("-m", "statistic", "--mode", "random", "--probability", "0.05")  # each way
    worker = start_far_worker(far_cluster, far_host, MULTIHOST_LEASE_TIMEOUT="15")
    with far_cluster.pool() as pool:
        arguments = [(str(file), n) for n in range(300)]
        assert pool.map_async(tasks.note_turn, arguments, 1).get(DEADLINE * 2) == list(range(300))
    assert runs(file) == list(range(300))
    assert far_cluster.statistics()["redelivered"] == 0
    assert "lost the master" not in worker.log()
