"""``multihost.Pool`` on a cluster: a master with a journal on disk, one worker, and this client."""

import os
from typing import ClassVar

import multihost
from cluster import Cluster
from peers.pools import PoolSystem


class Peer(PoolSystem):
    """See the module; ``separate``: one worker for each slot."""

    journal: ClassVar[str] = "normal"

    def __init__(self, workers: int, separate: bool = False) -> None:
        self.workers = workers
        self._cluster = Cluster(1, self.journal, workers) if separate else Cluster(workers, self.journal)
        self.pool = multihost.Pool(address=self._cluster.address.pair, authkey=self._cluster.authkey)

    def roles(self) -> dict[str, list[int]]:
        return {"client": [os.getpid()], **self._cluster.roles()}

    def close(self) -> None:
        super().close()
        self._cluster.close()
