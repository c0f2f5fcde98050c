"""``multihost.Pool`` without any setting: the cluster inside this machine that it starts by itself."""

import multihost
from peers.pools import PoolSystem


class Peer(PoolSystem):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = multihost.Pool(workers)
