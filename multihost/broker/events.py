"""What the broker's core is told, and what it has done about it.

A connection is a number that the shell gives (what a session that a task has opened has instead: ``members.Link``). A
client's connection serves one session, which outlives it for a while; a worker's connection *is* its registration, and
its leases end with it.
"""

from typing import NamedTuple

from multihost.broker.members import Link
from multihost.broker.queues import Reply
from multihost.wire.messages import Message


class ClientCame(NamedTuple):
    connection: int
    session: str
    limit: int | None  # how many of the session's tasks may be leased at once
    name: str
    lifetime: int | None = None  # how many tasks a child process runs before another one replaces it
    job: str = ""  # the name of the detached job that it submits


class CollectorCame(NamedTuple):
    """A client that collects a detached job."""

    connection: int
    collector: str  # an id of its own, with which it comes back
    job: str


class WorkerCame(NamedTuple):
    connection: int
    worker_id: str
    name: str
    slots: int
    python: str
    labels: frozenset[str] = frozenset()
    # The fencing tokens of what it has from an earlier connection; None: it keeps nothing over a connection's end.
    holds: frozenset[int] | None = None
    families: frozenset[str] = frozenset()  # the programs for which it has processes
    blobs: frozenset[str] = frozenset()  # the code that it has


class Said(NamedTuple):
    """A peer's batch, checked against the table of its role."""

    connection: int
    batch: list[Message]


class Heard(NamedTuple):
    """Part of a large frame came in: a sign of life."""

    connection: int


class Called(NamedTuple):
    """A request to a shared queue."""

    connection: int
    queue: str
    method: str
    args: tuple[object, ...]
    kwds: dict[str, object]


class Gone(NamedTuple):
    """A connection ended; ``delivered`` says whether its last answer is known to have been read."""

    connection: int
    delivered: bool


class Tick(NamedTuple):
    pass


Event = ClientCame | CollectorCame | WorkerCame | Said | Heard | Called | Gone | Tick


class Send(NamedTuple):
    connection: Link
    message: Message


class Close(NamedTuple):
    connection: Link
    reason: str
    broke_rules: bool = False  # the peer did, which is worth a line in the log


class Note(NamedTuple):
    """A line for the log; ``fields`` also go into the structured record."""

    level: str
    text: str
    fields: dict[str, object]


Effect = Send | Reply | Close | Note
