"""One connection, as the server sees it: a stranger, then a stock client that makes requests, or a link of ours."""

import asyncio
import logging
import socket
from collections import deque
from multiprocessing import AuthenticationError
from typing import TYPE_CHECKING, Protocol

from multihost.errors import ClusterFull, JobError, JournalFull, ProtocolError
from multihost.settings import Address
from multihost.wire import messages, sockets
from multihost.wire.doorway import origin
from multihost.wire.frames import Buffer, FrameReader, frame
from multihost.wire.handshake import FAILURE, MAX_HANDSHAKE_FRAME, ServerHandshake, WrongKey

if TYPE_CHECKING:
    from multihost.wire.server import Server

logger = logging.getLogger(__name__)

_FRAME_SLACK = 16 * 1024 * 1024  # a batch holds one payload of the largest size, or many small ones and their names
# The transport copies what the kernel does not take at once, so of what is large it gets so much at a time.
_PORTION_BYTES = 256 * 1024
# Behind so much, others have their turn before a peer that reads as fast as we write gets more.
_TURN_BYTES = 4 * 1024 * 1024
_DELIVERY_POLL_SECONDS, _DELIVERY_POLLS = 0.01, 200


class Handler(Protocol):
    """What the server leaves to others. A peer is known by its number."""

    def started(self, server: "Server") -> None:
        """The event loop runs; nothing has been accepted yet."""

    def stopped(self) -> None:
        """The event loop ends; the connections are closed next."""

    def queue_methods(self, name: str) -> tuple[str, ...] | None:
        """What a client may call on the shared queue ``name``; None when there is none."""

    def called(self, peer: int, queue: str, method: str, args: tuple[object, ...], kwds: dict[str, object]) -> None:
        """A request to a shared queue; to be answered by ``Peer.reply``."""

    def hello(self, peer: "Peer", role: str, info: dict[str, object]) -> object:
        """A peer of ours opens its link; what is returned is its answer.

        Raises: ProtocolError: it is refused. JournalFull: not now, it may try again. ClusterFull: there are too many.
            JobError: a detached job is not to be had.
        """

    def said(self, peer: int, batch: list[messages.Message]) -> None:
        """A checked batch of messages."""

    def said_all(self) -> None:
        """That was all that has come from the peer in this turn of the event loop, and nobody else said anything."""

    def heard(self, peer: int) -> None:
        """Part of a large frame has come."""

    def writable(self, peer: int) -> None:
        """The peer has read enough that more can be sent."""

    def closed(self, peer: int, delivered: bool) -> None:
        """The connection ended; ``delivered``: everything sent on it is known to have reached the peer's program."""


