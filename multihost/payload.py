"""How values become the opaque bytes that travel, and values again at the other end.

What pickle can name travels by reference, and works between minor versions of Python. What has no name to
import (lambdas, closures, what a REPL defines) travels by value with cloudpickle, marked with the minor version
that made it: its bytecode runs nowhere else.
"""

import hashlib
import mmap
import pathlib
import pickle
import pickletools
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, NamedTuple

from multihost.errors import PythonMismatch, RemoteError, RemoteTraceback, ResultNotRebuilt

PYTHON_MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
# Paths are what tasks are given most, and Python 3.13 pickles them as of a module that later ones keep for that alone.
if sys.version_info < (3, 13):
    sys.modules.setdefault("pathlib._local", pathlib)
# A pickle of protocol 2 or later begins with b"\x80"; this mark cannot be confused with one.
_BY_VALUE = b"by-value "
_BOUND = b"bound "
# In an archive of sources: which of them is the main script, and its module name if it was run with ``-m``.
MANIFEST = "__multihost__.json"
# A function's name is near the beginning of its pickle, if it is there at all.
_MOST_NAMED_BYTES = 4096
# A bytes object of this size is worth the trouble of not copying it: 5 µs, and 60 µs for the copy.
LARGE_BYTES = 256 * 1024
# A blob of this size does not stay until its session ends, but as long as it is used; smaller ones are not worth that.
LARGE_BLOB_BYTES = 1_000_000


# Arguments by their place among the positional ones, or by their keyword.
Places = dict[int | str, bytes]


class Retrying(NamedTuple):
    """A function, and the exceptions after which its caller wants another try."""

    function: Callable[..., object]
    retry_for: tuple[type[BaseException], ...]


def dumps(value: object, main_travels: bool = True) -> bytes:
    """The bytes of ``value``: by reference where pickle can, otherwise by value.

    Args:
        main_travels: whether the other end can import what ``__main__`` defines; a REPL's it cannot.
    Raises: what pickling raises; ``PicklingError`` and ``TypeError`` name the type that cannot be pickled.
    """
    try:
        data = pickle.dumps(value, protocol=5)
    except (pickle.PicklingError, AttributeError, TypeError):
        return by_value(value)
    return data if main_travels or b"__main__" not in data else by_value(value)


class Large:
    """What ``dumps`` gives, in parts: large bytes objects of the value are parts as they are, for they cannot change.

    They are joined on their way: where a message is to hold them, a ``stand_in`` does.
    """

    __slots__ = ("_size", "parts")

    def __init__(self, parts: list[bytes]) -> None:
        self.parts, self._size = parts, sum(map(len, parts))

    def __len__(self) -> int:
        return self._size

    def stand_in(self) -> pickle.PickleBuffer:
        """What ``wire.messages`` encodes as one bytes object: ``parts_of`` it.

        Pickle asks of it no more than its length; there is no memory behind its addresses.
        """
        try:
            room = _Room(-1, self._size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=mmap.PROT_READ)
        except OSError:  # a limit of addresses: memory may still be had
            return pickle.PickleBuffer(b"".join(self.parts))
        room.parts = self.parts
        return pickle.PickleBuffer(room)


class _Room(mmap.mmap):
    parts: list[bytes]


def parts_of(stand_in: pickle.PickleBuffer) -> list[bytes]:
    """The parts of the ``Large`` that it stands for."""
    room = stand_in.raw().obj
    return room.parts if isinstance(room, _Room) else [bytes(room)]


def dumps_large(value: object, main_travels: bool = True) -> bytes | Large:
    """As ``dumps``, for a value that contains large bytes objects."""
    parts: list[bytes] = []
    # A buffer of what may change is no bytes object.
    file = SimpleNamespace(write=lambda part: parts.append(part if type(part) is bytes else bytes(part)))
    try:
        pickle.Pickler(file, protocol=5).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return by_value(value)
    if not main_travels and any(b"__main__" in part for part in parts if len(part) < LARGE_BYTES):
        return by_value(value)
    return Large(parts)


