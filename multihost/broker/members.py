"""Who takes part: the sessions of clients, and the workers, as the master knows them."""

from dataclasses import dataclass, field

from multihost.histogram import Histogram

# A link is the number that the shell gave to a connection. A session that a task has opened has none of its own: it
# speaks through its worker's, on a channel.
Link = int | tuple[int, int]
Row = tuple[int, str, bytes, str]  # an outcome as it is told: sequence number, kind, content, and whence it came


@dataclass(slots=True, eq=False)
class Session:
    """One client's tasks. Outcomes stay until the client has acknowledged them."""

    session_id: str
    name: str
    limit: int | None  # how many of its tasks may be leased at once
    lifetime: int | None  # how many tasks a child process runs before another one replaces it
    family: str  # the session of the program in whose tasks this one was opened; its own id, if a program opened it
    depth: int  # how many tasks stand between the program and this session
    worker: str  # the id of the one that runs the task that opened it; empty, if a program did
    next_sequence: int = 0  # every lower number is a task that was accepted
    outcomes: dict[int, Row] = field(default_factory=dict)
    parts: dict[int, list[Row]] = field(default_factory=dict)  # what has come of chunks, in order
    result_bytes: int = 0  # of the contents of all these rows
    # Of a detached job; an empty name: it is none.
    job: str = ""
    items: int = 0  # how many it has, once all are submitted
    chunksize: int = 0  # how many of them each task has, but for the last; 0: not all are submitted
    taken: int = 0  # how many of them, from the first on, were used
    used_at: float = 0.0  # when it ran or had a client, by the wall clock; may lag a tenth of its time to live
    # What the master knows only as long as it runs.
    collector: str = ""  # the id of the one who collects it
    wanted: int | None = None  # the task whose outcome the collector waits for
    link: Link | None = None
    opener: int | None = None  # the fencing token of the task that opened it, if its process has told that
    left_at: float = 0.0  # when its client left
    lacking: set[frozenset[str]] = field(default_factory=set)  # labels that no worker has; the client knows
    counts: dict[str, int] = field(default_factory=dict)  # of its tasks, under the names of ``ledger.COUNTS``
    waits: Histogram = field(default_factory=Histogram)  # how long its tasks were queued before each lease
    runs: Histogram = field(default_factory=Histogram)  # how long they ran

    @property
    def nested(self) -> bool:
        return self.depth > 0

    @property
    def sealed(self) -> bool:
        """Whether it is a detached job that is whole, and so does without the program that submitted it."""
        return self.chunksize > 0

    @property
    def dropped(self) -> int:
        """How many of its first tasks are gone with all that came of them, if it is a detached job."""
        return self.taken // self.chunksize if self.chunksize else 0

    def items_ended(self) -> int:
        """Of a detached job, how many items have their outcome; those of a chunk have it when all have."""
        whole = (self.dropped + len(self.outcomes)) * self.chunksize
        last = self.next_sequence - 1
        return whole - (self.next_sequence * self.chunksize - self.items if last in self.outcomes else 0)

    def all_rows(self) -> list[Row]:
        """Everything that was not acknowledged, the parts of a chunk before its end."""
        return [*(row for rows in self.parts.values() for row in rows), *self.outcomes.values()]


@dataclass(slots=True, eq=False)
class Worker:
    """One registration of a worker."""

    connection: int
    worker_id: str
    name: str
    slots: int
    python: str
    labels: frozenset[str]
    heard: float
    granted: int = 0  # how many tasks, on this connection,
    limit: int = 0  # and how many it may have been granted there in all
    draining: bool = False
    known: set[str] = field(default_factory=set)  # ids of the blobs it has
    families: set[str] = field(default_factory=set)  # whose tasks it was granted; only these may open sessions there
    settled: int = 0
    rests_until: float = 0.0  # by the clock of events; its host had no room for a process
    keeps: bool = False  # whether it keeps what it said of tasks until it is told that this was recorded
    said: int = 0  # how often it has said what became of tasks
    since: float = 0.0  # when it came
    runs: Histogram = field(default_factory=Histogram)
    load: dict[str, float] = field(default_factory=dict)  # what it counts itself, as it said last,
    load_at: float = 0.0  # and when that was

    @property
    def wanted(self) -> int:
        """How many more tasks it will take; below 0 where it was granted some before it wanted less."""
        return self.limit - self.granted
