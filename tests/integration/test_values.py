"""Large values that many calls share: how often they travel, and when they are let go of."""

from functools import partial

import pytest

from multihost.client import session
from multihost.client.core import ClientCore
from tests.integration import tasks
from tests.integration.cluster import Cluster, wait_until

MEGABYTE = 1024 * 1024


def test_one_large_function_after_another_is_let_go_of_by_master_worker_and_children(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ClientCore", partial(ClientCore, kept_bytes=0))  # but for the one used last
    cluster.start_master()
    cluster.start_worker(slots=1)
    pool = cluster.pool()
    pool.apply(tasks.square, (1,))
    before = cluster.statistics()["blobs"]
    for number in range(5):
        model = tasks.Model(bytes([number]) * 2 * MEGABYTE)
        # The release of the one before may come after the first call of this one.
        told = pool.map(partial(tasks.models, model), range(3), chunksize=1)
        assert {first for first, _ in told} == {number}
        assert max(held for _, held in told) <= 3
    wait_until(lambda: cluster.statistics()["blobs"] == before + 1, "only the last one is there")
