"""The blocking client side of the wire: dial the master, prove the key, open a link, send and receive batches."""

import contextlib
import logging
import random
import select
import socket
import threading
import time
from collections.abc import Iterator

from multihost.errors import JOB_ERRORS, ClusterFull, MasterUnreachable, ProtocolError
from multihost.payload import PYTHON_MINOR
from multihost.settings import Address
from multihost.wire import messages, sockets
from multihost.wire.frames import Buffer, FrameReader, Spares, frame
from multihost.wire.handshake import MAX_HANDSHAKE_FRAME, ClientHandshake

logger = logging.getLogger(__name__)

# A peer that takes no byte for so long is as good as gone.
SEND_SECONDS = 30.0
# What is heard within so long needs no look at what the kernel still has to send, which costs as much as to receive.
_HEARD_SECONDS = 0.1
_ATTEMPT_SECONDS = 5.0
_MAX_FRAME = 1 << 40  # the master is trusted with what it sends; it has its own caps


class Connection:
    """One authenticated connection to the master.

    One thread may send while another one receives. After any error the connection is of no use; close it.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sockets.configure(sock)
        self._socket = sock
        self._frames = FrameReader(MAX_HANDSHAKE_FRAME, Spares())
        self._sending = threading.Lock()
        self._alive = time.monotonic()  # when the master last gave a sign of life
        self._sent = self._received = self._acknowledged = 0  # bytes
        self._early: list[object] = []  # what came together with the answer to hello

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, value: object) -> None:
        """Send one frame.

        Raises: ConnectionError: the master closed the connection, or took nothing for ``SEND_SECONDS``.
        """
        self.send_frame(messages.encode(value))

    def send_batch(self, batch: list[messages.Message]) -> None:
        """Send messages on a link, in as many frames as the master's cap on one asks for."""
        for parts in messages.frames_of(batch):
            self.send_frame(parts)

    def send_frame(self, parts: list[Buffer]) -> None:
        with self._sending:
            for part in frame(parts):
                view = memoryview(part)
                while view:
                    try:
                        sent = self._socket.send(view)
                    except BlockingIOError:
                        self._wait(select.POLLOUT, SEND_SECONDS)
                        self._alive = time.monotonic()  # it takes what we send, be it slowly
                    else:
                        view = view[sent:]
                        self._sent += sent

    def receive(self, timeout: float | None) -> list[object]:
        """The values that have come, decoded as plain data; none if nothing came within ``timeout`` seconds.

        Raises: ConnectionError: the connection ended.
        """
        early, self._early = self._early, []
        return early or [messages.decode(content) for content in self._contents(timeout)]

    def poll(self, timeout: float = 0.0) -> bool:
        """Whether ``receive`` would find something to read, waiting up to ``timeout`` seconds for it."""
        return bool(self._early) or bool(_poll(self._socket, select.POLLIN, timeout))

    def silence(self) -> float:
        """Seconds without a sign of life.

        One is any byte that comes, be it only a part of a frame. On a slow link, where the answer comes behind all that
        we have sent, another one is that the backlog shrinks. (That nothing is left of it is none: the kernel of a
        frozen master acknowledges a heartbeat, too.)
        """
        if (silent := time.monotonic() - self._alive) < _HEARD_SECONDS:
            return silent
        backlog = sockets.unacknowledged(self.fileno())
        acknowledged = self._sent - backlog
        if backlog and acknowledged > self._acknowledged:
            self._alive = time.monotonic()
        self._acknowledged = acknowledged
        return time.monotonic() - self._alive

    def moved_bytes(self) -> tuple[int, int]:
        """How many were sent, and how many received."""
        return self._sent, self._received

    def interrupt(self) -> None:
        """End the connection, so that a thread that waits in ``receive`` wakes up; ``close`` is still to come."""
        with contextlib.suppress(OSError):  # the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close; no thread may be in another method."""
        self.interrupt()
        self._socket.close()

    def authenticate(self, authkey: bytes, deadline: float) -> None:
        """Prove the key to the master, and have the master prove it.

        Raises: AuthenticationError; ConnectionError: no answer until ``deadline`` (monotonic seconds).
        """
        handshake = ClientHandshake(authkey)
        while not handshake.done:
            for content in self._before(deadline):
                for answer in handshake.receive(bytes(content)):
                    self.send_frame([answer])
        self._frames.limit = _MAX_FRAME

    def hello(self, role: str, info: dict[str, object], deadline: float) -> dict[str, object]:
        """Turn the connection into a link of ``role``; what the master answers.

        Raises: ProtocolError: the master refused, for the reason given; ClusterFull; JobError; ConnectionError.
        """
        info = {"version": messages.PROTOCOL_VERSION, "python": PYTHON_MINOR, **info}
        self.send((None, "hello", (role, info), {}))
        answer, *self._early = [messages.decode(content) for content in self._before(deadline)]
        match answer:
            case ("#RETURN", dict(welcome)):
                return welcome
            case ("#LATER", str(reason)):
                raise ConnectionError(reason)
            case ("#FULL", (str(what), int(limit), str(setting))):
                raise ClusterFull(what, limit, setting)
            case ("#JOB", (str(kind), str(name))) if kind in JOB_ERRORS:
                raise JOB_ERRORS[kind](name)
            case _:
                raise ProtocolError(f"the master refused this {role}: {str(answer)[:500]}")

    def _before(self, deadline: float) -> list[memoryview]:
        contents = list(self._contents(max(0.0, deadline - time.monotonic())))
        if not contents:
            raise ConnectionError("the master accepted the connection but did not answer in time")
        return contents

    def _contents(self, timeout: float | None) -> Iterator[memoryview]:
        """The frames that have come; waits up to ``timeout`` seconds for one to be whole."""
        deadline = None if timeout is None else time.monotonic() + timeout
        found = False
        while not found:
            if timeout != 0.0 and not _poll(
                self._socket, select.POLLIN, None if deadline is None else deadline - time.monotonic()
            ):
                return
            try:
                size = self._socket.recv_into(self._frames.space())
            except BlockingIOError:
                if timeout == 0.0:
                    return
                continue
            if size == 0:
                raise ConnectionResetError("the master closed the connection")
            self._alive = time.monotonic()
            self._received += size
            for content in self._frames.received(size):
                found = True
                yield content

    def _wait(self, event: int, seconds: float) -> None:
        if not _poll(self._socket, event, seconds):
            raise ConnectionError(f"the master took nothing for {seconds:g} s")


