"""A chunk and the death of the worker that has it: accounts are kept by item."""

import functools
import os
import signal
import time
from pathlib import Path

from tests.integration.cluster import Cluster, wait_until


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_the_worker_once(directory: str, victim: int, number: int) -> int:
    """Note the run, take some milliseconds, and if this is the victim's first run, kill the worker that runs it.

    Not before the client has the results of the items before: otherwise they may be under way, and run again.
    """
    with Path(directory, f"runs-{number}").open("a") as runs:
        runs.write("x")
    time.sleep(0.005)
    if number == victim and Path(directory, f"runs-{number}").stat().st_size == 1:
        wait_until(Path(directory, "go").exists, "the items before have their outcomes")
        # Ours is the warden, its is the fork server, and the parent of that is the worker.
        os.kill(parent_of(parent_of(os.getppid())), signal.SIGKILL)
        signal.pause()  # which takes this process with it
    return number * number


def test_a_chunk_whose_worker_is_killed_repeats_the_item_that_ran_and_no_other(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.start_master()
    pool = cluster.pool()
    for victim in range(10):
        cluster.start_worker(f"victim-{victim}", slots=1)
        directory = tmp_path / str(victim)
        directory.mkdir()
        results = pool.imap(functools.partial(kill_the_worker_once, str(directory), victim), range(10), chunksize=10)
        before = [results.next(30) for _ in range(victim)]
        (directory / "go").touch()
        wait_until(lambda name=f"victim-{victim}": cluster.worker(name) is None, "the worker was killed")  # type: ignore[misc]
        survivor = cluster.start_worker(f"survivor-{victim}", slots=1)
        assert before + list(results) == [n * n for n in range(10)]
        runs = [(directory / f"runs-{n}").stat().st_size for n in range(10)]
        assert runs == [2 if n == victim else 1 for n in range(10)]
        survivor.term()
        assert survivor.wait() == 0


class Heavy:
    """Made at once, and large when it travels."""

    SIZE = 9_000_000

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[type[bytes], tuple[bytes]]:
        return bytes, (bytes([self.number]) * self.SIZE,)


def test_large_results_that_a_child_has_at_the_same_time_are_no_frame_that_the_master_refuses(cluster: Cluster) -> None:
    cluster.start_master(MULTIHOST_MAX_PAYLOAD="10000000")
    cluster.start_worker("one", slots=1)
    results: list[object] = list(cluster.pool().map(Heavy, range(8), chunksize=8))
    assert results == [bytes([n]) * Heavy.SIZE for n in range(8)]
    assert cluster.statistics()["redelivered"] == 0