class Function(NamedTuple):
    """What the definition of a function says."""

    function: Callable[..., Any]
    retry_for: tuple[type[BaseException], ...]
    places: Places  # arguments that come with it

    def complete(self, arguments: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All arguments of a call, in which something stands for those that come with the function."""
        args, kwds = arguments
        positional = tuple(self.places.get(place, value) for place, value in enumerate(args))
        return positional, {name: self.places.get(name, value) for name, value in kwds.items()}


def bind(definition: bytes, places: Places) -> Large:
    """The definition of the same function with some of its arguments."""
    values = dumps_large(places)
    parts = values.parts if isinstance(values, Large) else [values]
    return Large([_BOUND, b"%d\n" % len(definition), definition, *parts])


def without(places: Places, args: Iterable[object], kwds: dict[str, object]) -> tuple[Any, dict[str, Any]]:
    """The arguments of a call whose function is bound to those at ``places``."""
    positional = tuple(None if place in places else value for place, value in enumerate(args))
    return positional, {name: None if name in places else value for name, value in kwds.items()}


def load_function(definition: bytes) -> Function:
    """Raises: as ``loads``."""
    definition, bound = _unbound(definition)
    function: Any = loads(definition)
    places: Any = pickle.loads(bound) if len(bound) else {}
    retry_for = function.retry_for if isinstance(function, Retrying) else ()
    return Function(function.function if isinstance(function, Retrying) else function, retry_for, places)


def _unbound(definition: bytes) -> tuple[bytes, memoryview]:
    """The definition of the function alone, and the arguments that it is bound to."""
    if not definition.startswith(_BOUND):
        return definition, memoryview(b"")
    begin = definition.index(b"\n") + 1
    end = begin + int(definition[len(_BOUND) : begin])
    return definition[begin:end], memoryview(definition)[end:]


def is_large(value: object) -> bool:
    """Whether a value is a large bytes object."""
    return type(value) is bytes and len(value) >= LARGE_BYTES


def by_value(value: object) -> bytes:
    """The bytes of ``value`` with the code it needs inside, for the same minor version of Python only."""
    import cloudpickle  # 25 ms, which a program whose functions all have names does not pay

    pickled: bytes = cloudpickle.dumps(value, protocol=5)
    return _BY_VALUE + PYTHON_MINOR.encode() + b"\n" + pickled


def loads(data: bytes) -> object:
    """The value that ``dumps`` turned into ``data``.

    Raises: PythonMismatch, or what unpickling raises.
    """
    if not data.startswith(_BY_VALUE):
        return pickle.loads(data)
    mark, _, pickled = data.partition(b"\n")
    sender = mark[len(_BY_VALUE) :].decode()
    if sender != PYTHON_MINOR:
        raise PythonMismatch(sender, PYTHON_MINOR)
    return pickle.loads(pickled)


def not_rebuilt(error: BaseException, data: bytes, place: int | None = None) -> ResultNotRebuilt:
    """What a caller is told whose result ``data``, or the value of that place in it, ``loads`` could not rebuild."""
    pickled = data.partition(b"\n")[2] if is_by_value(data) else data
    python = error.sender if isinstance(error, PythonMismatch) else ""
    told = ResultNotRebuilt(str(error) if python else repr(error), pickled, place, python)
    told.__cause__ = error
    return told


def dump_error(error: BaseException, max_bytes: float = float("inf")) -> bytes:
    """The bytes of a task's exception: itself where it survives the journey, and always its text and traceback.

    Above ``max_bytes`` only its type's name and the ends of both texts travel, some 20 kB.
    """
    text = "".join(traceback.format_exception(error))
    stand_in = (type(error).__qualname__, _text_of(error))
    try:
        itself = dumps(error)
        loads(itself)  # an __init__ with other arguments than args is found out here, not at the client
    except BaseException:  # a __reduce__ of the user's may raise anything, here and below
        itself = b""
    data = pickle.dumps((itself, *stand_in, text), protocol=5)
    if len(data) > max_bytes:
        data = pickle.dumps((b"", stand_in[0], _ends_of(stand_in[1], 1000), _ends_of(text, 5000)), protocol=5)
    return data


def load_error(data: bytes) -> BaseException:
    """The exception that ``dump_error`` was given, with its remote traceback as ``__cause__``."""
    itself, type_name, message, text = pickle.loads(data)
    error: object = None
    if itself:
        try:
            error = loads(itself)
        except BaseException as reason:
            message = f"{message} (this class cannot be rebuilt here: {reason!r})"
    if not isinstance(error, BaseException):
        error = RemoteError(type_name, message)
    error.__cause__ = RemoteTraceback(text)
    return error


def dump_part(start: int, seconds: float, values: list[object], errors: dict[int, bytes]) -> bytes:
    """The bytes of some of a chunk's outcomes: of the items from ``start`` on, which took so many seconds in all.

    ``errors`` are those of the items that raised, by their place in ``values``, as ``dump_error`` gives them.
    Raises: what pickling raises.
    """
    # How many there are is said in the open: it must be known even where the values cannot be rebuilt.
    return b"%d %d %.9f\n" % (start, len(values), seconds) + dumps((values, errors))


@dataclass(slots=True)
class Outcomes:
    """How some items of a chunk ended: a value for each, and by place in them the exceptions of those that raised.

    It is not a pair for each item, because a map of tiny items would spend most of its time on making them.
    """

    values: list[Any]
    errors: dict[int, BaseException] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @classmethod
    def failed(cls, error: BaseException, count: int) -> "Outcomes":
        """So many items that all ended in the same exception."""
        return cls([None] * count, dict.fromkeys(range(count), error))

    def behind(self, count: int) -> "Outcomes":
        """Those of the items behind the first ``count``."""
        if count <= 0:
            return self
        errors = {place - count: error for place, error in self.errors.items() if place >= count}
        return Outcomes(self.values[count:], errors)

    def pairs(self) -> list[tuple[bool, Any]]:
        """(succeeded, value or exception) of each."""
        pairs = [(True, value) for value in self.values]
        for place, error in self.errors.items():
            pairs[place] = False, error
        return pairs


def load_part(data: bytes) -> tuple[int, float, Outcomes]:
    """What ``dump_part`` was given: where the items start, their seconds, and their outcomes.

    Values that cannot be rebuilt here are so many exceptions that say why.
    """
    head, _, body = data.partition(b"\n")
    start, count, seconds = head.split()
    try:
        loaded: Any = loads(body)
        values, errors = loaded
        outcomes = Outcomes(values, {place: load_error(error) for place, error in errors.items()})
    except BaseException as error:
        errors = {place: not_rebuilt(error, body, place) for place in range(int(count))}
        outcomes = Outcomes([None] * int(count), errors)
    return int(start), float(seconds), outcomes


def _ends_of(text: str, length: int) -> str:
    """The first and the last ``length`` characters of ``text``."""
    if len(text) <= 2 * length:
        return text
    return f"{text[:length]} ... {len(text) - 2 * length:,} characters left out ... {text[-length:]}"


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException as reason:
        return f"<no text: str() of it raised {type(reason).__name__}>"


def content_id(content: bytes | Large, needs: tuple[str, ...] = ()) -> str:
    """The name of a blob: the same content (with the same needs) has the same name everywhere."""
    # The needs go first and their line ends, so that no other content can have them as its own last bytes.
    digest = hashlib.sha256(" ".join(needs).encode() + b"\n")
    for part in content.parts if isinstance(content, Large) else [content]:
        digest.update(part)
    return digest.hexdigest()


def is_by_value(data: bytes) -> bool:
    """Whether ``dumps`` had to put code into ``data``."""
    return data.startswith(_BY_VALUE)


def one_item(items: Any, which: Any) -> tuple[Any, dict[str, Any]]:
    """The call of a single item of a chunk: ``which`` one, and whether it is of a map or a starmap."""
    place, kind = which
    return (items[place] if kind == "starmap" else (items[place],)), {}


def name_in(definition: bytes) -> str:
    """The name of the function in a blob that ``dumps`` made, without unpickling it; empty, where that is not said."""
    try:
        definition, _ = _unbound(definition)
    except ValueError:  # a stranger's bytes may be anything
        return ""
    if is_by_value(definition):
        return ""
    around = (f"{Retrying.__module__}.{Retrying.__qualname__}", "functools.partial", "builtins.getattr")
    texts: list[str] = []
    try:
        for opcode, text, _ in pickletools.genops(definition[:_MOST_NAMED_BYTES]):
            if opcode.name in ("SHORT_BINUNICODE", "BINUNICODE"):
                texts.append(str(text))
            elif opcode.name == "STACK_GLOBAL":
                name = ".".join(texts[-2:])
                if name not in around:
                    return name
    except Exception:  # a stranger's bytes may be anything
        pass
    return ""
