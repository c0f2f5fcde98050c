"""A shared queue, as ``queue.Queue`` behaves, but with callers that wait instead of threads that block.

A caller is the number of a connection; it makes one call at a time, as a proxy of the standard library does. Every
call is answered by a ``Reply``, at once or later. Reads no clock.
"""

import heapq
import pickle
from collections import OrderedDict, deque
from dataclasses import dataclass
from queue import Empty, Full
from typing import NamedTuple

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


class SharedQueue:
    """One queue. ``call`` and the events below return the replies that became due."""

    def __init__(self, maxsize: int = 0) -> None:
        self._maxsize = maxsize
        self._items: deque[object] = deque()
        self._unfinished = 0
        self._getters: OrderedDict[int, _Waiter] = OrderedDict()  # longest waiting first
        self._putters: OrderedDict[int, _Waiter] = OrderedDict()
        self._joiners: set[int] = set()
        self._deadlines: list[float] = []  # a heap; a waiter that was served in time leaves its entry to pass
        # The last item handed to each connection, until a sign that it arrived.
        self._unconfirmed: dict[int, object] = {}

    def __len__(self) -> int:
        return len(self._items)

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
        self._unconfirmed.pop(connection, None)

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
        if connection in self._unconfirmed:
            item = self._unconfirmed.pop(connection)
            if not delivered:
                self._items.appendleft(item)
        return self._settle()

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
        if block or (self._items and not self._getters):
            return self._wait(self._getters, waiter)
        raise Empty

    def _get_nowait(self, connection: int, now: float) -> list[Reply]:
        return self._get(connection, now, False)

    def _qsize(self, connection: int, now: float) -> int:
        return len(self._items)

    def _empty(self, connection: int, now: float) -> bool:
        return not self._items

    def _full(self, connection: int, now: float) -> bool:
        return 0 < self._maxsize <= len(self._items)

    def _task_done(self, connection: int, now: float) -> list[Reply]:
        if self._unfinished == 0:
            raise ValueError("task_done() called too many times")
        self._unfinished -= 1
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
            if self._putters and not (0 < self._maxsize <= len(self._items)):
                connection, waiter = self._putters.popitem(last=False)
                self._items.append(waiter.item)
                self._unfinished += 1
                replies.append(Reply(connection, "#RETURN", None))
            elif self._getters and self._items:
                connection, _ = self._getters.popitem(last=False)
                self._unconfirmed[connection] = item = self._items.popleft()
                replies.append(Reply(connection, "#RETURN", item))
            else:
                break
        if not self._unfinished:
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
