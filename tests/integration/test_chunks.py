"""A chunk and the death of the worker that has it: accounts are kept by item."""

import os
import signal
import time
from pathlib import Path

from tests.integration.cluster import Cluster, wait_until


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def kill_the_worker_once(directory: str, number: int, victim: int) -> int:
    """Note the run, take some milliseconds, and if this is the victim's first run, kill the worker that runs it."""
    with Path(directory, f"runs-{number}").open("a") as runs:
        runs.write("x")
    time.sleep(0.005)
    if number == victim and Path(directory, f"runs-{number}").stat().st_size == 1:
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
        result = pool.starmap_async(
            kill_the_worker_once, [(str(directory), n, victim) for n in range(10)], chunksize=10
        )
        wait_until(lambda name=f"victim-{victim}": cluster.worker(name) is None, "the worker was killed")  # type: ignore[misc]
        survivor = cluster.start_worker(f"survivor-{victim}", slots=1)
        assert result.get(30) == [n * n for n in range(10)]
        runs = [(directory / f"runs-{n}").stat().st_size for n in range(10)]
        assert runs == [2 if n == victim else 1 for n in range(10)]
        survivor.term()
        assert survivor.wait() == 0
