"""A task, its options, its states, and the one table of transitions between them."""

from dataclasses import dataclass, field
from enum import Enum, auto

from multihost.errors import ProtocolError
from multihost.options import MAX_MEMORY, MAX_PRIORITY, MAX_RETRIES, MAX_SECONDS, MAX_TEXT, MIN_MEMORY

MAX_DELIVERIES = 3  # that are lost; then the task is a dead letter
MAX_BACKOFF_SECONDS = 60.0


class TaskState(Enum):
    QUEUED = auto()
    LEASED = auto()
    DONE = auto()
    FAILED = auto()
    CANCELLED = auto()
    DEAD = auto()
    EXPIRED = auto()

    __hash__ = object.__hash__  # Enum's own is written in Python, and each task asks for it five times


class TaskEvent(Enum):
    """What can happen to a task."""

    GRANTED = auto()  # a worker got the lease
    GIVEN_BACK = auto()  # the worker returned it unstarted; not the task's fault
    LOST = auto()  # the process or worker that had it is gone
    SPENT = auto()  # lost for the last time that is allowed
    SUCCEEDED = auto()
    RAISED = auto()
    RETRIED = auto()  # it raised, and its caller asked for another try
    DROPPED = auto()  # it was cancelled, or its session ended
    EXPIRED = auto()  # nobody had begun it in time

    __hash__ = object.__hash__


TRANSITIONS: dict[tuple[TaskState, TaskEvent], TaskState] = {
    (TaskState.QUEUED, TaskEvent.GRANTED): TaskState.LEASED,
    (TaskState.QUEUED, TaskEvent.DROPPED): TaskState.CANCELLED,
    (TaskState.QUEUED, TaskEvent.EXPIRED): TaskState.EXPIRED,
    (TaskState.LEASED, TaskEvent.GIVEN_BACK): TaskState.QUEUED,
    (TaskState.LEASED, TaskEvent.LOST): TaskState.QUEUED,
    (TaskState.LEASED, TaskEvent.RETRIED): TaskState.QUEUED,
    (TaskState.LEASED, TaskEvent.SPENT): TaskState.DEAD,
    (TaskState.LEASED, TaskEvent.SUCCEEDED): TaskState.DONE,
    (TaskState.LEASED, TaskEvent.RAISED): TaskState.FAILED,
    (TaskState.LEASED, TaskEvent.DROPPED): TaskState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What a submit asked for beyond the plain call: the master's part by name, the worker's part as it came."""

    retries: int = 0
    backoff: float = 1.0  # seconds
    priority: int = 0
    labels: frozenset[str] = frozenset()
    chunk: int = 0  # how many items it has; 0: it is a single call
    delay: float = 0.0  # seconds from the call on
    expires: float | None = None  # seconds from the call on
    age: float = field(default=0.0, compare=False)  # how many seconds before its submit the call was made
    for_worker: dict[str, object] = field(default_factory=dict, hash=False)
    plain: dict[object, object] = field(default_factory=dict, compare=False)  # as they came, all of them

    @classmethod
    def parse(cls, plain: dict[object, object]) -> "TaskOptions":
        """The options that a client sent.

        Raises: ProtocolError: one of them is unknown, or not what it must be.
        """
        ours: dict[str, object] = {}
        theirs: dict[str, object] = {}
        for name, value in plain.items():
            match name, value:
                case "retries", int(n) if 0 <= n <= MAX_RETRIES:
                    ours["retries"] = n
                case "backoff", float(seconds) if 0 <= seconds <= MAX_SECONDS:
                    ours["backoff"] = seconds
                case "priority", int(n) if -MAX_PRIORITY <= n <= MAX_PRIORITY:
                    ours["priority"] = n
                case "labels", tuple(labels) if all(isinstance(label, str) for label in labels):
                    ours["labels"] = frozenset(labels)
                case "timeout", float(seconds) if 0 < seconds <= MAX_SECONDS:
                    theirs["timeout"] = seconds
                case "delay" | "age", float(seconds) if 0 <= seconds <= MAX_SECONDS:
                    ours[str(name)] = seconds
                case "expires", float(seconds) if 0 < seconds <= MAX_SECONDS:
                    ours["expires"] = seconds
                case "memory", int(size) if MIN_MEMORY <= size <= MAX_MEMORY:
                    theirs["memory"] = size
                case "item", tuple((int(place), "map" | "starmap")) if place >= 0:
                    theirs["item"] = value  # of a chunk, that one alone: the master asks so for a dead letter
                case "name", str(text) if len(text) <= MAX_TEXT:
                    theirs["name"] = text
                case "chunk", tuple(("map" | "starmap" as how, int(items))) if items > 0:
                    ours["chunk"], theirs["chunk"] = items, how
                case _:
                    raise ProtocolError(f"a submit has an option {str(name)[:40]!r} that is unknown or wrong")
        return cls(**ours, for_worker=theirs, plain=plain)  # type: ignore[arg-type]


PLAIN = TaskOptions()


def retry_delay(backoff: float, tries: int) -> float:
    """Seconds to wait before the next try of a task that was tried again so many times."""
    return min(MAX_BACKOFF_SECONDS, backoff * 2.0 ** min(tries, 60))


@dataclass(slots=True, eq=False)
class Task:
    """One call, or a chunk of several of one function.

    ``session`` and ``sequence`` name it; function and arguments are opaque bytes to the master.
    """

    session: str
    sequence: int
    function_id: str
    payload: bytes
    options: TaskOptions = PLAIN
    queued_at: float = 0.0  # wall-clock time since when it could have been leased; 0: before a restart
    state: TaskState = TaskState.QUEUED
    losses: tuple[str, ...] = ()  # why each lost delivery was lost, since a retry or an item of the chunk ended
    tries: int = 0  # how often it raised and was queued again
    done: int = 0  # how many items of a chunk have ended
    expires_at: float | None = None  # wall-clock time
    leased_at: float | None = None  # on the clock of events; None: before a restart of the master
    in_process: bool = False  # whether its worker has said that a process has it, which it says of suspects

    @property
    def delivery(self) -> int:
        """Which delivery the current or next lease is, from 1; leases given back do not count."""
        return len(self.losses) + self.tries + 1

    @property
    def begun(self) -> bool:
        """Whether a worker may have begun it, before the lease that is in force."""
        return bool(self.losses or self.tries or self.done)

    def is_whole(self) -> bool:
        """Whether it is a chunk of whose items each has its outcome."""
        return 0 < self.options.chunk == self.done

    @property
    def suspect(self) -> bool:
        """Whether it was there when a delivery was lost: then it runs apart, and its worker says when it begins."""
        return bool(self.losses)

    def apply(self, event: TaskEvent) -> None:
        """Go to the state that ``event`` leads to; a pair absent from ``TRANSITIONS`` raises KeyError."""
        self.state = TRANSITIONS[self.state, event]
