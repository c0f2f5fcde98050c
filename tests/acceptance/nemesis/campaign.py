"""One run: a cluster, a load, faults on it; then all is mended, the load comes to its end, and the checker judges."""

import io
import tarfile
from typing import Any

import docker

import multihost
from tests.acceptance.cluster import Cluster, wait_until
from tests.acceptance.nemesis import marks
from tests.acceptance.nemesis.checker import History, Run, Verdict, check
from tests.acceptance.nemesis.injector import Injector
from tests.acceptance.nemesis.load import Load
from tests.acceptance.nemesis.schedule import schedule
from tests.acceptance.nemesis.tasks import MARKS, checksum

# Short, so that many things happen in a run of minutes.
SETTINGS = {"MULTIHOST_LEASE_TIMEOUT": "3", "MULTIHOST_DRAIN_TIMEOUT": "10", "MULTIHOST_SLOTS": "4"}
# What is left when all is mended has so long to come to its end.
DRAIN_SECONDS = 120.0
# Of the time that is given: the rest is for the end.
_FAULTY_SHARE = 0.95


def run(cluster: Cluster, seed: int, count: int, seconds: float, workers: int) -> tuple[History, Verdict]:
    """Submit ``count`` tasks within so many seconds, and judge what became of them.

    The cluster has SETTINGS, a port that stays, and is not started yet.
    Raises: what the engine raised; the run is void then.
    """
    history = History()
    cluster.scale(workers)
    injector = Injector(cluster, schedule(seed, seconds * _FAULTY_SHARE), workers, history)
    address, authkey = str(cluster.address), cluster.authkey
    with (
        multihost.Pool(address=address, authkey=authkey) as singles,
        multihost.Pool(address=address, authkey=authkey) as chunks,
    ):
        load = Load(singles, chunks, history)
        injector.start()
        try:
            load.submit(count, seconds)
        except multihost.MultihostError as error:
            history.troubles.append(f"a submit failed: {error!r}")
        finally:
            injector.finish()
        try:
            cluster.wait_for_workers(workers)
        except TimeoutError as error:
            history.troubles.append(f"when all was mended, {error}")
        load.drain(DRAIN_SECONDS)
        history.left = _left(cluster)
    history.runs = _runs(cluster)
    history.tracebacks = _tracebacks(cluster)
    return history, check(history, {number: checksum(number) for number in range(count)})


def _left(cluster: Cluster) -> int:
    """How many tasks the master still has, after a while: it hears of the last outcomes a little after the program."""

    def left() -> int:
        statistics: dict[str, Any] = cluster.statistics()
        return int(statistics["queued"]) + int(statistics["leased"])

    try:
        wait_until(lambda: not left(), "the master had no task left", timeout=10.0)
    except TimeoutError:
        return left()
    return 0


def _runs(cluster: Cluster) -> list[Run]:
    """From the volume, by way of any worker."""
    lines: list[str] = []
    try:
        chunks, _ = cluster.containers("worker")[0].get_archive(MARKS)
    except docker.errors.NotFound:
        return []  # no task has begun
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        for member in archive:
            if (file := archive.extractfile(member)) is not None:
                lines += file.read().decode().splitlines()
    return marks.read(lines)


def _tracebacks(cluster: Cluster) -> list[str]:
    """Of what is still there: the log of a worker that was scaled away went with it."""
    logs = {str(container.name): container.logs().decode(errors="replace") for container in cluster.containers()}
    return [name for name, log in logs.items() for _ in range(log.count("Traceback (most recent call last)"))]
