"""How soon work goes on: after a worker's SIGKILL, and after that of a master with a journal and a long queue.

python bench/recovery.py [--rounds N] [--queue N]
"""

import argparse
import contextlib
import os
import signal
import statistics
import tempfile
import time
from pathlib import Path

import multihost
import work
from cluster import Cluster
from multihost.errors import MasterUnreachable
from programs import wait_until

_POLL_SECONDS = 0.002


def begin_and_wait(directory: str, name: str) -> float:
    """Leave a mark with the time and this worker's process, wait for the file ``go``; when that was seen."""
    fork_server = os.getppid()
    worker = Path(f"/proc/{fork_server}/stat").read_text().rpartition(")")[2].split()[1]
    Path(directory, f"{name}-{worker}-{time.monotonic()}").touch()
    while not Path(directory, "go").exists():
        time.sleep(_POLL_SECONDS)
    return time.monotonic()


def marks(directory: str) -> list[tuple[float, int]]:
    """(When, worker) of each beginning, in order."""
    names = [name.split("-") for name in os.listdir(directory) if "-" in name]
    return sorted((float(when), int(worker)) for _, worker, when in names)


def redelivered(warm: bool) -> float:
    """Seconds from a worker's SIGKILL until its task begins on another one, which has a process ready if ``warm``."""
    with Cluster(1, workers=2) as cluster, tempfile.TemporaryDirectory() as directory, pool_of(cluster) as pool:
        if warm:
            pool.map(work.sleep, [0.01] * 200, chunksize=1)
        result = pool.apply_async(begin_and_wait, (directory, "task"))
        wait_until(lambda: len(marks(directory)) == 1, "the task began")
        killed = time.monotonic()
        os.kill(marks(directory)[0][1], signal.SIGKILL)
        wait_until(lambda: len(marks(directory)) == 2, "the task began again")
        Path(directory, "go").touch()
        result.get()
        return marks(directory)[1][0] - killed


def restarted(queue: int) -> tuple[float, float, float]:
    """Seconds from the master's SIGKILL until its successor answers, until the first result, and the first new one."""
    arrived: dict[str, float] = {}

    def note(name: str) -> None:
        arrived.setdefault(name, time.monotonic())

    with Cluster(2) as cluster, tempfile.TemporaryDirectory() as directory, pool_of(cluster) as pool:
        for name in ("one", "two"):
            pool.apply_async(begin_and_wait, (directory, name), callback=lambda _: note("held"))
        wait_until(lambda: len(marks(directory)) == 2, "both slots were busy")
        first = pool.apply_async(work.square, (3,), callback=lambda _: note("queued"))
        rest = pool.map_async(work.square, range(queue - 1), chunksize=1)
        wait_until(lambda: cluster.statistics()["queued"] == queue, "the queue was there", 120.0)
        killed = time.monotonic()
        cluster.restart_master()
        Path(directory, "go").touch()  # what runs ends while the master is away
        wait_until(lambda: _answers(cluster), "the master answered", 120.0)
        note("answer")
        first.get(120)
        assert rest.get(300) == [x * x for x in range(queue - 1)]
        known = cluster.statistics()
        assert (known["done"], known["redelivered"]) == (queue + 2, 0), known
    return arrived["answer"] - killed, min(arrived["held"], arrived["queued"]) - killed, arrived["queued"] - killed


def pool_of(cluster: Cluster) -> multihost.Pool:
    """A pool of this cluster."""
    return multihost.Pool(address=cluster.address.pair, authkey=cluster.authkey)


def _answers(cluster: Cluster) -> bool:
    with contextlib.suppress(MasterUnreachable):
        cluster.statistics()
        return True
    return False


def show(what: str, seconds: list[float]) -> None:
    """One row of the table."""
    print(f"| {what} | {statistics.median(seconds):.3f} | {max(seconds):.3f} | {len(seconds)} |", flush=True)


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="restarts of the master; four times as many of a worker")
    parser.add_argument("--queue", type=int, default=100_000, help="queued tasks (default 100,000)")
    arguments = parser.parse_args()
    print("| seconds | median | longest | rounds |\n|---|---|---|---|")
    for name, warm in (("a process of the session", True), ("none yet", False)):
        title = f"worker killed, until its task begins on another one that has {name}"
        show(title, [redelivered(warm) for _ in range(4 * arguments.rounds)])
    rows = [restarted(arguments.queue) for _ in range(arguments.rounds)]
    names = "the next one answers", "the first result", "the first result of the queue"
    for name, seconds in zip(names, zip(*rows, strict=True), strict=True):
        show(f"master killed with {arguments.queue:,} tasks queued, until {name}", [*seconds])


if __name__ == "__main__":
    main()
