"""``fiber.Pool``, Uber's Pool over message queues: no process stands between client and workers."""

import fiber

from peers.pools import PoolSystem


class Peer(PoolSystem):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self.pool = fiber.Pool(workers)