class Peer(asyncio.BufferedProtocol):
    """One connection: a stranger, then a stock client that makes requests, or a link of ours with a ``role``."""

    def __init__(self, server: "Server", number: int) -> None:
        self.number = number
        self.origin, self.address = "", "?"
        self._server = server
        self._handler = server.handler
        self._handshake = ServerHandshake(*server.authkeys)
        self._frames = FrameReader(MAX_HANDSHAKE_FRAME, server.spares)
        self._receive = self._receive_handshake
        self._role = ""
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle
        self._unsent: deque[memoryview] = deque()  # what the transport has not got yet
        self._full = False  # whether the transport has enough for now
        self._pausing = False  # whether it gets more in the next turn of the event loop
        self._ending = False  # whether to close when it has all
        self._delivered: bool | None = None  # None while the connection lives
        self._closing: asyncio.Future[None]

    # --- what asyncio calls ------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        sockets.configure(transport.get_extra_info("socket"))
        host, port = transport.get_extra_info("peername")[:2]
        self.origin, self.address = origin(host), str(Address(host, port))
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._server.limits.handshake_seconds, self._handshake_expired)
        self._server.began(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._frames.space()

    def buffer_updated(self, nbytes: int) -> None:
        try:
            for content in self._frames.received(nbytes):
                self._receive(content)
                if self._ending or self._transport.is_closing():
                    return
        except ProtocolError as error:
            self._break_off(str(error))
            return
        finally:
            if self._role and self._server.one_speaks:
                self._handler.said_all()
        if self._frames.pending and self._role:
            self._handler.heard(self.number)

    def eof_received(self) -> bool:
        # The peer has closed. If the kernel still waits for acknowledgements, it is not known whether he got our last
        # answer: keep the socket until it is, for an item of a shared queue must not be lost with him.
        if self._receive == self._receive_handshake or self._transport.is_closing():
            return False
        self._closing = asyncio.ensure_future(self._close_when_known())
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._unsent.clear()
        self._server.ended(self, delivered=error is None and self._delivered is not False)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        # asyncio calls this while it writes, and then ends a connection twice that we close, or find lost, from here.
        if not self._pausing:
            self._pause()

    # --- what the server and the handler call ------------------------------------------------------------------

    def greet(self) -> None:
        """Begin the handshake."""
        self.write_frame([self._handshake.greeting()])

    @property
    def writable(self) -> bool:
        """Whether all that was written has left, but for little."""
        return not self._full and not self._unsent

    def reply(self, kind: str, value: object) -> None:
        """Answer a request of the managers protocol."""
        self.write_frame(messages.encode((kind, value)))

    def send(self, batch: list[messages.Message]) -> None:
        """Send a batch of messages on a link, in as many frames as a receiver's memory asks for."""
        for parts in messages.frames_of(batch):
            self.write_frame(parts)

    def write_frame(self, parts: list[Buffer]) -> None:
        if self._ending or self._transport.is_closing():
            return
        for part in frame(parts):
            if self._unsent or len(part) > _PORTION_BYTES:
                self._unsent.append(memoryview(part))
            else:
                self._transport.write(part)
        self._feed()

    def close(self) -> None:
        """Close after what was written has been sent."""
        if not self._unsent:
            self._transport.close()
        elif not self._ending:
            self._ending = True
            self._transport.pause_reading()

    def abort(self) -> None:
        self._transport.abort()

    def _feed(self) -> None:
        """Hand the transport as much as the kernel takes now; it says at once when it has enough."""
        left = _TURN_BYTES
        while self._unsent and not (self._full or self._pausing or self._transport.is_closing()):
            part = self._unsent.popleft()
            if len(part) > _PORTION_BYTES:
                self._unsent.appendleft(part[_PORTION_BYTES:])
            self._transport.write(part[:_PORTION_BYTES])
            left -= min(len(part), _PORTION_BYTES)
            if left <= 0 and self._unsent:
                self._pause()

    def _pause(self) -> None:
        """Go on in the loop's next turn."""
        self._pausing = True
        asyncio.get_running_loop().call_soon(self._unpause)

    def _unpause(self) -> None:
        self._pausing = False
        if not self._transport.is_closing():
            self._go_on()

    def _go_on(self) -> None:
        self._feed()
        if self.writable:
            if self._ending:
                self._transport.close()
            self._handler.writable(self.number)

    # --- frames ------------------------------------------------------------------------------------------------

    def _receive_handshake(self, content: memoryview) -> None:
        try:
            answers = self._handshake.receive(bytes(content))
        except AuthenticationError as error:
            if isinstance(error, WrongKey):
                self._server.note_wrong_key(self)
            self._server.refused(self, str(error))
            self.write_frame([FAILURE])
            self.close()
            return
        for answer in answers:
            self.write_frame([answer])
        if self._handshake.done:
            self._deadline.cancel()
            self._frames.limit = self._server.limits.max_payload + _FRAME_SLACK
            self._receive = self._receive_first
            # A stock client holds its first request back, 40 ms long, until its last word of the handshake has arrived.
            sockets.acknowledge_now(self._transport.get_extra_info("socket"))
            self._server.authenticated(self, self._handshake.key)

    def _receive_first(self, content: memoryview) -> None:
        """The first request of a connection: what it is to be used for."""
        _, name, args, kwds = self._request(content)
        if name not in messages.FIRST_REQUESTS:
            self.reply("#TRACEBACK", f"{name[:80]!r} is not served; multihost has no request of that name")
        elif name == "hello":
            self._hello(*args)
        elif (full := self._server.full) is not None:
            self.reply("#ERROR", ConnectionRefusedError(str(full)))
            self.close()
        elif name == "accept_connection":
            self._receive = self._receive_call
            self.reply("#RETURN", None)
        elif name == "create":
            self._create(args, kwds)
        else:
            self.reply("#RETURN", None)  # dummy, incref, decref: a shared queue lives as long as the master

    def _receive_call(self, content: memoryview) -> None:
        """A request to a shared queue."""
        try:
            queue, method, args, kwds = self._request(content)
        except ProtocolError as error:
            self.reply("#ERROR", TypeError(str(error)))
            return
        if self._handler.queue_methods(queue) is None:
            self.reply("#TRACEBACK", f"there is no shared queue {queue[:80]!r}")
        else:
            self._handler.called(self.number, queue, method, args, kwds)

    def _receive_batch(self, content: memoryview) -> None:
        self._handler.said(self.number, messages.check_batch(self._role, messages.decode(content)))

    def _request(self, content: memoryview) -> tuple[str, str, tuple[object, ...], dict[str, object]]:
        request = messages.decode(content)
        match request:
            case (None | str() as ident, str(method), tuple(args), dict(kwds)) if all(
                isinstance(key, str) for key in kwds
            ):
                return str(ident), method, args, kwds
        raise ProtocolError("a request must be (ident, method, args, kwds)")

    def _create(self, args: tuple[object, ...], kwds: dict[str, object]) -> None:
        name = args[0] if args else None
        methods = self._handler.queue_methods(name) if isinstance(name, str) else None
        if methods is None:
            self.reply("#TRACEBACK", f"the master has no shared queue {str(name)[:80]!r}")
        elif len(args) > 1 or kwds:
            self.reply("#TRACEBACK", f"{name}() takes no arguments: the queue lives in the master")
        else:
            self.reply("#RETURN", (name, methods))

    def _hello(self, *args: object) -> None:
        match args:
            case (str(role), dict(info)) if role in messages.ROLES:
                pass
            case _:
                raise ProtocolError(f"a hello names one of the roles {', '.join(messages.ROLES)}")
        try:
            if role == "client" and (full := self._server.full) is not None:
                raise full
            answer = self._handler.hello(self, role, info)
        except ClusterFull as error:
            self.reply("#FULL", error.args)
            self.close()
            return
        except JobError as error:
            self.reply("#JOB", (type(error).__name__, error.name))
            self.close()
            return
        except (ProtocolError, JournalFull) as error:
            self.reply("#LATER" if isinstance(error, JournalFull) else "#ERROR", str(error))
            self.close()
            return
        self._role, self._receive = role, self._receive_batch
        self.reply("#RETURN", answer)

    # --- endings -----------------------------------------------------------------------------------------------

    def _break_off(self, reason: str) -> None:
        if self._receive == self._receive_handshake:
            self._server.refused(self, reason)
        else:
            fields = {"event": "protocol_error", "peer": self.address}
            logger.warning("closed the connection of %s: %s", self.address, reason, extra=fields)
        if self._role:
            self.send([("refused", reason)])
            self.close()
        else:
            self.abort()

    def _handshake_expired(self) -> None:
        self._server.refused(self, "it did not finish its handshake in time")
        self.abort()

    async def _close_when_known(self) -> None:
        sock = self._transport.get_extra_info("socket")
        for _ in range(_DELIVERY_POLLS):
            if self._transport.is_closing():
                return
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                break
            if (
                not self._unsent
                and not self._transport.get_write_buffer_size()
                and not sockets.unacknowledged(sock.fileno())
            ):
                self._delivered = True
                self.close()
                return
            await asyncio.sleep(_DELIVERY_POLL_SECONDS)
        self._delivered = False
        self.abort()
