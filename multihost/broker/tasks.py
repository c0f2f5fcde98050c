"""A task, its states, and the one table of transitions between them."""

from dataclasses import dataclass
from enum import Enum, auto


class TaskState(Enum):
    QUEUED = auto()
    LEASED = auto()
    DONE = auto()
    FAILED = auto()
    CANCELLED = auto()
    DEAD = auto()


class TaskEvent(Enum):
    """What can happen to a task."""

    GRANTED = auto()  # a worker got the lease
    GIVEN_BACK = auto()  # the worker returned it unstarted; not the task's fault
    LOST = auto()  # the process or worker that had it is gone
    SPENT = auto()  # lost for the last time that is allowed
    SUCCEEDED = auto()
    RAISED = auto()
    DROPPED = auto()  # its session ended


TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.QUEUED, TaskEvent.GRANTED): TaskState.LEASED,
    (TaskState.QUEUED, TaskEvent.DROPPED): TaskState.CANCELLED,
    (TaskState.LEASED, TaskEvent.GIVEN_BACK): TaskState.QUEUED,
    (TaskState.LEASED, TaskEvent.LOST): TaskState.QUEUED,
    (TaskState.LEASED, TaskEvent.SPENT): TaskState.DEAD,
    (TaskState.LEASED, TaskEvent.SUCCEEDED): TaskState.DONE,
    (TaskState.LEASED, TaskEvent.RAISED): TaskState.FAILED,
    (TaskState.LEASED, TaskEvent.DROPPED): TaskState.CANCELLED,
}


@dataclass(slots=True, eq=False)
class Task:
    """One call. ``session`` and ``sequence`` name it; function and arguments are opaque bytes to the master."""

    session: str
    sequence: int
    function_id: str
    payload: bytes
    state: TaskState = TaskState.QUEUED
    losses: tuple[str, ...] = ()  # why each lost delivery was lost

    @property
    def delivery(self) -> int:
        """Which delivery the current or next lease is, from 1; leases given back do not count."""
        return len(self.losses) + 1

    def apply(self, event: TaskEvent) -> None:
        """Go to the state that ``event`` leads to; a pair absent from ``TRANSITIONS`` raises KeyError."""
        self.state = TRANSITIONS[self.state, event]
