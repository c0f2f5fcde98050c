"""What the runner's core is told, and what it wants done about it."""

from typing import NamedTuple

from multihost.wire.messages import Message


class Connected(NamedTuple):
    pass


class Disconnected(NamedTuple):
    pass


class Received(NamedTuple):
    """A batch from the master."""

    batch: list[Message]


class Finished(NamedTuple):
    """Outcomes (token, kind, content) from a child, and the seconds it worked for them."""

    child: int
    outcomes: list[tuple[int, str, bytes]]
    seconds: float


class ChildDied(NamedTuple):
    child: int
    reason: str


class StartFailed(NamedTuple):
    """A child could not be started; this host has no room for a process."""

    child: int
    reason: str


class DrainAsked(NamedTuple):
    """SIGTERM; the second one asks not to wait for what runs."""


class Tick(NamedTuple):
    pass


Event = Connected | Disconnected | Received | Finished | ChildDied | StartFailed | DrainAsked | Tick


class Send(NamedTuple):
    message: Message


class Keep(NamedTuple):
    """Store a blob."""

    blob_id: str
    content: bytes


class Drop(NamedTuple):
    blob_ids: list[str]


class Start(NamedTuple):
    """Start a child for a session, with the blobs that it ``needs`` before any task."""

    child: int
    needs: tuple[str, ...]


class Run(NamedTuple):
    """Have a child run tasks (token, payload) of one function; ``new`` if it has not seen the function yet."""

    child: int
    function_id: str
    new: bool
    tasks: list[tuple[int, bytes]]


class Kill(NamedTuple):
    child: int


class Exit(NamedTuple):
    pass


class Note(NamedTuple):
    level: str
    text: str


Effect = Send | Keep | Drop | Start | Run | Kill | Exit | Note
