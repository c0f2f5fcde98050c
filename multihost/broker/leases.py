"""Which worker holds which task. A lease lasts as long as its worker's heartbeat, which core.py judges."""

import itertools
from collections.abc import Iterator

from multihost.broker.tasks import Task


class LeaseTable:
    """The leases in force, by fencing token.

    Every delivery gets a token of its own, and tokens only rise; whoever comes with one that is no longer in the
    table, or not his, holds nothing. ``worker`` is the number of the worker's connection, so a worker that
    reconnects starts without leases.
    Source: fencing tokens as in Kleppmann, "How to do distributed locking", 2016.
    """

    def __init__(self) -> None:
        self._tokens = itertools.count(1)
        self._tasks: dict[int, dict[int, Task]] = {}  # worker -> token -> task, in order of granting

    def __len__(self) -> int:
        return sum(map(len, self._tasks.values()))

    def __iter__(self) -> Iterator[tuple[int, int, Task]]:
        """(worker, token, task) of every lease."""
        for worker, held in self._tasks.items():
            for token, task in held.items():
                yield worker, token, task

    def grant(self, task: Task, worker: int) -> int:
        """The fencing token of a new lease of ``task``."""
        token = next(self._tokens)
        self._tasks.setdefault(worker, {})[token] = task
        return token

    def end(self, token: int, worker: int) -> Task | None:
        """End one lease; None when ``worker`` does not hold it, whatever it may say."""
        return self._tasks.get(worker, {}).pop(token, None)

    def find(self, token: int, worker: int) -> Task | None:
        """The task of a lease; None when ``worker`` does not hold it."""
        return self._tasks.get(worker, {}).get(token)

    def end_all(self, worker: int) -> list[Task]:
        """End all leases of a worker that is gone, in the order in which they were granted."""
        return list(self._tasks.pop(worker, {}).values())

    def count(self, worker: int) -> int:
        return len(self._tasks.get(worker, ()))
