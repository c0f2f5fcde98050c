"""A shared queue, as ``queue.Queue`` behaves, but with callers that wait instead of threads that block.

A caller is the number of a connection; it makes one call at a time, as a proxy of the standard library does. Every
call is answered by a ``Reply``, at once or later. Reads no clock.
"""

import heapq
import pickle
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, Full
from typing import Any, NamedTuple

from multihost.errors import ProtocolError

METHODS = (
    "empty", "full", "get", "get_nowait", "join", "put", "put_nowait", "put_pickled", "qsize", "task_done",
)  # fmt: skip

# An item is refused when it has nearly as many levels as could be sent: the answer that carries it adds a few.
_DEPTH_MARGIN = 50


# A waiter served in time leaves its deadline in the heap; so many of them are kept until they are cleared away.
_MOST_STALE_DEADLINES = 1000


class Reply(NamedTuple):
    """What the managers protocol answers a request with: ``kind`` is ``#RETURN``, ``#ERROR`` or ``#TRACEBACK``."""

    connection: int
    kind: str
    value: object


@dataclass(frozen=True, slots=True)
class Opaque:
    """An item that its sender pickled: bytes to the master, the object itself to whoever gets it."""

    pickled: bytes

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        # Pickling this writes "call pickle.loads with these bytes": it happens at the receiver, never here.
        return pickle.loads, (self.pickled,)


@dataclass(slots=True)
class _Waiter:
    connection: int
    deadline: float | None  # None: waits as long as its connection lasts
    item: object = None  # what a waiting put wants to put


class Items:
    """What is in a queue, and with whom: what must outlive the master. Each change is recorded as it is made.

    An item that was handed to a connection is kept until there is a sign that it arrived.
    """

    def __init__(self, record: Callable[[tuple[object, ...]], None]) -> None:
        self.waiting: deque[object] = deque()
        self.unfinished = 0
        self.handed: dict[int, object] = {}  # by connection, the last item only
        self._record = record

    def put(self, item: object) -> None:
        self._record(_put(item))
        self.waiting.append(item)
        self.unfinished += 1

    def hand(self, connection: int) -> object:
        self._record(("hand", connection))
        self.handed[connection] = item = self.waiting.popleft()
        return item

    def arrived(self, connection: int) -> None:
        if connection in self.handed:
            self._record(("arrived", connection))
            del self.handed[connection]

    def put_back(self, connection: int) -> None:
        """What was handed to this connection, if anything, is next again."""
        if connection in self.handed:
            self._record(("put_back", connection))
            self.waiting.appendleft(self.handed.pop(connection))

    def finish(self) -> None:
        self._record(("finish",))
        self.unfinished -= 1

    def apply(self, name: str, *args: Any) -> None:
        """Do again what was recorded."""
        match name, args:
            case "put", (bool(opaque), item):
                self.put(Opaque(item) if opaque else item)
            case "unfinished", (int(count),):
                self.unfinished = count
            case (("hand" | "arrived" | "put_back" | "finish"), _):
                getattr(self, name)(*args)
            case _:
                raise ValueError(f"a shared queue has no record {name!r} with these fields")

    def snapshot(self) -> list[tuple[object, ...]]:
        """Records that lead to this, in an empty queue."""
        rows: list[tuple[object, ...]] = []
        for connection, item in self.handed.items():
            rows += [_put(item), ("hand", connection)]
        return [*rows, *map(_put, self.waiting), ("unfinished", self.unfinished)]


def _put(item: object) -> tuple[object, ...]:
    return ("put", True, item.pickled) if isinstance(item, Opaque) else ("put", False, item)


