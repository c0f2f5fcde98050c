"""What frames contain: encoding it, decoding it without running any of it, and the messages that each role may send.

The decoder refuses every global, so a peer can make the master build plain data (None, bool, numbers, str, bytes,
list, tuple, dict, set) and nothing else.
"""

import io
import pickle
from collections.abc import Callable, Iterator
from operator import call
from typing import Any, NoReturn, TypeVar

from multihost.errors import ProtocolError
from multihost.payload import parts_of
from multihost.wire.frames import Buffer
from multihost.wire.opcodes import check_sizes

# Peers with the same number work together, whatever their releases are. It is raised when one side says or expects what
# a peer with the old number would not understand, in messages or payloads: see docs/upgrades.md.
PROTOCOL_VERSION = 4
# What a frame holds that is no single message: a larger batch goes in several.
WEIGHT_BYTES = 4 * 1024 * 1024
# Up to this size a frame is copied before it is decoded: a file in C is quicker, and needs no call for each part.
_COPIED_BYTES = 1024 * 1024
Message = tuple[object, ...]
T = TypeVar("T")

# The first request on a connection names one of these; the stock server's others (shutdown, debug_info, ...) are
# not served, so no key holder can reach them.
FIRST_REQUESTS = frozenset({"dummy", "create", "incref", "decref", "accept_connection", "hello"})
Check = Callable[[object], bool]


def _a(kind: type) -> Check:
    return lambda field: type(field) is kind


def _list_of(kind: type) -> Check:
    return lambda field: type(field) is list and set(map(type, field)) <= {kind}


def _tuple_of(kind: type) -> Check:
    return lambda field: type(field) is tuple and set(map(type, field)) <= {kind}


def _rows_of(*kinds: type) -> Check:
    return lambda field: (
        type(field) is list and all(type(row) is tuple and tuple(map(type, row)) == kinds for row in field)
    )


def _are_figures(field: object) -> bool:
    """Few numbers with short names, so that nobody's memory is filled with them."""
    if type(field) is not dict or len(field) > 32:
        return False
    return all(type(name) is str and len(name) <= 32 and type(value) in (int, float) for name, value in field.items())


_are_outcomes = _rows_of(int, str, bytes)
_are_parts = _rows_of(int, int, bytes)


def _kinds(rows: Any) -> set[str]:
    return {kind for _, kind, _ in rows}


