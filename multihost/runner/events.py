"""What the runner's core is told, and what it wants done about it."""

from typing import Any, NamedTuple

from multihost.deaths import Death
from multihost.wire.messages import Message


class Connected(NamedTuple):
    """A connection to the master; ``keeps``: whether it has a journal, so that it knows leases of before a restart."""

    keeps: bool = False
    done: dict[int, int] = {}  # noqa: RUF012  nobody changes it; how many items of held chunks it has recorded, by token


class Disconnected(NamedTuple):
    pass


class Received(NamedTuple):
    """A batch from the master."""

    batch: list[Message]


class Finished(NamedTuple):
    """Outcomes (token, kind, content) from a child, the seconds they took, and parts (token, count, content)."""

    child: int
    outcomes: list[tuple[int, str, bytes]]
    seconds: float
    parts: list[tuple[int, int, bytes]] = []  # noqa: RUF012  nobody changes it


class Started(NamedTuple):
    """A child calls the function of a task that has a limit; whether going over it is worth another try."""

    child: int
    token: int
    retry: bool = False  # of time
    retry_memory: bool = False


class Printed(NamedTuple):
    """What tasks printed: (token, text)."""

    child: int
    rows: list[tuple[int, str]]


class Unstarted(NamedTuple):
    """A child will not run these tasks after all."""

    child: int
    tokens: list[int]


class Lent(NamedTuple):
    """Whether a child waits for tasks of its own."""

    child: int
    lending: bool


class RelayOpened(NamedTuple):
    """A task opens a session, on a channel that is the child's own number for it."""

    child: int
    channel: int
    info: dict[str, object]


class Relayed(NamedTuple):
    child: int
    channel: int
    batch: list[Any]


class RelayClosed(NamedTuple):
    child: int
    channel: int


class ChildDied(NamedTuple):
    """``stack``: where its Python stood when it was interrupted last, if it was."""

    child: int
    reason: str
    stack: str = ""
    printed: tuple[int, str] = (0, "")  # the token of the task that printed last, and its last lines
    death: Death | None = None  # what is known besides the reason


class Measured(NamedTuple):
    """How many bytes of memory a child has taken."""

    child: int
    used_bytes: int


class Crowded(NamedTuple):
    """A task that was interrupted has ended in a child, and left processes behind."""

    child: int


class StartFailed(NamedTuple):
    """A child could not be started; this host has no room for a process."""

    child: int
    reason: str


class DrainAsked(NamedTuple):
    """SIGTERM; the second one asks not to wait for what runs."""


class Tick(NamedTuple):
    pass


FromChild = Finished | Started | Printed | Unstarted | Lent | RelayOpened | Relayed | RelayClosed | ChildDied
Event = Connected | Disconnected | Received | FromChild | Measured | Crowded | StartFailed | DrainAsked | Tick


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
    options: dict[str, object] = {}  # noqa: RUF012  nobody changes it


class Recall(NamedTuple):
    """Have a child give back what it has not started."""

    child: int


class Interrupt(NamedTuple):
    """Have a child end one task, started or not; ``seconds``: the timeout it has spent, None for a cancelled one."""

    child: int
    token: int
    seconds: float | None


class Tell(NamedTuple):
    """Pass a message on to a child."""

    child: int
    message: Message


class Retire(NamedTuple):
    """Have an idle child end by itself; its death is told."""

    child: int


class Condemn(NamedTuple):
    """Kill a child; its death is told."""

    child: int


class Kill(NamedTuple):
    """Kill a child, and tell nothing more of it."""

    child: int


class Exit(NamedTuple):
    pass


class Note(NamedTuple):
    level: str
    text: str


Effect = Send | Keep | Drop | Start | Run | Recall | Interrupt | Tell | Retire | Condemn | Kill | Exit | Note