class SharedQueue:
    """One queue. ``call`` and the events below return the replies that became due."""

    def __init__(self, maxsize: int = 0, record: Callable[[tuple[object, ...]], None] = lambda record: None) -> None:
        self._maxsize = maxsize
        self.items = Items(record)
        self._getters: OrderedDict[int, _Waiter] = OrderedDict()  # longest waiting first
        self._putters: OrderedDict[int, _Waiter] = OrderedDict()
        self._joiners: set[int] = set()
        self._deadlines: list[float] = []  # a heap; a waiter that was served in time leaves its entry to pass

    def __len__(self) -> int:
        return len(self.items.waiting)

    def call(
        self, connection: int, method: str, args: tuple[object, ...], kwds: dict[str, object], now: float
    ) -> list[Reply]:
        """One request of a proxy; the arguments come from a stranger and are checked here."""
        self.confirm(connection)
        if connection in self._getters or connection in self._putters or connection in self._joiners:
            raise ProtocolError("a second request on a connection whose first is not answered yet")
        if method not in METHODS:
            return [Reply(connection, "#TRACEBACK", f"a shared queue has no method {method[:80]!r}")]
        try:
            result = getattr(self, f"_{method}")(connection, now, *args, **kwds)
        except (TypeError, ValueError, OverflowError, Empty, Full) as error:
            return [Reply(connection, "#ERROR", error)]
        return result if isinstance(result, list) else [Reply(connection, "#RETURN", result)]

    def confirm(self, connection: int) -> None:
        """A connection asks again, this queue or another: it has read the last answer."""
        self.items.arrived(connection)

    def expire(self, now: float) -> list[Reply]:
        """Answer the calls whose time is up."""
        while self._deadlines and self._deadlines[0] <= now:
            heapq.heappop(self._deadlines)
        replies = []
        for waiters, error in ((self._getters, Empty), (self._putters, Full)):
            due = [w.connection for w in waiters.values() if w.deadline is not None and w.deadline <= now]
            for connection in due:
                del waiters[connection]
                replies.append(Reply(connection, "#ERROR", error()))
        return replies

    def next_deadline(self) -> float | None:
        """When ``expire`` is due next."""
        return self._deadlines[0] if self._deadlines else None

    def leave(self, connection: int, delivered: bool) -> list[Reply]:
        """A connection ended. Unless its last answer was ``delivered``, the item in it is next again."""
        self._getters.pop(connection, None)
        self._putters.pop(connection, None)
        self._joiners.discard(connection)
        if delivered:
            self.items.arrived(connection)
        else:
            self.items.put_back(connection)
        return self._settle()

    def take_back(self) -> None:
        """No connection of before is left, and nobody knows what has arrived: all of it is next again."""
        for connection in reversed([*self.items.handed]):
            self.items.put_back(connection)

    def _put(
        self, connection: int, now: float, item: object, block: object = True, timeout: object = None
    ) -> list[Reply]:
        _check_depth(item)
        waiter = _Waiter(connection, _deadline(now, block, timeout), item)
        if block or not self._full(connection, now):
            return self._wait(self._putters, waiter)
        raise Full

    def _put_nowait(self, connection: int, now: float, item: object) -> list[Reply]:
        return self._put(connection, now, item, False)

    def _put_pickled(
        self, connection: int, now: float, pickled: object, block: object = True, timeout: object = None
    ) -> list[Reply]:
        if not isinstance(pickled, bytes):
            raise TypeError("put_pickled takes the bytes of a pickle")
        return self._put(connection, now, Opaque(pickled), block, timeout)

    def _get(self, connection: int, now: float, block: object = True, timeout: object = None) -> list[Reply]:
        waiter = _Waiter(connection, _deadline(now, block, timeout))
        if block or (self.items.waiting and not self._getters):
            return self._wait(self._getters, waiter)
        raise Empty

    def _get_nowait(self, connection: int, now: float) -> list[Reply]:
        return self._get(connection, now, False)

    def _qsize(self, connection: int, now: float) -> int:
        return len(self)

    def _empty(self, connection: int, now: float) -> bool:
        return not self.items.waiting

    def _full(self, connection: int, now: float) -> bool:
        return 0 < self._maxsize <= len(self)

    def _task_done(self, connection: int, now: float) -> list[Reply]:
        if self.items.unfinished == 0:
            raise ValueError("task_done() called too many times")
        self.items.finish()
        return [Reply(connection, "#RETURN", None), *self._settle()]

    def _join(self, connection: int, now: float) -> list[Reply]:
        self._joiners.add(connection)
        return self._settle()

    def _wait(self, waiters: OrderedDict[int, _Waiter], waiter: _Waiter) -> list[Reply]:
        waiters[waiter.connection] = waiter
        replies = self._settle()
        if waiter.deadline is not None and waiter.connection in waiters:
            everyone = (*self._getters.values(), *self._putters.values())
            if len(self._deadlines) > _MOST_STALE_DEADLINES + 2 * len(everyone):
                self._deadlines = sorted(w.deadline for w in everyone if w.deadline is not None)  # sorted is a heap
            else:
                heapq.heappush(self._deadlines, waiter.deadline)
        return replies

    def _settle(self) -> list[Reply]:
        """Let waiting puts in, hand items to waiting gets, until neither can go on; answer joins when all is done."""
        replies = []
        while True:
            if self._putters and not (0 < self._maxsize <= len(self)):
                connection, waiter = self._putters.popitem(last=False)
                self.items.put(waiter.item)
                replies.append(Reply(connection, "#RETURN", None))
            elif self._getters and self.items.waiting:
                connection, _ = self._getters.popitem(last=False)
                replies.append(Reply(connection, "#RETURN", self.items.hand(connection)))
            else:
                break
        if not self.items.unfinished:
            replies += [Reply(connection, "#RETURN", None) for connection in self._joiners]
            self._joiners.clear()
        return replies


def _check_depth(item: object) -> None:
    """Refuse what could be received but never be sent: decoding does not recurse, encoding does.

    Raises: ValueError.
    """
    if not isinstance(item, list | tuple | dict | set | frozenset):
        return
    for _ in range(_DEPTH_MARGIN):
        item = [item]
    try:
        pickle.dumps(item, protocol=5)
    except RecursionError:
        raise ValueError("the item is nested too deeply to be sent to whoever gets it; it was not queued") from None


def _deadline(now: float, block: object, timeout: object) -> float | None:
    """When a call gives up, from arguments that come from a stranger; None: never, or at once."""
    if timeout is None or not block:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be a number of seconds or None, not {type(timeout).__name__}")
    if not timeout >= 0:
        raise ValueError("'timeout' must be a non-negative number")
    return now + timeout
