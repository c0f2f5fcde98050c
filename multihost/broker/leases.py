"""Which worker holds which task. How long a lease lasts is for others to judge (``workers.py``, ``core.py``)."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from multihost.broker.tasks import Task

_NONE: Mapping[int, Task] = MappingProxyType({})


class LeaseTable:
    """The leases in force, by the id of the worker and the fencing token.

    Every delivery gets a token of its own, and tokens only rise; whoever comes with one that is no longer in the
    table, or not his, holds nothing. A worker's id outlives its connection, so that it finds its leases again when the
    master has been away.
    Source: fencing tokens as in Kleppmann, "How to do distributed locking", 2016.
    """

    def __init__(self) -> None:
        self.next_token = 1
        self._held: dict[str, dict[int, Task]] = {}  # worker id -> token -> task, in order of granting; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._held.values()))

    def __iter__(self) -> Iterator[tuple[str, int, Task]]:
        """(worker id, token, task) of every lease."""
        for worker, held in self._held.items():
            for token, task in held.items():
                yield worker, token, task

    def grant(self, tasks: list[Task], worker: str) -> int:
        """Lease ``tasks`` to a worker; the fencing token of the first, those of the others follow it."""
        first = self.next_token
        self.next_token += len(tasks)
        self._held.setdefault(worker, {}).update(zip(range(first, self.next_token), tasks, strict=True))
        return first

    def restore(self, token: int, task: Task, worker: str) -> None:
        """A lease that was granted before a restart."""
        self._held.setdefault(worker, {})[token] = task

    def end(self, token: int, worker: str) -> Task | None:
        """End one lease; None when ``worker`` does not hold it, whatever it may say."""
        held = self._held.get(worker)
        if held is None or (task := held.pop(token, None)) is None:
            return None
        if not held:
            del self._held[worker]
        return task

    def of(self, worker: str) -> Mapping[int, Task]:
        """The leases of one worker, by token, in the order in which they were granted."""
        return self._held.get(worker, _NONE)

    def holders(self) -> list[str]:
        """The ids of the workers that hold any."""
        return list(self._held)
