"""When the time of a running task is up: first it is interrupted, and if it goes on after a grace, its process dies."""

from typing import NamedTuple

TIMEOUT_GRACE_SECONDS = 2.0  # for a task's own ``finally`` blocks, after its timeout
STOP_GRACE_SECONDS = 1.0  # the same after a cancel, whose caller may be waiting
RETIRE_SECONDS = 5.0  # for the exit handlers of a child that has run all its tasks


class Due(NamedTuple):
    """At ``at``, the task is to be interrupted, or if it was before, its child is to be killed."""

    at: float
    child: int
    kill: bool


class Limits:
    """The deadlines of tasks, by fencing token. There are never more than tasks that run."""

    def __init__(self) -> None:
        self._dues: dict[int, Due] = {}

    def interrupt_at(self, token: int, child: int, at: float) -> None:
        self._dues[token] = Due(at, child, kill=False)

    def kill_at(self, token: int, child: int, at: float) -> None:
        self._dues[token] = Due(at, child, kill=True)

    def lift(self, token: int) -> None:
        """The task has ended, or was never under a limit."""
        self._dues.pop(token, None)

    def next(self) -> float | None:
        return min((due.at for due in self._dues.values()), default=None)

    def take_due(self, now: float) -> list[tuple[int, Due]]:
        """Remove and return what is due."""
        dues = [(token, due) for token, due in self._dues.items() if due.at <= now]
        for token, _ in dues:
            del self._dues[token]
        return dues

    def clear(self) -> None:
        self._dues.clear()
