"""An ``imap`` of endless input with large results and a slow consumer: neither client nor master may grow.

``IMAP_ITEMS=100000 pytest tests/contract/test_memory.py -s`` does it at full length and prints the figures.
The standard library's is no control here: it reads its input without end.
"""

import gc
import itertools
import os
import time
from pathlib import Path

import pytest

import multihost
from tests.contract import tasks
from tests.integration.cluster import Cluster
from tests.integration.tasks import resident_bytes

ITEMS = int(os.environ.get("IMAP_ITEMS", "6000"))
RESULT_BYTES = 100_000
SECONDS = 0.0005  # of the consumer for each result: several times what two slots need to make one
# What imap may hold by its own account is 16 MiB; the rest is for a second copy on its way, and for malloc.
ROOM_MIB = 48


def resident_mib(pid: int) -> float:
    return resident_bytes(pid) / 2**20


@pytest.mark.timeout(1800)
def test_imap_of_endless_input_holds_no_more_at_its_end_than_at_its_beginning(tmp_path: Path) -> None:
    with Cluster(tmp_path) as cluster:
        master = cluster.start_master()
        cluster.start_worker()
        with multihost.Pool(address=str(cluster.address), authkey=cluster.authkey) as pool:
            assert len(pool.apply(tasks.zeros, (RESULT_BYTES,))) == RESULT_BYTES
            gc.collect()
            begun = {"client": resident_mib(os.getpid()), "master": resident_mib(master.pid)}
            most = dict(begun)
            results = pool.imap(tasks.zeros, itertools.repeat(RESULT_BYTES))
            for number in range(ITEMS):
                assert len(next(results)) == RESULT_BYTES
                time.sleep(SECONDS)
                if number % 100 == 0:
                    most["client"] = max(most["client"], resident_mib(os.getpid()))
                    most["master"] = max(most["master"], resident_mib(master.pid))
    print({who: f"{begun[who]:.0f} MiB, at most {most[who]:.0f} MiB" for who in begun})
    assert {who: most[who] - begun[who] < ROOM_MIB for who in begun} == {"client": True, "master": True}
