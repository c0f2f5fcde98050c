"""Who takes part: the sessions of clients, and the workers, as the master knows them."""

from dataclasses import dataclass, field

# A link is the number that the shell gave to a connection. A session that a task has opened has none of its own: it
# speaks through its worker's, on a channel.
Link = int | tuple[int, int]
Outcome = tuple[str, bytes, str]  # kind, content, and where it is of use whence it came


@dataclass(slots=True, eq=False)
class Session:
    """One client's tasks. Outcomes stay until the client has acknowledged them."""

    session_id: str
    name: str
    link: Link | None
    family: str  # the session of the program in whose tasks this one was opened; its own id, if a program opened it
    depth: int = 0  # how many tasks stand between the program and this session
    lifetime: int | None = None  # how many tasks a child process runs before another one replaces it
    next_sequence: int = 0  # every lower number is a task that was accepted
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    parts: dict[int, list[Outcome]] = field(default_factory=dict)  # what has come of chunks, in order
    lacking: set[frozenset[str]] = field(default_factory=set)  # labels that no worker has; the client knows
    left_at: float = 0.0

    @property
    def nested(self) -> bool:
        return self.depth > 0

    def rows(self, sequences: list[int]) -> list[tuple[int, str, bytes, str]]:
        """Outcomes as they are sent."""
        return [(sequence, *self.outcomes[sequence]) for sequence in sequences]

    def all_rows(self) -> list[tuple[int, str, bytes, str]]:
        """Everything that was not acknowledged, the parts of a chunk before its end."""
        parts = [(sequence, *part) for sequence, some in self.parts.items() for part in some]
        return [*parts, *self.rows(list(self.outcomes))]


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
