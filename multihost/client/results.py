"""What a pool hands out for calls that are under way: a result to come, a list of them, an iterator over them."""

import collections
import threading
from collections.abc import Callable, Iterator
from multiprocessing import TimeoutError
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# How far imap reads ahead of its consumer, in items.
_IMAP_AHEAD = 1000


class AsyncResult(Generic[T]):
    """The outcome of a call that was submitted, as ``multiprocessing.pool.AsyncResult``."""

    def __init__(
        self,
        callback: Callable[[T], object] | None = None,
        error_callback: Callable[[BaseException], object] | None = None,
    ) -> None:
        self._event = threading.Event()
        self._success = False
        self._value: Any = None
        self._callback, self._error_callback = callback, error_callback

    def ready(self) -> bool:
        """Whether the call has ended."""
        return self._event.is_set()

    def successful(self) -> bool:
        """Whether it ended without an exception.

        Raises: ValueError: it has not ended yet.
        """
        if not self.ready():
            raise ValueError(f"{self!r} not ready")
        return self._success

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the call has ended, or ``timeout`` seconds are over."""
        self._event.wait(timeout)

    def get(self, timeout: float | None = None) -> T:
        """The result; waits for it.

        Raises: multiprocessing.TimeoutError after ``timeout`` seconds; the call's own exception, with the traceback
            from the worker as its ``__cause__``.
        """
        self._event.wait(timeout)
        if not self.ready():
            raise TimeoutError
        if self._success:
            return self._value  # type: ignore[no-any-return]
        raise self._value

    def _set(self, success: bool, value: object) -> None:
        self._success, self._value = success, value
        callback = self._callback if success else self._error_callback
        try:
            if callback is not None:
                callback(value)  # type: ignore[arg-type]
        finally:
            self._event.set()


class MapResult(AsyncResult[list[T]]):
    """The outcome of ``map_async``: all results, or the first exception, once every call has ended."""

    def __init__(
        self,
        length: int,
        callback: Callable[[list[T]], object] | None,
        error_callback: Callable[[BaseException], object] | None,
    ) -> None:
        super().__init__(callback, error_callback)
        self._results: list[Any] = [None] * length
        self._missing = length
        self._failure: object = None
        self._lock = threading.Lock()
        if not length:
            self._set(True, [])

    def _item(self, index: int, success: bool, value: object) -> None:
        with self._lock:
            if success:
                self._results[index] = value
            elif self._failure is None:
                self._failure = value
            self._missing -= 1
            last = not self._missing
        if last:
            self._set(*((True, self._results) if self._failure is None else (False, self._failure)))


class IMapIterator(Iterator[T]):
    """The results of ``imap`` as they come, in the order of the input or in that of their arrival."""

    def __init__(self, ordered: bool) -> None:
        self._ordered = ordered
        self._condition = threading.Condition()
        self._arrived: collections.deque[tuple[bool, Any]] = collections.deque()
        self._early: dict[int, tuple[bool, Any]] = {}  # results that wait for one before them
        self._next = 0  # the index to arrive next, if ordered
        self._taken = 0
        self._length: int | None = None  # of the input, once it has ended
        self._ahead: float = _IMAP_AHEAD
        self._stopped = False

    def __iter__(self) -> "IMapIterator[T]":
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next result; waits for it.

        Raises: StopIteration after the last; multiprocessing.TimeoutError after ``timeout`` seconds; a call's own
            exception, after which the next results can still be had.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._arrived or self._taken == self._length, timeout)
            if not self._arrived:
                if self._taken == self._length:
                    raise StopIteration
                raise TimeoutError
            success, value = self._arrived.popleft()
            self._taken += 1
            self._condition.notify_all()
        if success:
            return value  # type: ignore[no-any-return]
        raise value

    __next__ = next

    def _item(self, index: int, success: bool, value: object) -> None:
        with self._condition:
            if self._ordered:
                self._early[index] = success, value
                while self._next in self._early:
                    self._arrived.append(self._early.pop(self._next))
                    self._next += 1
            else:
                self._arrived.append((success, value))
            self._condition.notify_all()

    def _ended(self, length: int) -> None:
        with self._condition:
            self._length = length
            self._condition.notify_all()

    def _stop(self) -> None:
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _read_on(self) -> None:
        """Read all of the input, wherever the consumer is: who joins the pool does not consume meanwhile."""
        with self._condition:
            self._ahead = float("inf")
            self._condition.notify_all()

    def _wait_for_room(self, submitted: int) -> bool:
        """Wait until the consumer has come near enough; False if there is none any more."""
        with self._condition:
            self._condition.wait_for(lambda: self._stopped or submitted - self._taken < self._ahead)
            return not self._stopped
