"""Who takes part: the sessions of clients, and the workers, as the master knows them."""

from dataclasses import dataclass, field

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
    # What the master knows only as long as it runs.
    link: Link | None = None
    left_at: float = 0.0  # when its client left
    lacking: set[frozenset[str]] = field(default_factory=set)  # labels that no worker has; the client knows

    @property
    def nested(self) -> bool:
        return self.depth > 0

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
    wanted: int = 0  # how many more tasks it will take, as it said last and less what was granted since
    draining: bool = False
    known: set[str] = field(default_factory=set)  # ids of the blobs it has
    families: set[str] = field(default_factory=set)  # whose tasks it was granted; only these may open sessions there
    settled: int = 0
    keeps: bool = False  # whether it keeps what it said of tasks until it is told that this was recorded
    said: int = 0  # how often it has said what became of tasks
