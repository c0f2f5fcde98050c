"""Submits the items of a map: one by one, or in the chunks that a ``Plan`` says, the next ones as others end."""

import pickle
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from typing import Any

from multihost.client.packing import Prepared
from multihost.client.plan import Plan
from multihost.client.results import Window
from multihost.client.session import Session
from multihost.explain import Explanation
from multihost.options import Options
from multihost.payload import Outcomes

# Each time that for so many seconds the items were not found to be short, more are submitted, for workers that join.
_PATIENCE_SECONDS = 0.05
# Of so many chunks of an imap, one is looked at for the size of its arguments.
_SAMPLED = 16


# The index of the first of some items, and their outcomes.
Arrived = Callable[[int, Outcomes], None]


class Singles:
    """The items of a map on their way to the workers, each as a task of its own.

    Args:
        star: whether an item is the arguments of a call, and not its only argument.
        arrived: called once for each item, in whatever thread brings its outcome.
    """

    def __init__(
        self,
        session: Session,
        function: Prepared,
        items: Sequence[Any],
        star: bool,
        options: Options,
        arrived: Arrived,
    ) -> None:
        self._session, self._function, self._items, self._star = session, function, items, star
        self._options, self._arrived = options, arrived
        self._sequences: list[int] = []
        self._cancelled: bool | None = None  # None: not; True: those that run, too

    def start(self) -> None:
        """Submit all items.

        Raises: the error that ended the session, ForkedClient: nothing was submitted.
        """
        for index, item in enumerate(self._items):
            try:
                if self._cancelled is not None:
                    raise CancelledError
                self._submit(index, item)
            except Exception as error:
                if not index:
                    raise
                self._arrived(index, Outcomes.failed(error, len(self._items) - index))
                return

    def cancel(self, running: bool) -> bool:
        """Submit no more, and cancel what was submitted; whether anything was cancelled. What is, ends so."""
        self._cancelled = running or bool(self._cancelled)
        return bool(self._session.cancel(list(self._sequences), running))

    def explain(self) -> Explanation:
        """Of the first item that has not ended."""
        return self._session.explain(list(self._sequences))

    def _submit(self, index: int, item: Any) -> None:
        try:
            args = tuple(item) if self._star else (item,)
        except TypeError as error:  # not the arguments of a call
            self._arrived(index, Outcomes.failed(error, 1))
            return
        ended = partial(self._ended, index)
        sequence = self._session.submit(self._function, args, {}, ended, self._options, patient=True)
        self._sequences.append(sequence)
        if self._cancelled is not None:  # while it was submitted
            self._session.cancel([sequence], self._cancelled)

    def _ended(self, index: int, succeeded: bool, value: object) -> None:
        self._arrived(index, outcome(succeeded, value))


