"""The master's shell: the one place where the wire's server and the broker's core meet.

Whatever arrives in one turn of the event loop goes through the core, and what the core sends is gathered for each
connection and written as one frame at the end of the turn. A journal would be committed there, before the writes.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from multihost.broker import events
from multihost.broker.core import TICK_SECONDS, BrokerCore
from multihost.broker.queues import Reply
from multihost.errors import ProtocolError
from multihost.settings import Address, Settings
from multihost.wire.messages import PROTOCOL_VERSION, Message
from multihost.wire.peer import Peer
from multihost.wire.server import Limits, Server

logger = logging.getLogger(__name__)

QUEUES = ("get_task_queue", "get_result_queue")


def make_server(
    address: Address, authkey: bytes, settings: Settings | None = None, queues: Sequence[str] = QUEUES
) -> Server:
    """A server that listens on ``address`` and answers for a new broker; call its ``serve_forever``."""
    settings = settings or Settings()
    broker = BrokerCore(
        lease_timeout=settings.lease_timeout,
        session_timeout=settings.session_timeout,
        queues=list(queues),
        queue_size=settings.queue_size,
    )
    service = Service(broker, settings.lease_timeout, settings.max_payload)
    return Server(address, authkey, service, Limits(max_payload=settings.max_payload))


@dataclass(slots=True)
class _Link:
    """A peer, and what is to be written to it at the end of this turn."""

    peer: Peer
    outbox: list[Message]


class Service:
    """The handler of ``wire.server``: feeds events to the core and performs its effects."""

    def __init__(self, broker: BrokerCore, lease_timeout: float, max_payload: int) -> None:
        self._core = broker
        self._lease_timeout = lease_timeout
        self._max_payload = max_payload
        self._links: dict[int, _Link] = {}
        self._dirty: dict[int, _Link] = {}  # links with something in their outbox, to be flushed
        self._server: Server
        self._loop: asyncio.AbstractEventLoop
        self._alarm: asyncio.TimerHandle | None = None

    # --- what the server calls ---------------------------------------------------------------------------------

    def started(self, server: Server) -> None:
        self._server, self._loop = server, asyncio.get_running_loop()
        self._tick()

    def queue_methods(self, name: str) -> tuple[str, ...] | None:
        return self._core.exposed(name)

    def called(self, peer: int, queue: str, method: str, args: tuple[object, ...], kwds: dict[str, object]) -> None:
        self._handle(events.Called(peer, queue, method, args, kwds))
        self._set_alarm()

    def hello(self, peer: Peer, role: str, info: dict[str, object]) -> object:
        self._links[peer.number] = _Link(peer, [])
        answer: dict[str, object] = {"lease_timeout": self._lease_timeout, "max_payload": self._max_payload}
        match role, info:
            case _, {"version": int(version)} if version != PROTOCOL_VERSION:
                raise ProtocolError(
                    f"the master speaks version {PROTOCOL_VERSION} of the link protocol, this {role} {version}; "
                    "run the same version of multihost on both"
                )
            case "client", {
                "session": str(session),
                "limit": None | int() as limit,
                "lifetime": None | int() as lifetime,
                "name": str(name),
                "version": _,
            }:
                answer["known"] = self._core.knows(session)
                self._handle(events.ClientCame(peer.number, session, limit, name, lifetime))
                answer |= self._core.session_state(session)
            case "worker", {
                "worker": str(id_),
                "name": str(name),
                "slots": int(n),
                "python": str(minor),
                "version": _,
            }:
                labels = info.get("labels", ())
                if not isinstance(labels, tuple) or not all(isinstance(label, str) for label in labels):
                    raise ProtocolError("a worker's labels are a tuple of str")
                self._handle(events.WorkerCame(peer.number, id_, name, n, minor, frozenset(labels)))
            case "monitor", {"version": _}:
                pass
            case _:
                raise ProtocolError(f"this is not how a {role} introduces itself")
        return answer

    def said(self, peer: int, batch: list[Message]) -> None:
        self._handle(events.Said(peer, batch))
        self._set_alarm()

    def heard(self, peer: int) -> None:
        self._handle(events.Heard(peer))

    def writable(self, peer: int) -> None:
        if (link := self._links.get(peer)) is not None and link.outbox:
            self._mark(link)

    def closed(self, peer: int, delivered: bool) -> None:
        self._links.pop(peer, None)
        self._dirty.pop(peer, None)
        self._handle(events.Gone(peer, delivered))

    # --- events and effects ------------------------------------------------------------------------------------

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, self._loop.time()):
            match effect:
                case events.Send((connection, channel), message):
                    self._send(connection, ("relay", channel, [message]))
                case events.Send(int(connection), message):
                    self._send(connection, message)
                case Reply(connection, kind, value):
                    if (peer := self._server.peers.get(connection)) is not None:
                        peer.reply(kind, value)
                case events.Close(int(connection), reason, broke_rules):
                    self._close(connection, reason, logging.WARNING if broke_rules else logging.DEBUG)
                case events.Note(level, text, fields):
                    logger.log(logging.getLevelNamesMapping()[level.upper()], text, extra=fields)
        self._core.take_records()  # nothing keeps them yet

    def _send(self, connection: int, message: Message) -> None:
        link = self._links.get(connection)
        if link is None or (message[0] == "output" and not link.peer.writable):
            return  # what tasks print is for those who look at once; nobody's memory is to hold it
        link.outbox.append(message)
        self._mark(link)

    def _mark(self, link: _Link) -> None:
        if not self._dirty:
            self._loop.call_soon(self._flush)
        self._dirty[link.peer.number] = link

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        for link in dirty.values():
            # A peer that does not read keeps its messages here, as references, rather than encoded in a buffer.
            if link.outbox and link.peer.writable:
                batch, link.outbox = link.outbox, []
                link.peer.send(batch)

    def _close(self, connection: int, reason: str, level: int) -> None:
        if (peer := self._server.peers.get(connection)) is not None:
            fields = {"event": "connection_closed", "peer": peer.address}
            logger.log(level, "closed the connection of %s: %s", peer.address, reason, extra=fields)
            if (link := self._links.get(connection)) is not None and link.outbox:
                peer.send(link.outbox)  # its last words, such as why
                link.outbox = []
            peer.close()

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._loop.call_later(TICK_SECONDS, self._tick)
        self._handle(events.Tick())

    def _set_alarm(self) -> None:
        """Have a tick at the moment when a call to a shared queue times out, or a delayed task is due."""
        due = self._core.next_deadline()
        if self._alarm is not None and (due is None or self._alarm.when() > due):
            self._alarm.cancel()
            self._alarm = None
        if due is not None and self._alarm is None:
            self._alarm = self._loop.call_at(due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._handle(events.Tick())
        self._set_alarm()
