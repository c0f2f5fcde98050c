"""Detached jobs: a map that outlives the program that submitted it, and whoever collects its results.

A job is a session of its own in the master, with a name. It is whole once the master has all of its tasks; from then on
it does without any program, until somebody attaches to it.
"""

import collections
import multiprocessing
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from multihost.client.chunk import Chunk
from multihost.client.delivery import opened
from multihost.client.feed import each_alone
from multihost.client.session import Session
from multihost.errors import JobUnknown, ProtocolError, SettingsError
from multihost.joining import parsed
from multihost.options import Options
from multihost.payload import Outcomes
from multihost.settings import Address, read_authkey, read_settings
from multihost.wire.connection import Connection, Patience
from multihost.wire.connection import attach as attach_link
from multihost.wire.messages import PART, Message

T = TypeVar("T")

_PING_SECONDS, _SILENCE_SECONDS = 5.0, 20.0
# Of a job whose user chose no chunksize. Nothing is measured here: all is submitted before anything comes back.
_MOST_ITEMS, _CHUNKS_EACH_SLOT = 64, 16
_MAX_NAME = 200


def attach(
    name: str,
    *,
    address: str | tuple[str, int] | None = None,
    authkey: bytes | str | None = None,
    timeout: float | None = None,
) -> "Job[Any]":
    """The detached job of that name, to collect its results.

    Args:
        address, authkey: as ``Pool`` has them; there must be a master, as a cluster of one's own has no old jobs.
        timeout: how many seconds to try to reach the master; None: ``MULTIHOST_CONNECT_TIMEOUT``.
    Raises:
        JobUnknown: there is none of that name; JobIncomplete: its program has not submitted all of it.
        JobBusy: somebody else is attached.
        SettingsError, MasterUnreachable, multiprocessing.AuthenticationError: as ``Pool`` raises them.
    """
    check_name(name)
    settings = read_settings(os.environ)
    where = settings.address if address is None else parsed(address)
    if where is None:
        raise SettingsError("attach needs the master's address: give address, or set MULTIHOST_ADDRESS")
    key = authkey.encode() if isinstance(authkey, str) else authkey
    patience = settings.connect_timeout if timeout is None else timeout
    job: Job[Any] = Job(name, where, read_authkey(os.environ) if key is None else key, patience)
    job._connected()
    return job