# What each role may send on its link, and what its fields must be. Whatever is absent closes the connection.
ROLES: dict[str, dict[str, tuple[Check, ...]]] = {
    "client": {
        "blob": (_a(str), _a(bytes), _tuple_of(str)),  # blob id, content, ids of the blobs it needs
        # Ids of blobs that none of its tasks needs any more; those that one does stay. "released" answers it.
        "release": (_list_of(str),),
        # First sequence number, function id, options (see broker.tasks), payloads.
        "submit": (_a(int), _a(str), _a(dict), _list_of(bytes)),
        # It knows that a submit was refused. Until it says so the master takes none, then tells it of "room".
        "waits": (),
        "acknowledge": (_list_of(int),),  # sequence numbers whose outcomes have arrived
        # Sequence numbers, and whether those that a worker has are to be stopped, too. "too_late" names those that were
        # not cancelled.
        "cancel": (_list_of(int), _a(bool)),
        "explain": (_a(int), _a(int)),  # the question's number, sequence number; "explained" answers it
        "figures": (_a(int),),  # the question's number; "figures" answers it with the statistics of the session
        "ping": (),
        "close": (),  # the session ends: its tasks are cancelled; those of a detached job that is sealed go on
        # All of a detached job is submitted: so many items, in chunks of so many; "sealed" answers it.
        "seal": (_a(int), _a(int)),
        # Of a detached job: send the outcomes of the chunks from this number on, when there are any ("outcomes").
        "collect": (_a(int),),
        "taken": (_a(int),),  # the items of a detached job below this one were used; "taken" answers it
        "count": (),  # how many items of a detached job have ended; "counted" answers it
        "drop": (),  # end a detached job; "dropped" answers it
    },
    "worker": {
        # It takes tasks until so many were granted since its hello: "so many more" would forget what is on its way.
        "want": (_a(int),),
        "settle": (_are_outcomes,),  # fencing token, outcome kind, content
        "parts": (_are_parts,),  # fencing token of a chunk, how many more of its items have ended, their outcomes
        "begun": (_list_of(int),),  # fencing tokens of tasks that are to run apart, and which a process has now
        "output": (_rows_of(int, str),),  # fencing token, text: what a task prints
        # Before their outcomes: the fencing token of one task, how many ended with it, the seconds they ran in all.
        "ran": (_rows_of(int, int, float),),
        "load": (_are_figures,),  # what the worker has counted and measured of itself
        # Sessions that tasks open speak through their worker, each on a channel of its link.
        "relay_open": (_a(int), _a(str), _a(dict)),  # channel, the session of the program whose task it is, its hello
        "relay": (_a(int), _a(list)),  # channel, a batch as a client sends it
        "relay_close": (_a(int),),
        "rest": (_a(float),),  # for so many seconds, its host having no room for a process
        "give_back": (_list_of(int),),  # fencing tokens of tasks that were not started
        "drain": (),  # no more leases, please
        "heartbeat": (),
    },
    "monitor": {
        "ask": (),
        "status": (),  # answered with counts, times and sizes of master, sessions and workers
        "find": (_a(str), _a(int)),  # how the ids of sessions begin, sequence number
        "dead_list": (),
        "dead_show": (_a(int),),  # the number of a dead letter
        "dead_save": (_a(int),),  # answered by its code, a message for each blob, and then "dead_task"
        "dead_requeue": (_list_of(int),),
        "dead_drop": (_list_of(int),),
    },
}
# What a child process may say to its worker. It does not say "lost", and the master would cut off the whole worker for
# a kind that it does not know.
CHILD: dict[str, tuple[Check, ...]] = {
    # Parts and outcomes, as in "parts" and "settle" above, and the seconds that those outcomes took.
    "outcomes": (
        _are_parts,
        lambda rows: _are_outcomes(rows) and _kinds(rows) <= {"result", "error", "retry"},
        _a(float),
    ),
    # Fencing token of a task with a limit, whose function is called now; whether its caller wants another try when its
    # time is over, and when it takes too much memory.
    "started": (_a(int), _a(bool), _a(bool)),
    "output": (_rows_of(int, str),),
    "unstarted": (_list_of(int),),  # fencing tokens of tasks that it will not run after all
    "lend": (_a(bool),),  # whether it waits for tasks of its own, so that its slot may go to another child
    "relay_open": (_a(int), _a(dict)),  # channel, hello
    "relay": (_a(int), _a(list)),
    "relay_close": (_a(int),),
}
# What a worker says of a task. retry: it raised, and its caller wants another try for that; lost: its process died.
OUTCOME_KINDS = ("result", "error", "retry", "lost")
CANCELLED, PART = "cancelled", "part"  # what only the master says; part: some of a chunk's outcomes, more will come


class _Chunks:
    """A file that keeps what is written; pickle hands large bytes objects over uncopied."""

    def __init__(self) -> None:
        self.parts: list[Buffer] = []

    def write(self, part: Buffer | pickle.PickleBuffer) -> None:
        if isinstance(part, pickle.PickleBuffer):
            self.parts += parts_of(part)
        else:
            self.parts.append(part)


def encode(value: object) -> list[Buffer]:
    """The content of a frame, in parts; large bytes objects in ``value`` are parts of their own, uncopied.

    It may hold stand-ins of ``payload.Large``, too, which arrive as bytes.
    """
    chunks = _Chunks()
    pickle.Pickler(chunks, protocol=5).dump(value)
    return chunks.parts


