"""One session with the master: submits tasks, receives outcomes, reconnects.

Threads: any number may submit; one thread of the session's own receives, and sends what gathered meanwhile. One lock
guards the state; nothing is sent and no callback is called under it.
"""

import atexit
import contextlib
import logging
import math
import os
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from functools import partial
from itertools import count
from multiprocessing import AuthenticationError
from typing import Any

from multihost import forked
from multihost.client.chunk import Chunk, PartCallback, wire_options
from multihost.client.code import CodeBook, Initializer
from multihost.client.core import ClientCore
from multihost.client.delivery import Callback, deliver_outcome, fail
from multihost.client.figures import Figures
from multihost.client.notices import Notices
from multihost.client.packing import Packer, Prepared
from multihost.client.values import large_values, values_of_all
from multihost.enclosing import Door, Link
from multihost.errors import ClientClosed, ClusterFull, ForkedClient, MultihostError, ProtocolError
from multihost.explain import Explanation
from multihost.options import PLAIN, Options
from multihost.payload import Large, Places, is_large, without
from multihost.settings import Address
from multihost.statistics import Statistics
from multihost.wire.connection import GivenUp, Patience, attach
from multihost.wire.messages import CANCELLED, PART, Message

logger = logging.getLogger(__name__)

_PING_SECONDS = 5.0
# A master that is silent for so long, although it was pinged, is taken for lost.
_SILENCE_SECONDS = 20.0
# How many tasks may wait on this side for the master to accept them, before submit blocks.
_MAX_UNSENT = 20_000
_CLOSE_SECONDS = 2.0
_CANCEL_SECONDS = 10.0


