"""What a pool hands out for calls that are under way: a result to come, a list of them, an iterator over them."""

import collections
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from multiprocessing import TimeoutError
from typing import Any, Generic, Protocol, TypeVar

from multihost.explain import Explanation
from multihost.payload import Outcomes

T = TypeVar("T")

# Held to add or remove a waiter: a lock for each result would be most of what it costs.
_WAITERS = threading.Lock()

# How far imap reads ahead of its consumer: items, and about how many bytes their arguments and results may have.
_ITEMS_AHEAD = 1000
_BYTES_AHEAD = 16 * 1024 * 1024
# While no result has come, nobody knows how large they are.
_ITEMS_AHEAD_UNKNOWN = 64


class Calls(Protocol):
    """The pool, as its results see it: it lives as long as they are under way."""

    def begin(self) -> bool: ...

    def end(self) -> None: ...

    def check_process(self) -> None: ...


class UnderWay(Protocol):
    """A call that has no outcome yet, or the calls of a map."""

    def cancel(self, running: bool) -> bool:
        """Cancel it, with ``running`` even what runs; whether anything was."""

    def explain(self) -> Explanation:
        """Where it is; asks the master."""


class Bar(Protocol):
    """What shows how far a call has come."""

    def advance(self, done: int, failed: int) -> None: ...

    def close(self) -> None: ...


