"""``multiprocessing.Pool``: what all others are compared with."""

import multiprocessing

from peers.pools import PoolSystem


class Peer(PoolSystem):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = multiprocessing.Pool(workers)