def check_name(name: object) -> None:
    """Raises: TypeError, ValueError: it is none for a detached job."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a detached job must be a str, not {name!r}")
    if not 0 < len(name) <= _MAX_NAME:
        raise ValueError(f"the name of a detached job has from 1 to {_MAX_NAME} characters, not {len(name)}")
    if not name.isprintable():
        raise ValueError(f"the name of a detached job can be printed on one line, not {name!r}")


def submit(
    session: Session,
    function: Callable[..., object],
    items: Sequence[Any],
    star: bool,
    options: Options,
    chunksize: int | None,
    slots: int,
) -> None:
    """Submit all of a job over a session of its own, and wait until the master has it.

    Raises: the first item's error that cannot be sent; what ended the session. The job is then dropped.
    """
    if each_alone(options):
        size = 1
    else:
        size = chunksize or max(1, min(_MOST_ITEMS, len(items) // (_CHUNKS_EACH_SLOT * max(1, slots))))
    failed: list[BaseException] = []
    prepared = session.prepare(function, options)

    def note_parts(start: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
        failed.extend(outcomes.errors.values())

    def note(succeeded: bool, value: object) -> None:
        if isinstance(value, BaseException):
            failed.append(value)

    for first in range(0, len(items), size):
        some = list(items[first : first + size])
        if each_alone(options):
            session.submit(prepared, tuple(some[0]) if star else (some[0],), {}, note, options, patient=True)
        else:
            session.submit_chunk(prepared, some, star, note_parts, options)
        if failed:
            raise failed[0]
    session.seal(len(items), size)


class Job(Iterator[T], Generic[T]):
    """A detached job, whose results come one by one, in the order of its items. Not for several threads at a time.

    What was handed out is acknowledged when the next one is asked for, or when the job is closed: the master then has
    it no more, and nobody gets it again. Whoever dies over an item leaves it to the one that attaches next. When all is
    acknowledged the job is over.
    """

    def __init__(self, name: str, address: Address, authkey: bytes, patience: float) -> None:
        self.name = name
        self._address, self._authkey, self._patience = address, authkey, patience
        self._collector = secrets.token_hex(16)
        self._link: Connection | None = None
        self._linked = 0.0  # when that began, in monotonic seconds
        self._pause = Patience()
        self._closed = False
        self._session = ""  # the job's id at the master: another one may have the same name later
        self._items = self._chunksize = 0
        self._acknowledged = 0  # how many items, as the master has said
        self._given = 0  # how many were handed out, by anybody
        self._waiting: collections.deque[tuple[bool, Any]] = collections.deque()  # the results behind those
        self._sequence = 0  # the task whose outcome comes next
        self._chunk: Chunk | None = None  # what has come of it
        self._ended = 0  # how many items have their outcome, as the master said last
        self._answered = False
        self._got: tuple[list[T], BaseException | None] | None = None

    # --- what it tells -----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many items the job has, with those that were acknowledged."""
        self._open()
        return self._items

    def ended(self) -> int:
        """How many of its items have a result or have failed, as far as the master knows; those of a chunk at once."""
        if not self._over:
            self._answered = False
            self._ask(("count",), lambda: self._answered, None)
        return self._ended

    def ready(self) -> bool:
        """Whether all of its items have ended."""
        return self.ended() == self._items

    def __repr__(self) -> str:
        return f"<multihost.Job {self.name!r} at {self._address}>"

    # --- results -----------------------------------------------------------------------------------------------

    def __iter__(self) -> "Job[T]":
        return self

    def next(self, timeout: float | None = None) -> T:
        """The next item's result; acknowledges the one before it, and waits.

        Raises: StopIteration after the last; multiprocessing.TimeoutError after ``timeout`` seconds; a call's own
            exception, after which the next results can still be had.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        self._open()
        self._acknowledge(deadline)
        if self._over:
            raise StopIteration
        succeeded, value = self._take(deadline)
        if succeeded:
            return value  # type: ignore[no-any-return]
        raise value

    def __next__(self) -> T:
        return self.next()

    def get(self, timeout: float | None = None) -> list[T]:
        """All results that were not handed out before, as a list. They are acknowledged when the job is closed.

        Raises: multiprocessing.TimeoutError after ``timeout`` seconds; the exception of the first call that raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        if self._got is None:
            self._open()
            first, outcomes = self._given, list[tuple[bool, Any]]()
            try:
                while self._given < self._items:
                    outcomes.append(self._take(deadline))
            except BaseException:  # nobody has them: they are handed out again
                self._given = first
                self._waiting.extendleft(reversed(outcomes))
                raise
            errors = [value for succeeded, value in outcomes if not succeeded]
            self._got = [value for _, value in outcomes], errors[0] if errors else None
        results, error = self._got
        if error is not None:
            raise error
        return results

    # --- ends --------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Acknowledge what was handed out, and leave the rest at the master for whoever attaches next."""
        try:
            if not self._closed and self._session:
                self._acknowledge(None)
        finally:
            self._closed = True
            self._disconnect()

    def drop(self) -> None:
        """End the job: what has not run is cancelled, and what waits is thrown away."""
        if not self._over:
            self._answered = False
            try:
                self._ask(("drop",), lambda: self._answered, None)
            except JobUnknown:
                if not self._session:
                    raise  # otherwise it was dropped, and only the answer was lost
        self._closed = True
        self._disconnect()

    def __enter__(self) -> "Job[T]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:  # what was handed out last was perhaps not used
            self._closed = True
            self._disconnect()

    # --- inside ------------------------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return 0 < self._items == self._acknowledged

    def _take(self, deadline: float | None) -> tuple[bool, Any]:
        if not self._waiting:
            self._ask(("collect", self._sequence), lambda: bool(self._waiting), deadline)
        self._given += 1
        return self._waiting.popleft()

    def _acknowledge(self, deadline: float | None) -> None:
        given = self._given
        try:
            self._ask(("taken", given), lambda: self._acknowledged >= given, deadline)
        except JobUnknown:
            if given < self._items:
                raise
            self._acknowledged = given  # it is over, and only the answer was lost
        if self._over:
            self._ended = self._items
            self._disconnect()

    def _ask(self, message: Message, answered: Callable[[], bool], deadline: float | None) -> None:
        """Say something to the master until it has answered, over as many connections as that takes."""
        said_over: Connection | None = None
        while not answered():
            link = self._connected()
            try:
                if link is not said_over:
                    link.send_batch([message])
                    said_over, begun = link, time.monotonic()
                self._receive(link, begun, deadline)
            except ProtocolError:
                self._disconnect()
                raise
            except OSError:
                self._disconnect()
                time.sleep(self._pause.after(lasted=time.monotonic() - self._linked))
            if deadline is not None and time.monotonic() > deadline and not answered():
                raise multiprocessing.TimeoutError

    def _receive(self, link: Connection, begun: float, deadline: float | None) -> None:
        left = _PING_SECONDS if deadline is None else min(_PING_SECONDS, max(0.0, deadline - time.monotonic()))
        batches = link.receive(left)
        for batch in batches:
            for message in batch if isinstance(batch, list) else ():
                self._handle(message)
        if not batches:
            # Nothing was asked, and so nothing heard, while the user was at work.
            if min(link.silence(), time.monotonic() - begun) > _SILENCE_SECONDS:
                raise ConnectionError("the master is silent")
            link.send_batch([("ping",)])

    def _handle(self, message: Message) -> None:
        match message:
            case ("outcomes", list(rows)):
                for row in rows:
                    self._outcome(*row)
            case ("taken", int(items)):
                self._acknowledged = max(self._acknowledged, items)
            case ("counted", int(items)):
                self._ended, self._answered = items, True
            case ("dropped",):
                self._answered = True
            case ("refused", reason):
                raise ProtocolError(f"the master at {self._address} refused what this program sent: {reason}")
            case _:
                pass  # a pong, or what is told to every client

    def _outcome(self, sequence: int, kind: str, content: bytes, whence: str) -> None:
        if sequence != self._sequence:
            return  # asked for, and come, twice
        first = sequence * self._chunksize
        if self._chunk is None:
            self._chunk = Chunk(min(self._chunksize, self._items - first), partial(self._arrived, first))
        note = f"multihost: item {first} of the detached job {self.name!r} or one behind it {whence}"
        # The outcomes of a chunk begin with a number, other results with a pickle's mark.
        if kind == PART or (kind == "result" and content[:1].isdigit()):
            self._chunk.take(content, note)
        else:
            succeeded, value = opened(kind, content)
            if isinstance(value, BaseException) and not succeeded:
                value.add_note(note)
                self._chunk.fail(value)
            else:
                self._arrived(first, 0, Outcomes([value]), 0.0, len(content))
        if kind != PART:
            self._sequence, self._chunk = sequence + 1, None

    def _arrived(self, first: int, start: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
        known = self._given + len(self._waiting)  # of the chunk, some items may have been acknowledged long ago
        self._waiting.extend(outcomes.behind(known - first - start).pairs())

    # --- connections -------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Know the job; afterwards there may be no connection, and of a job that is over there is none."""
        self._check_open()
        if not self._session:
            self._connected()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the detached job {self.name!r} was closed here; attach to it again")

    def _connected(self) -> Connection:
        """Raises: JobError; MasterUnreachable; AuthenticationError; ValueError: it was closed."""
        self._check_open()
        if self._link is None:
            info: dict[str, object] = {"collector": self._collector, "job": self.name}
            link, answer = attach_link(self._address, self._authkey, "client", info, self._patience, threading.Event())
            session, taken = str(answer["session"]), int(str(answer["taken"]))
            if self._session not in ("", session):
                link.close()
                raise JobUnknown(self.name)
            if not self._session:
                self._session = session
                self._items, self._chunksize = int(str(answer["items"])), int(str(answer["chunksize"]))
                self._given = self._acknowledged = taken
                self._sequence = taken // self._chunksize
            self._link, self._linked, self._chunk = link, time.monotonic(), None
        return self._link

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