def _poll(sock: socket.socket, event: int, timeout: float | None) -> list[tuple[int, int]]:
    poller = select.poll()
    poller.register(sock, event)
    return poller.poll(None if timeout is None else max(0.0, timeout * 1000))


def dial(address: Address, authkey: bytes, timeout: float) -> Connection:
    """Connect once, with a fresh look-up of the name, and authenticate; ``timeout`` seconds for all of it.

    Raises: AuthenticationError: wrong key, final; OSError: not there, or not now.
    """
    deadline = time.monotonic() + timeout
    connection = Connection(socket.create_connection(address.pair, timeout=timeout))
    try:
        connection.authenticate(authkey, deadline)
    except BaseException:
        connection.close()
        raise
    return connection


class Patience:
    """How long to wait before attaching again: not at all after a connection that lasted, ever longer after others.

    A master that accepts and then closes, for whatever reason, is not to be asked a thousand times a second.
    """

    LASTED_SECONDS = 1.0

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()
        self._delays = backoff(self._chance)

    def after(self, lasted: float) -> float:
        """Seconds to wait after a connection that lasted so many seconds."""
        if lasted >= self.LASTED_SECONDS:
            self._delays = backoff(self._chance)
            return 0.0
        return next(self._delays)


class GivenUp(Exception):
    """The caller no longer wants the connection that was being made."""


def attach(
    address: Address, authkey: bytes, role: str, info: dict[str, object], timeout: float, give_up: threading.Event
) -> tuple[Connection, dict[str, object]]:
    """A new link of ``role``, and what the master answered; tries for ``timeout`` seconds, with backoff.

    Raises:
        MasterUnreachable: no master answered until then.
        AuthenticationError, ProtocolError, ClusterFull, JobError: the master refused, and would again.
        GivenUp: ``give_up`` was set meanwhile.
    """
    deadline = time.monotonic() + timeout
    reason = ""
    for delay in backoff(random.Random()):
        left = min(_ATTEMPT_SECONDS, max(0.1, deadline - time.monotonic()))
        try:
            return _dial_and_greet(address, authkey, role, info, left)
        except ProtocolError:
            raise
        except OSError as error:
            if not reason:
                logger.warning("the master at %s is not there yet (%s); trying for %g s", address, error, timeout)
            reason = str(error)
        if time.monotonic() + delay > deadline:
            break
        if give_up.wait(delay):
            raise GivenUp
    raise MasterUnreachable(str(address), timeout, reason)


def _dial_and_greet(
    address: Address, authkey: bytes, role: str, info: dict[str, object], timeout: float
) -> tuple[Connection, dict[str, object]]:
    deadline = time.monotonic() + timeout
    connection = dial(address, authkey, timeout)
    try:
        return connection, connection.hello(role, info, deadline)
    except BaseException:
        connection.close()
        raise


def backoff(chance: random.Random, first: float = 0.05, most: float = 3.0) -> Iterator[float]:
    """Seconds to wait before each further attempt: doubling, and spread, so that peers do not come all at once."""
    delay = first
    while True:
        yield delay * chance.uniform(0.5, 1.0)
        delay = min(most, delay * 2)