class AsyncResult(Generic[T]):
    """The outcome of a call that was submitted, as ``multiprocessing.pool.AsyncResult``."""

    __slots__ = (
        "__weakref__",
        "_callback",
        "_error_callback",
        "_pool",
        "_success",
        "_under_way",
        "_value",
        "_waiters",
    )

    def __init__(
        self,
        pool: Calls,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._pool: Calls | None = pool  # until the call has ended: a pool with calls under way is not dropped
        self._waiters: tuple[threading.Lock, ...] = ()  # each of a thread that waits, released when the call has ended
        self._success: bool | None = None  # None: the call has not ended
        self._value: Any = None
        self._callback, self._error_callback = callback, error_callback
        self._under_way: UnderWay | None = None
        pool.begin()

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._success is not None

    def successful(self) -> bool:
        """Whether it ended without an exception.

        Raises: ValueError: it has not ended yet.
        """
        if self._success is None:
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, or ``timeout`` seconds are over.

        Raises: ForkedClient: this process was forked from the one that made the pool; the outcome comes there.
        """
        if self.ready():
            return
        if (pool := self._pool) is not None:
            pool.check_process()
        waiter = threading.Lock()
        waiter.acquire()
        with _WAITERS:
            self._waiters = (*self._waiters, waiter)
        try:
            if not self.ready():  # looked at when the waiter is there, or one that came between would wait for ever
                waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            with _WAITERS:
                self._waiters = tuple(other for other in self._waiters if other is not waiter)

    def get(self, timeout: float | None = None) -> T:
        """The result; waits for it.

        Raises: multiprocessing.TimeoutError after ``timeout`` seconds; the call's own exception, with the traceback
            from the worker as its ``__cause__``; ``CancelledError`` if it was cancelled.
        """
        if self._success is None:
            self.wait(timeout)
            if self._success is None:
                raise TimeoutError
        if self._success:
            return self._value  # type: ignore[no-any-return]
        try:
            raise self._value
        finally:
            del self  # the exception's traceback has this frame, and shall not keep the exception alive

    def cancel(self) -> bool:
        """Cancel what no worker has yet; whether anything was. Beyond the standard library."""
        return not self.ready() and self._under_way is not None and self._under_way.cancel(False)

    def terminate(self) -> bool:
        """Cancel the call, and stop it if it runs; whether anything was cancelled. Beyond the standard library."""
        return not self.ready() and self._under_way is not None and self._under_way.cancel(True)

    def explain(self) -> Explanation:
        """Why the call, or the first item of a map that has not ended, is not done yet. Beyond the standard library.

        Waits for the master's answer, 10 s at most; in a callback it does not.
        """
        under_way = self._under_way
        if under_way is not None and not self.ready():
            told = under_way.explain()
            if not self.ready():
                return told
        cancelled = isinstance(self._value, CancelledError)
        return Explanation("ended", "result" if self._success else "cancelled" if cancelled else "error")

    def _set(self, success: bool, value: object) -> None:
        self._value = value
        callback = self._callback if success else self._error_callback
        pool, self._pool = self._pool, None
        self._callback = self._error_callback = self._under_way = None  # and with them what they hold
        try:
            if callback is not None:
                callback(value)  # type: ignore[arg-type]
        finally:
            self._success = success
            for waiter in self._waiters:
                waiter.release()
            if pool is not None:
                pool.end()


class MapResult(AsyncResult[list[T]]):
    """The outcome of ``map_async``: all results, or the first exception, once every call has ended."""

    __slots__ = ("_bar", "_failure", "_let_go", "_lock", "_missing", "_results")

    def __init__(
        self,
        pool: Calls,
        length: int,
        callback: Callable[[list[T]], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
        bar: Bar | None = None,
        let_go: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(pool, callback, error_callback)
        self._let_go = let_go  # of what is held until every call has ended
        self._results: list[Any] = [None] * length
        self._missing = length
        self._failure: object = None
        self._lock = threading.Lock()
        self._bar = bar
        if not length:
            self._finish()

    def _arrived(self, index: int, outcomes: Outcomes) -> None:
        """The outcomes of some items, from the one at ``index`` on."""
        with self._lock:
            self._results[index : index + len(outcomes)] = outcomes.values
            if outcomes.errors and self._failure is None:
                self._failure = outcomes.errors[min(outcomes.errors)]
            self._missing -= len(outcomes)
            last = not self._missing
        if self._bar is not None:
            self._bar.advance(len(outcomes), len(outcomes.errors))
        if last:
            self._finish()

    def _finish(self) -> None:
        results, self._results = self._results, []
        let_go, self._let_go = self._let_go, None
        if let_go is not None:
            let_go()
        if self._bar is not None:
            self._bar.close()
        if self._failure is None:
            self._set(True, results)
        else:
            self._set(False, self._failure)


class Window:
    """What is between the input and the consumer of an ``imap``: how far to read ahead, and results that wait.

    Args:
        ordered: whether results come in the order of the input, or as they arrive.
        buffersize: how many items may be read ahead, at most; None: as ``imap`` says.
    """

    def __init__(self, pool: Calls, ordered: bool, buffersize: int | None = None, bar: Bar | None = None) -> None:
        self._pool: Calls | None = pool  # until every call has ended
        self._ordered, self._buffersize, self._bar = ordered, buffersize, bar
        self._condition = threading.Condition()
        self._arrived: collections.deque[tuple[bool, Any, int]] = collections.deque()  # in the order of delivery
        self._early: dict[int, tuple[bool, Any, int]] = {}  # results that wait for one before them
        self._next = 0  # the index to arrive next, if ordered
        self._submitted = self._received = self._taken = 0
        self._waiting_bytes = 0  # of the results that have arrived and were not taken
        self._result_bytes: float | None = None  # of one result; None: none has come
        self._argument_bytes = 0.0  # of one item
        self._length: int | None = None  # of the input, once it has ended
        self._joined = self._stopped = self._abandoned = False
        pool.begin()

    # --- the consumer ------------------------------------------------------------------------------------------

    def take(self, timeout: float | None) -> tuple[bool, Any]:
        """The next outcome. Raises: StopIteration; multiprocessing.TimeoutError."""
        with self._condition:
            if self._pool is not None and not self._arrived:
                self._pool.check_process()
            self._condition.wait_for(lambda: self._arrived or self._taken == self._length, timeout)
            if not self._arrived:
                if self._taken == self._length:
                    raise StopIteration
                raise TimeoutError
            success, value, size_bytes = self._arrived.popleft()
            self._taken += 1
            self._waiting_bytes -= size_bytes
            self._condition.notify_all()
        return success, value

    def abandon(self) -> None:
        """Nobody will take the results any more; the calls go on, as the standard library's do."""
        self._abandoned = True
        with self._condition:
            self._forget()

    # --- those who bring results -------------------------------------------------------------------------------

    def arrived(self, index: int, outcomes: Outcomes, size_bytes: int) -> None:
        """The outcomes of some items, from the one at ``index`` on, and their size in all."""
        each = size_bytes // len(outcomes)
        with self._condition:
            if size_bytes:
                known = self._result_bytes
                self._result_bytes = float(each) if known is None else (known + each) / 2
            self._received += len(outcomes)
            self._waiting_bytes += each * len(outcomes)
            rows = [(success, value, each) for success, value in outcomes.pairs()]
            if self._ordered:
                self._early.update(enumerate(rows, index))
                while self._next in self._early:
                    self._arrived.append(self._early.pop(self._next))
                    self._next += 1
            else:
                self._arrived.extend(rows)
            if self._abandoned:
                self._forget()
            self._condition.notify_all()
        if self._bar is not None:
            self._bar.advance(len(outcomes), len(outcomes.errors))
        self._end_if_over()

    def _forget(self) -> None:
        self._taken += len(self._arrived)
        self._waiting_bytes -= sum(size_bytes for _, _, size_bytes in self._arrived)
        self._arrived.clear()
        self._condition.notify_all()

    def _end_if_over(self) -> None:
        with self._condition:
            if self._received != self._length:
                return
            pool, self._pool = self._pool, None
        if pool is not None:
            if self._bar is not None:
                self._bar.close()
            pool.end()

    # --- who reads the input -----------------------------------------------------------------------------------

    def wait_for_room(self, slots: int, items: int) -> bool:
        """Wait until so many more items may be read and submitted; False: not any more."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or self._has_room(slots, items))
            return not self._stopped

    def submits(self, items: int, argument_bytes: int | None) -> int:
        """So many items are submitted now, of about so many bytes each if that is known; the index of the first."""
        with self._condition:
            if argument_bytes is not None:
                self._argument_bytes = max(self._argument_bytes / 2, argument_bytes)
            first = self._submitted
            self._submitted += items
            return first

    def ended(self) -> None:
        """The input has ended, or is read no further."""
        with self._condition:
            self._length = self._submitted
            self._condition.notify_all()
        self._end_if_over()

    def _has_room(self, slots: int, items: int) -> bool:
        ahead = self._submitted - self._taken + items
        if self._buffersize is not None:
            return ahead <= self._buffersize
        if self._joined or ahead <= 2 * slots * items:  # what keeps the workers at work, however large it is
            return True
        if self._result_bytes is None:
            return ahead <= _ITEMS_AHEAD_UNKNOWN
        under_way = self._submitted - self._received + items
        size_bytes = self._waiting_bytes + under_way * (self._result_bytes + self._argument_bytes)
        return ahead <= _ITEMS_AHEAD and size_bytes <= _BYTES_AHEAD

    # --- the pool ----------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Read no further."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def read_on(self) -> None:
        """Read all of the input, wherever the consumer is: who joins the pool does not consume meanwhile.

        With a ``buffersize`` that would be more than the user allows, so it is then read no further.
        """
        with self._condition:
            self._joined = True
            self._stopped = self._stopped or self._buffersize is not None
            self._condition.notify_all()


class IMapIterator(Iterator[T]):
    """The results of ``imap`` as they come, in the order of the input or in that of their arrival."""

    def __init__(self, window: Window) -> None:
        self._window = window
        weakref.finalize(self, window.abandon).atexit = False

    def __iter__(self) -> "IMapIterator[T]":
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next result; waits for it.

        Raises: StopIteration after the last; multiprocessing.TimeoutError after ``timeout`` seconds; a call's own
            exception, after which the next results can still be had.
        """
        success, value = self._window.take(timeout)
        if success:
            return value  # type: ignore[no-any-return]
        raise value

    __next__ = next