class Session:
    """Connects at construction, and tries for ``connect_timeout`` seconds.

    Args:
        limit: how many of its tasks run at once; None: as many as there are slots.
        lifetime: how many tasks a process runs before it is replaced; None: any number.
        door: for a session that a task opens, the way through its worker, which needs neither address nor key.
        job: the name of the detached job that its tasks are; nothing comes back of them here.
        show: called with the function's name, the task's number, the worker's name and what the task printed.
    Raises: AuthenticationError: wrong key, at once; MasterUnreachable; ProtocolError: the master refused.
    """

    def __init__(
        self,
        address: Address | None,
        authkey: bytes,
        connect_timeout: float,
        limit: int | None = None,
        initializer: Initializer | None = None,
        lifetime: int | None = None,
        door: Door | None = None,
        show: Callable[[str, int, str, str], None] | None = None,
        job: str = "",
    ) -> None:
        self.address = "the worker of this task" if address is None else address
        self.authkey = authkey
        self.connect_timeout = connect_timeout
        self._door = door
        self._notices = Notices(self.address, show)
        self._process, self._forks = os.getpid(), forked.times
        self._info = _introduction(limit, lifetime, door, job)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._core = ClientCore() if door is None else ClientCore(frozenset(door.needs))
        self._callbacks: dict[int, Callback | Chunk] = {}
        self._asking: Counter[int] = Counter()  # how many threads wait to hear whether a task is cancelled
        self._verdicts: dict[int, bool] = {}  # what the master said
        self._sending = False  # whether some thread is sending right now; it also sends what comes meanwhile
        self._error: BaseException | None = None  # why the session ended
        self._questions = count()
        self._explained: dict[int, dict[str, Any]] = {}  # the master's answers
        self._figures = Figures(str(self._info["session"]))
        self._full: ClusterFull | None = None  # what the master said last when it was full
        self._ended = threading.Event()
        self._connection: Link | None = None
        self._attached = 0.0  # when it began, in monotonic seconds
        self._patience = Patience()
        self._workers = 0
        self.slots = 0  # of all workers, as the master said last
        connection, answer = self._connect()
        max_payload = int(str(answer["max_payload"]))
        try:
            inherited = None if door is None else door.archives if initializer is not None else door.needs
            self._packer = Packer(CodeBook(max_payload, initializer, inherited), max_payload)
        except BaseException:
            connection.close()
            raise
        self._attach(connection, answer)
        self._receiver = threading.Thread(target=self._receive_forever, name="multihost-session", daemon=True)
        self._receiver.start()
        atexit.register(self.close)  # a program that ends without closing its pool cancels what is left

    # --- what a pool calls -------------------------------------------------------------------------------------

    def prepare(self, function: Callable[..., object], options: Options = PLAIN) -> Prepared:
        """Find out how ``function`` travels, as it is now. What is wrong with it is the outcome of its calls."""
        return self._packer.prepare(function, options)

    def submit(
        self,
        function: Prepared,
        args: tuple[object, ...],
        kwds: dict[str, object],
        callback: Callback,
        options: Options = PLAIN,
        patient: bool = False,
    ) -> int:
        """Queue a call; its sequence number. ``callback`` gets its outcome.

        While the master is full, the call waits here if it is ``patient``, and otherwise fails with ``ClusterFull``.
        What fails so, or cannot be sent, fails through the callback, too, and may have no number (-1). Blocks while
        this side holds too many tasks that the master has not accepted.
        Raises: the error that ended the session; ForkedClient.
        """
        if forked.times != self._forks:
            raise ForkedClient(self._process, os.getpid())
        values: tuple[bytes, ...] = ()
        binding = None
        try:
            large = _any_large(args, kwds)
            if large and function.error is None and (places := large_values(args, kwds)):
                values = tuple(places.values())
                if (bound := self._bound(function, places)) is not None:
                    binding, function = bound
                    args, kwds = without(binding[1], args, kwds)
                    large = _any_large(args, kwds)
            payload = self._packer.pack(function, (args, kwds), large)
        except (Exception, SystemExit) as unsendable:
            fail(callback, _not_sent(unsendable, function.name))
            return -1
        since = _made_at(options) if options.timed else 0.0
        return self._add(function, options.wire, payload, callback, since, patient, values, binding)

    def _bound(self, function: Prepared, values: Places) -> tuple[tuple[str, Places], Prepared] | None:
        """Those of a call's large values that are shared, with the function's id, and the function bound to them."""
        function_id = function.blobs[-1].blob_id
        with self._lock:
            shared = self._core.shared(function_id, values)
            blobs = self._core.bound(function_id, shared) if shared else None
        if not shared:
            return None
        # What is bound anew is hashed, so not under the lock.
        bound = function._replace(blobs=blobs) if blobs is not None else self._packer.bind(function, shared)
        return None if bound is None else ((function_id, shared), bound)

    def submit_chunk(
        self,
        function: Prepared,
        items: list[Any],
        star: bool,
        callback: PartCallback,
        options: Options = PLAIN,
    ) -> list[int]:
        """Queue the calls ``function(item)`` of all items (with ``star``: ``function(*item)``), one after another.

        They travel as one task, and its number is what is returned. Items that cannot be sent fail through the
        callback; the others then travel one by one, which is why there may be several numbers.
        Raises, and blocks, as ``submit`` does.
        """
        if forked.times != self._forks:
            raise ForkedClient(self._process, os.getpid())
        values = values_of_all(items) if star and function.error is None else Places()
        binding, whole = None, function
        try:
            if values and (bound := self._bound(function, values)) is not None:
                binding, function = bound
                payload = self._packer.pack(function, [without(binding[1], item, {})[0] for item in items], False)
            else:
                payload = self._packer.pack(function, items, is_large(items[0]))
        except (Exception, SystemExit) as unsendable:
            if len(items) == 1 or function.error is not None:
                Chunk(len(items), callback).fail(_not_sent(unsendable, function.name))
                return []
            halves = (0, items[: len(items) // 2]), (len(items) // 2, items[len(items) // 2 :])
            return [
                sequence
                for start, some in halves
                for sequence in self.submit_chunk(whole, some, star, _shifted(callback, start), options)
            ]
        since = _made_at(options) if options.timed else 0.0
        plain = wire_options(options, star, len(items))
        with self._lock:
            self._figures.chunk_submitted(len(items))
        chunk = Chunk(len(items), callback)
        return [self._add(function, plain, payload, chunk, since, True, tuple(values.values()), binding)]

    def _add(
        self,
        function: Prepared,
        options: dict[str, object],
        payload: bytes | Large,
        callback: Callback | Chunk,
        since: float,
        patient: bool,
        values: tuple[bytes, ...] = (),
        binding: tuple[str, Places] | None = None,
    ) -> int:
        with self._lock:
            if self._core.unsent >= _MAX_UNSENT:
                self._wait_for_room(patient)
            if self._error is not None:
                raise self._error
            full = self._full if self._core.full and not patient else None
            if full is None:
                now = time.monotonic()
                sequence = self._core.add(function.blobs, options, payload, since, patient, now, values, binding)
                self._notices.names.setdefault(function.blobs[-1].blob_id, function.name)
                self._callbacks[sequence] = callback
                alone = self._workers == 0 and len(self._callbacks) == 1
                parcel = self._next_parcel(now)
        if full is not None:
            fail(callback, full)
            return -1
        if alone:
            self._notices.no_worker()
        if parcel is not None:
            self._send(*parcel)
        return sequence

    def hold(self, rows: list[Any]) -> Callable[[], None] | None:
        """The arguments of many calls: what all of them share is sent once, until what this returns is called.

        Without it, a value would be let go of, and sent again, whenever no call that has it is under way.
        """
        values = tuple(values_of_all(rows).values()) if len(rows) > 1 else ()
        if not values:
            return None
        with self._lock:
            self._core.hold(values)
        return partial(self._let_go, values)

    def _let_go(self, values: tuple[bytes, ...]) -> None:
        with self._lock:
            self._core.let_go(values)
        self._send_waiting()

    def cancel(self, sequences: Iterable[int], running: bool = False) -> set[int]:
        """Cancel those of these tasks that have not started, and with ``running`` even those that have; their numbers.

        Their callbacks get a ``CancelledError``.

        Waits for the master's word, 10 s at most; in a callback it does not wait, and what the master then cancels is
        not among the numbers. Without ``running``, a task that a worker has already goes on.
        """
        if forked.times != self._forks:
            return set()
        with self._changed:
            asked = {sequence for sequence in sequences if sequence in self._callbacks}
            withdrawn = set(self._core.withdraw(asked))
            callbacks = [self._callbacks.pop(sequence) for sequence in sorted(withdrawn)]
            self._figures.dropped(callbacks)
            rest = asked - withdrawn
            self._core.cancel(rest, running)
            self._asking.update(rest)
            self._changed.notify_all()
        for callback in callbacks:
            fail(callback, CancelledError())
        self._send_waiting()
        with self._changed:
            if threading.current_thread() is not self._receiver:
                self._changed.wait_for(lambda: self._error or rest <= self._verdicts.keys(), _CANCEL_SECONDS)
            cancelled = {sequence for sequence in rest if self._verdicts.get(sequence)}
            self._asking.subtract(rest)
            for sequence in [sequence for sequence in rest if not self._asking[sequence]]:
                del self._asking[sequence]
                self._verdicts.pop(sequence, None)
        return withdrawn | cancelled

    def explain(self, sequences: Iterable[int]) -> Explanation:
        """Where the first of these tasks is that has not ended, and why; waits for the master's word, 10 s at most."""
        question = next(self._questions)
        with self._lock:
            left = [sequence for sequence in sequences if sequence in self._callbacks]
            if not left:
                return Explanation("here", "unsent") if self._error is None else Explanation("ended", "error")
            sequence = min(left)
            unsent, name = self._core.is_unsent(sequence), str(self._info["session"])
            here = partial(Explanation, "here", task=sequence, session=name)
            if self._connection is None:
                return here("unreachable")
            if unsent:
                return here("full" if self._core.full else "unsent")
            if threading.current_thread() is self._receiver:
                return Explanation("unknown", "callback", sequence, name)
            self._core.ask(question, sequence)
        self._send_waiting()
        with self._changed:
            self._changed.wait_for(lambda: self._error or question in self._explained, _CANCEL_SECONDS)
            self._core.answered(question)
            plain = self._explained.pop(question, None)
        return Explanation("unknown", "silent", sequence, name) if plain is None else Explanation.of(plain)

    def statistics(self) -> Statistics:
        """Where the time goes; waits for the master's word, 10 s at most, and in a callback not at all."""
        question = next(self._questions)
        with self._lock:
            asks = self._connection is not None and threading.current_thread() is not self._receiver
            asks = asks and forked.times == self._forks
            if asks:
                self._core.ask_figures(question)
        if asks:
            self._send_waiting()
        with self._changed:
            if asks:
                self._changed.wait_for(lambda: self._error or question in self._explained, _CANCEL_SECONDS)
                self._core.answered(question)
            told = self._explained.pop(question, None)
            return self._figures.told(self._connection, len(self._callbacks), self._core.unsent, told)

    def seal(self, items: int, chunksize: int) -> None:
        """All tasks of a detached job were submitted; wait until the master has them. It then does without us.

        Raises: the error that ended the session.
        """
        with self._lock:
            self._core.seal(items, chunksize)
        self._send_waiting()
        with self._changed:
            self._changed.wait_for(lambda: self._error or self._core.sealed)
            if not self._core.sealed:
                assert self._error is not None
                raise self._error

    def _wait_for_room(self, patient: bool) -> None:
        """Wait until fewer tasks are unsent; under the lock.

        A callback that submits runs in the receiving thread: it must not wait for what only it can bring about.
        """
        while self._core.unsent >= _MAX_UNSENT and threading.current_thread() is not self._receiver:
            if self._error is not None or (self._core.full and not patient):
                return
            self._changed.wait()

    def close(self) -> None:
        """End the session: what has no outcome yet is cancelled at the master and fails here with ``ClientClosed``."""
        if forked.times != self._forks:
            return  # a process forked from ours ends; the session goes on
        atexit.unregister(self.close)
        with self._lock:
            connection, self._connection = self._connection, None
        # The goodbye comes first: a callback may close once more, and wait for the receiving thread, which that ends.
        self._end(ClientClosed(), connection)
        if threading.current_thread() is not self._receiver:
            self._receiver.join(_CLOSE_SECONDS)
        if connection is not None:
            connection.close()

    # --- sending -----------------------------------------------------------------------------------------------

    def _send_waiting(self) -> None:
        """Send batches while there are any; if another thread is at it, it will find ours too."""
        with self._lock:
            parcel = self._next_parcel(time.monotonic())
        if parcel is not None:
            self._send(*parcel)

    def _next_parcel(self, now: float) -> tuple[Link, list[Message]] | None:
        """What to send now, and over what; under the lock. Who gets it must ``_send`` it, as nobody else will now."""
        if self._sending or self._connection is None or not (batch := self._core.next_batch(now)):
            return None
        self._sending = True
        return self._connection, batch

    def _send(self, connection: Link, batch: list[Message]) -> None:
        """Send a batch, and those that gather meanwhile."""
        parcel: tuple[Link, list[Message]] | None = (connection, batch)
        while parcel is not None:
            connection, batch = parcel
            broken = True
            self._figures.meter.sent(batch)
            try:
                connection.send_batch(batch)
                broken = False
                if self._core.starting:
                    # A master woken on this CPU would wait there for up to 4 ms, a tick, while another CPU idles.
                    os.sched_yield()
            except OSError:
                connection.interrupt()  # the receiving thread notices, reconnects, and sends again
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()
                    parcel = None if broken else self._next_parcel(time.monotonic())

    # --- receiving ---------------------------------------------------------------------------------------------

    def _receive_forever(self) -> None:
        while not self._ended.is_set():
            try:
                self._receive(self._connection)
            except BaseException as error:
                if self._ended.is_set():
                    return  # the connection was closed from this side
                if isinstance(error, OSError):
                    self._reconnect(error)
                    continue
                # A defect of ours: better an error in every call than a silent hang.
                logger.exception("the session with %s ended by an internal error", self.address)
                self._end(error)

    def _receive(self, connection: Link | None) -> None:
        """Handle what comes on one connection, until it breaks."""
        if connection is None:
            return  # closed from this side
        while self._error is None:
            batches = connection.receive(_PING_SECONDS)
            for batch in batches:
                self._handle(batch)
            self._send_waiting()
            silence = connection.silence()
            if silence > _SILENCE_SECONDS:
                raise ConnectionError(f"the master was silent for {silence:.0f} s")
            if not batches:
                with self._lock:
                    acknowledgement = self._core.acknowledgement()
                connection.send_batch([*acknowledgement, ("ping",)])

    def _handle(self, batch: object) -> None:
        if not isinstance(batch, list):
            raise ProtocolError("the master sent something that is no batch of messages")
        self._figures.meter.received(batch)
        for message in batch:
            match message:
                case ("accepted", below):
                    with self._changed:
                        self._core.accepted(below)
                        self._changed.notify_all()
                case ("sealed",):
                    with self._changed:
                        self._core.seal_answered()
                        self._changed.notify_all()
                case ("full", below, what, limit, setting):
                    self._refused(below, ClusterFull(what, limit, setting))
                case ("room",):
                    with self._lock:
                        self._core.room()
                case ("explained" | "figures", question, plain):
                    with self._changed:
                        self._explained[question] = plain
                        self._changed.notify_all()
                case ("outcomes", outcomes):
                    self._take(outcomes)
                case ("released", blob_ids):
                    with self._lock:
                        self._core.released(blob_ids)
                case ("too_late", sequences):
                    self._note_cancelled(sequences, False)
                case ("refused", reason):
                    self._end(ProtocolError(f"the master at {self.address} refused what this program sent: {reason}"))
                case ("workers", count, slots):
                    with self._lock:
                        before, self._workers, self.slots = self._workers, count, slots
                        waiting = len(self._callbacks)
                    self._notices.workers_changed(before, count, waiting)
                case ("output", sequence, worker, text):
                    with self._lock:
                        task = self._core.pending.get(sequence)
                    self._notices.printed(None if task is None else task.function_id, sequence, worker, text)
                case ("lacking", labels):
                    self._notices.lacking(labels, self._workers)
                case _:
                    pass  # a pong

    def _refused(self, below: int, error: ClusterFull) -> None:
        """The master is full: what cannot wait fails."""
        with self._changed:
            self._full = error
            callbacks = [self._callbacks.pop(sequence) for sequence in self._core.refused(below)]
            self._figures.dropped(callbacks)
            self._changed.notify_all()
        for callback in callbacks:
            fail(callback, error)

    def _take(self, outcomes: list[tuple[int, str, bytes, str]]) -> None:
        fresh: list[tuple[Callback | Chunk, str, bytes, str]] = []
        called_at: list[float] = []
        more = 0  # calls in chunks
        with self._lock:
            for sequence, kind, content, whence in outcomes:
                ended = kind != PART
                take = self._core.finished if ended else self._core.took_part
                task = take(sequence, len(content))
                callback = self._callbacks.pop(sequence, None) if ended else self._callbacks.get(sequence)
                if task is not None and callback is not None:
                    if ended:
                        called_at.append(task.called_at)
                        if (whence or kind != "result") and type(callback) is Chunk:
                            more += len(callback) - 1
                    note = whence and self._notices.whence(sequence, task.function_id, whence)
                    fresh.append((callback, kind, content, note))
            if called_at:
                self._figures.ended(called_at, time.monotonic(), more)
        for callback, kind, content, note in fresh:
            deliver_outcome(callback, kind, content, note)
        if cancelled := [sequence for sequence, kind, _, _ in outcomes if kind == CANCELLED]:
            self._note_cancelled(cancelled, True)

    def _note_cancelled(self, sequences: list[int], cancelled: bool) -> None:
        with self._changed:
            self._core.cancel_answered(sequences)
            self._verdicts |= {sequence: cancelled for sequence in sequences if sequence in self._asking}
            self._changed.notify_all()

    # --- connections -------------------------------------------------------------------------------------------

    def _connect(self) -> tuple[Link, dict[str, object]]:
        if self._door is not None:
            return self._door.open(self._info)
        assert isinstance(self.address, Address)
        return attach(self.address, self.authkey, "client", self._info, self.connect_timeout, self._ended)

    def _attach(self, connection: Link, answer: dict[str, object]) -> None:
        with self._changed:
            ended = self._error is not None
            if not ended:
                self._connection, self._attached = connection, time.monotonic()
            self._core.reconnected(bool(answer["known"]), int(str(answer["accepted"])))
            if answer.get("sealed"):
                self._core.seal_answered()  # and the answer was lost
            self._workers, self.slots = int(str(answer["workers"])), int(str(answer["slots"]))
        if ended:
            _say_goodbye(connection)
            connection.close()
        else:
            self._send_waiting()

    def _reconnect(self, error: BaseException) -> None:
        self._ended.wait(self._patience.after(lasted=time.monotonic() - self._attached))
        with self._changed:
            connection, self._connection = self._connection, None
            waiting = len(self._callbacks)
            if connection is not None:
                connection.interrupt()  # a thread that still sends on it gives up now
                self._changed.wait_for(lambda: not self._sending)
        if connection is not None:
            connection.close()
            self._figures.meter.ended(connection)
        logger.warning("lost the master at %s (%s); reconnecting, %d tasks wait", self.address, error, waiting)
        try:
            new, answer = self._connect()
        except GivenUp:
            return
        except (AuthenticationError, MultihostError) as final:
            self._end(final)
            return
        self._attach(new, answer)

    def _end(self, error: BaseException, connection: Link | None = None) -> None:
        """Say goodbye over ``connection``, if there is one, and fail what is left, once."""
        with self._changed:
            if self._error is None:
                self._error = error
            callbacks, self._callbacks = list(self._callbacks.values()), {}
            self._figures.dropped(callbacks)
            self._ended.set()
            self._changed.notify_all()
        try:
            if connection is not None:
                _say_goodbye(connection)
        finally:
            for callback in callbacks:
                fail(callback, error)


def _introduction(limit: int | None, lifetime: int | None, door: Door | None, job: str) -> dict[str, object]:
    """What a new session tells the master of itself, each time that it connects."""
    name = f"{os.path.basename(sys.argv[0]) or 'python'} (process {os.getpid()})"
    info: dict[str, object] = {
        "session": secrets.token_hex(16),
        "limit": limit,
        "lifetime": lifetime,
        "name": name,
    }
    if job:
        info["job"] = job
    if door is not None:
        info["depth"] = door.depth + 1
    return info


def _say_goodbye(connection: Link) -> None:
    """Tell the master that the session has ended, and end the connection; ``close`` is still to come."""
    with contextlib.suppress(OSError):  # the master ends the session by itself when its time to live is over
        connection.send_batch([("close",)])
    connection.interrupt()


def _any_large(args: tuple[object, ...], kwds: dict[str, object]) -> bool:
    for value in args:
        if type(value) is bytes and is_large(value):  # the type first: for most, that spares a call
            return True
    return bool(kwds) and any(map(is_large, kwds.values()))


def _made_at(options: Options) -> float:
    """When a call with these options was made."""
    # Calls of the same hundredth travel together. Upwards, for nothing shall run before its delay is over.
    return math.ceil((options.since or time.monotonic()) * 100) / 100


def _not_sent(error: BaseException, name: str) -> BaseException:
    error.add_note(f"multihost could not send a call of {name} to the master; it did not run")
    return error


def _shifted(callback: PartCallback, by: int) -> PartCallback:
    return lambda start, outcomes, seconds, size_bytes: callback(start + by, outcomes, seconds, size_bytes)