class _View:
    """A file of what need not be copied first; pickle has large bytes objects read straight into their place."""

    def __init__(self, content: Buffer) -> None:
        self._content, self._position = memoryview(content), 0

    def read(self, size: int) -> bytes:
        return bytes(self._next(size))

    def readinto(self, target: memoryview) -> int:
        source = self._next(len(target))
        target[: len(source)] = source
        return len(source)

    def readline(self) -> bytes:
        rest = self._content[self._position :]
        line = io.BytesIO(rest).readline()
        self._position += len(line)
        return line

    def _next(self, size: int) -> memoryview:
        begin = self._position
        self._position = min(begin + size, len(self._content))
        return self._content[begin : self._position]


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> NoReturn:
        raise ProtocolError(
            "only plain data may be sent (None, bool, numbers, str, bytes, list, tuple, dict, set), "
            f"not {module}.{name}; a queue of multihost.QueueManager carries any picklable object"
        )

    def persistent_load(self, pid: object) -> NoReturn:
        raise ProtocolError("only plain data may be sent, not a persistent reference")


def decode(content: Buffer) -> object:
    """The plain data in ``content``.

    Raises: ProtocolError for anything else; nothing of it has been imported or called.
    """
    check_sizes(content)
    try:
        file = io.BytesIO(content) if len(content) <= _COPIED_BYTES else _View(content)
        return _PlainUnpickler(file).load()
    except ProtocolError:
        raise
    except Exception as error:  # a pickle made by a stranger can fail in any way
        raise ProtocolError(f"a frame could not be decoded: {type(error).__name__}") from error


def decode_child(content: Buffer) -> Message:
    """What a child process says to its worker; see ``CHILD``.

    Raises: ProtocolError: it is something else, for user code runs in that process and may write anything.
    """
    match decode(content):
        case (str(name), *fields) as message if name in CHILD:
            checks = CHILD[name]
            if len(checks) == len(fields) and all(map(call, checks, fields)):
                return message  # type: ignore[return-value]
    raise ProtocolError("a child process wrote something that is no message of a child")


def frames_of(batch: list[Message]) -> Iterator[list[Buffer]]:
    """The contents of as many frames as the master's cap on one asks for, and a receiver's memory."""
    parts = encode(batch)
    if sum(map(len, parts)) <= WEIGHT_BYTES:
        yield parts
    else:
        yield from map(encode, split(batch))


def split(batch: list[T], weight_bytes: int = WEIGHT_BYTES) -> Iterator[list[T]]:
    """``batch``, of messages or rows, in parts: each is either ``weight_bytes`` in all or a single heavier one.

    A single one carries one large payload at most, and that is what the cap on a frame is made for.
    """
    part: list[T] = []
    weight = 0
    for message in batch:
        heavy = _weight(message)
        if part and weight + heavy > weight_bytes:
            yield part
            part, weight = [], 0
        part.append(message)
        weight += heavy
    if part:
        yield part


def _weight(value: object) -> int:
    """The bytes objects in a message, and what stands for such, in bytes."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, pickle.PickleBuffer):
        return value.raw().nbytes
    return sum(map(_weight, value)) if isinstance(value, list | tuple) else 0


def check_batch(role: str, batch: object) -> list[Message]:
    """``batch`` as the messages it must be for ``role``.

    Raises: ProtocolError.
    """
    table = ROLES[role]
    if not isinstance(batch, list):
        raise ProtocolError(f"a {role} sent {type(batch).__name__} where a list of messages belongs")
    for message in batch:
        if not isinstance(message, tuple) or not message or not isinstance(message[0], str):
            raise ProtocolError(f"a {role} sent something that is no message")
        checks = table.get(message[0])
        if checks is None or len(checks) != len(message) - 1 or not all(map(call, checks, message[1:])):
            raise ProtocolError(f"a {role} may not send {message[0][:40]!r} with these fields")
    return batch