class Chunks:
    """The items of a map on their way to the workers, in chunks; as ``Singles``, and

    Args:
        limit: how many calls may run at once; None: as many as there are slots.
    """

    def __init__(
        self,
        session: Session,
        function: Prepared,
        items: Sequence[Any],
        star: bool,
        options: Options,
        arrived: Arrived,
        plan: Plan,
        limit: int | None,
    ) -> None:
        self._session, self._function, self._items, self._star = session, function, items, star
        self._options, self._arrived, self._plan, self._limit = options, arrived, plan, limit
        self._lock = threading.Lock()
        self._feeding = False  # whether some thread submits right now; it finds what the others have made room for
        self._sequences: dict[int, list[int]] = {}  # of the chunks that have not ended, by their first index
        self._missing: dict[int, int] = {}  # of each, how many of its items have no outcome
        self._cancelled: bool | None = None  # None: not; True: those that run, too
        self._timer: threading.Timer | None = None

    def start(self) -> None:
        """Submit the first items; returns when as many are under way as there should be.

        Raises: the error that ended the session, ForkedClient: nothing was submitted.
        """
        self._submit_some(first=True)
        with self._lock:
            if self._plan.left and not self._plan.short:
                self._start_timer()

    def cancel(self, running: bool) -> bool:
        """Submit no more, and cancel what was submitted; whether anything was cancelled. What is, ends so."""
        with self._lock:
            self._cancelled = running or bool(self._cancelled)
            rest = self._plan.stop()
            sequences = [sequence for some in self._sequences.values() for sequence in some]
        if rest:
            self._arrived(rest.start, Outcomes.failed(CancelledError(), len(rest)))
        return bool(self._session.cancel(sequences, running)) or bool(rest)

    def explain(self) -> Explanation:
        """Of the first chunk that has not ended."""
        with self._lock:
            sequences = [sequence for some in self._sequences.values() for sequence in some]
        return self._session.explain(sequences)

    def _submit_some(self, first: bool = False) -> None:
        """Submit chunks until enough are under way.

        The thread that begins a map does not do the work of the whole: it leaves as soon as another will be called for
        something that it has submitted.
        """
        submitted = 0
        while True:
            with self._lock:
                slots = slots_of(self._session, self._limit)
                enough = first and self._plan.chunksize is None and submitted >= 2 * slots
                if self._feeding or (enough and self._plan.outstanding):
                    return
                chunk = self._plan.take(slots, self._size_of)
                if chunk is None:
                    return
                self._feeding = True
                self._missing[chunk.start] = len(chunk)
            submitted += 1
            try:
                self._submit(chunk)
            except Exception as error:
                if first and submitted == 1:
                    raise
                self._fail(chunk, error)
            finally:
                with self._lock:
                    self._feeding = False

    def _submit(self, chunk: range) -> None:
        items = list(self._items[chunk.start : chunk.stop])
        part = partial(self._part, chunk)
        sequences = self._session.submit_chunk(self._function, items, self._star, part, self._options)
        with self._lock:
            if chunk.start in self._missing:
                self._sequences[chunk.start] = sequences
        if self._cancelled is not None:  # while it was submitted
            self._session.cancel(sequences, self._cancelled)

    def _fail(self, chunk: range, error: Exception) -> None:
        """The session cannot take any more: so end this chunk and what is left."""
        with self._lock:
            rest = self._plan.stop()
            missing = self._missing.get(chunk.start, 0)
        self._part(chunk, len(chunk) - missing, Outcomes.failed(error, missing), 0.0, 0)
        if rest:
            self._arrived(rest.start, Outcomes.failed(error, len(rest)))

    def _part(self, chunk: range, index: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
        """Some of a chunk's items have ended."""
        with self._lock:
            if chunk.start not in self._missing:
                return  # the session ended in the middle of it, and all that was missing was said to have failed
            self._plan.part(len(outcomes), seconds, size_bytes)
            self._missing[chunk.start] -= len(outcomes)
            if not self._missing[chunk.start]:
                del self._missing[chunk.start]
                self._sequences.pop(chunk.start, None)
                self._plan.ended()
            if self._plan.short and self._timer is not None:
                self._timer.cancel()
                self._timer = None
        self._submit_some()  # before the results are looked at: the workers shall not wait for that
        self._arrived(chunk.start + index, outcomes)

    def _start_timer(self) -> None:
        """Under the lock."""
        self._timer = threading.Timer(_PATIENCE_SECONDS, self._lose_patience)
        self._timer.daemon = True
        self._timer.start()

    def _lose_patience(self) -> None:
        with self._lock:
            if self._timer is None:
                return  # the items turned out to be short just now
            self._timer = None
            if self._plan.widen():
                self._start_timer()
        self._submit_some()

    def _size_of(self, index: int) -> int:
        return size_of(self._items[index])


class Stream:
    """The input of an ``imap``, read in a thread of its own and submitted in chunks of one size.

    Args:
        read: called when all of it was read, or no more is to be.
    """

    def __init__(
        self,
        session: Session,
        function: Prepared,
        iterable: Iterable[Any],
        options: Options,
        chunksize: int,
        limit: int | None,
        window: Window,
        read: Callable[[], object],
    ) -> None:
        self._session, self._function, self._iterable = session, function, iterable
        self._options, self._chunksize, self._limit = options, chunksize, limit
        self._window, self._when_read = window, read
        self._chunks = 0

    def start(self) -> None:
        """Begin to read, and return."""
        threading.Thread(target=self._read, name="multihost-imap", daemon=True).start()

    def _read(self) -> None:
        """Submit the input up to its end, or to its own exception, which takes the place of the item that it had."""
        try:
            iterator = iter(self._iterable)
            more = True
            while more and self._window.wait_for_room(slots_of(self._session, self._limit), self._chunksize):
                items: list[Any] = []
                try:
                    items.extend(islice(iterator, self._chunksize))  # keeps what came before an exception
                    more = len(items) == self._chunksize
                finally:
                    if items:
                        self._submit(items)
        except BaseException as error:
            self._window.arrived(self._window.submits(1, None), Outcomes.failed(error, 1), 0)
        finally:
            self._window.ended()
            self._when_read()

    def _submit(self, items: list[Any]) -> None:
        sampled = self._chunks % _SAMPLED == 0
        self._chunks += 1
        first = self._window.submits(len(items), size_of(items[0]) if sampled else None)
        try:
            if each_alone(self._options):
                for index, item in enumerate(items, first):
                    single = partial(self._single, index)
                    self._session.submit(self._function, (item,), {}, single, self._options, patient=True)
            else:
                self._session.submit_chunk(self._function, items, False, partial(self._part, first), self._options)
        except Exception as error:  # the session has ended
            self._window.arrived(first, Outcomes.failed(error, len(items)), 0)
            self._window.stop()

    def _part(self, first: int, index: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
        self._window.arrived(first + index, outcomes, size_bytes)

    def _single(self, index: int, succeeded: bool, value: object) -> None:
        self._window.arrived(index, outcome(succeeded, value), 0)


def each_alone(options: Options) -> bool:
    """Whether items are to be no chunks: a retry, a time limit or an expiry is for one call."""
    return bool(options.retries) or options.timeout is not None or options.expires is not None


def slots_of(session: Session, limit: int | None) -> int:
    """How many calls of a session can run at once, as far as is known now."""
    return min(session.slots, limit or session.slots)


def outcome(succeeded: bool, value: Any) -> Outcomes:
    """That of a single item."""
    return Outcomes([value]) if succeeded else Outcomes.failed(value, 1)


def size_of(item: object) -> int:
    """About how many bytes an item has on the wire; 0: that cannot be told."""
    try:
        return len(pickle.dumps(item, protocol=5))
    except Exception:  # what cannot be pickled is the outcome of its own call
        return 0
