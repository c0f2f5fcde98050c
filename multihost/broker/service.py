"""The master's shell: the one place where the wire's server and the broker's core meet.

Whatever arrives in one turn of the event loop goes through the core, and what the core sends is gathered for each
connection and written as one frame at the end of the turn; at once, where a single connection had something, for then
there is nothing else to gather. Before that the journal is committed: nobody learns of anything that a restart would
not know.

While the journal cannot be written, what would change anything waits: nothing of it is acknowledged. Signs of life and
questions are answered, the shared queues can be read, and each tick tries again.
"""

import asyncio
import logging
import queue as standard_queue
import resource
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from multihost.broker import events
from multihost.broker.bounds import Bounds
from multihost.broker.core import TICK_SECONDS, BrokerCore
from multihost.broker.journal import Journal, open_journal
from multihost.broker.queues import Reply
from multihost.errors import JournalError, JournalFull, JournalUnusable, ProtocolError
from multihost.heap import MUCH_BYTES, collect_seldom, reuse_large
from multihost.settings import MEMORY, Address, Settings
from multihost.wire.messages import PROTOCOL_VERSION, Message
from multihost.wire.peer import Peer
from multihost.wire.server import Limits, Server

logger = logging.getLogger(__name__)

T = TypeVar("T")
QUEUES = ("get_task_queue", "get_result_queue")
# What peers may ask and say while nothing can be written down.
_HARMLESS = {"ping", "heartbeat", "load", "ask", "status", "figures", "explain"}
# What is asked and answered about single tasks, and all of dead letters: what is known of them may not be written down
# yet. Who asks does not wait for that, but is told why there is no answer.
_PUT_OFF = {"find", "found"}
# Nobody waits for these alone: they go with what is sent to their peer next, or later: "accepted" after so long, which
# longer would keep clients with much to submit waiting while nothing comes back, and shorter would be a send for each
# task, where tasks come one by one; "recorded", which only frees memory, at the next tick.
_LEISURELY = {"accepted", "recorded"}
_LEISURE_SECONDS = 0.002


def make_server(
    address: Address, authkey: bytes, settings: Settings | None = None, queues: Sequence[str] = QUEUES
) -> Server:
    """A server that listens on ``address`` and answers for a broker; call its ``serve_forever``.

    The broker knows what its journal knows, if the settings name one. Raises: JournalError; OSError.
    """
    settings = settings or Settings()
    broker = BrokerCore(
        lease_timeout=settings.lease_timeout,
        session_timeout=settings.session_timeout,
        job_ttl=settings.job_ttl,
        queues=list(queues),
        queue_size=settings.queue_size,
        epoch=time.time() - time.monotonic(),
        bounds=Bounds(
            settings.max_tasks,
            settings.max_task_bytes,
            settings.max_sessions,
            settings.max_result_bytes,
            settings.max_dead_letters,
            settings.max_dead_letter_bytes,
        ),
    )
    journal = open_journal(settings.journal, settings.journal_sync)
    try:
        _replay(journal, broker, settings.journal)
        keeps = settings.journal != MEMORY
        service = Service(broker, journal, keeps, settings.lease_timeout, settings.max_payload)
        limits = Limits(max_payload=settings.max_payload, connections=settings.max_connections)
        return Server(address, authkey, service, limits)
    except BaseException:
        journal.close()
        raise


def _replay(journal: Journal, broker: BrokerCore, directory: str) -> None:
    """Raises: JournalError: also when a row is whole, and yet nothing that this program could have written."""
    begun = time.monotonic()
    rows = 0
    for records in journal.replay():
        rows += 1
        for record in records:
            try:
                broker.replay(*record)  # type: ignore[misc]
            except Exception as error:
                text = f"row {rows} is whole, and holds what this multihost cannot apply ({error!r})"
                raise JournalUnusable(directory, f"{text}; run the one that wrote it") from error
    now = time.monotonic()
    broker.resume(now)
    if rows:
        known = broker.statistics()
        text = "read the journal: %d sessions, %d tasks queued, %d leased, in %.1f s"
        fields = {"event": "journal_read", "rows": rows}
        logger.info(text, known["sessions"], known["queued"], known["leased"], now - begun, extra=fields)


def _set_of(kind: type[T], info: dict[str, object], name: str) -> frozenset[T]:
    """What a worker says of itself under that name; empty, if nothing."""
    some = info.get(name, ())
    if not isinstance(some, tuple) or not all(type(one) is kind for one in some):
        raise ProtocolError(f"a worker's {name} are a tuple of {kind.__name__}")
    return frozenset(some)


def _is_put_off(message: Message) -> bool:
    return message[0] in _PUT_OFF or str(message[0]).startswith("dead_")


@dataclass(slots=True)
class _Link:
    """A peer, and what is to be written to it at the end of this turn."""

    peer: Peer
    outbox: list[Message]
    close_for: tuple[str, int] | None = None  # it is to be closed at the end of this turn: why, and how to log that


class Service:
    """The handler of ``wire.server``: feeds events to the core and performs its effects."""

    def __init__(
        self, broker: BrokerCore, journal: Journal, keeps: bool, lease_timeout: float, max_payload: int
    ) -> None:
        self._core = broker
        self._journal = journal
        self._keeps = keeps  # whether the journal outlives the process
        self._compaction: Iterator[None] = iter(())
        self._full: JournalFull | None = None  # why the journal cannot be written
        self._held: list[events.Event] = []  # what is to be handled when it can be written again
        self._lease_timeout = lease_timeout
        self._max_payload = max_payload
        self._links: dict[int, _Link] = {}
        self._dirty: dict[int, _Link] = {}  # links with something in their outbox, to be flushed
        # Links with something in their outbox that can wait for a while, and until when, the first to be due in front.
        self._leisurely: dict[int, float] = {}
        self._leisure: asyncio.TimerHandle | None = None
        self._replies: list[Reply] = []  # to callers of shared queues, to be flushed
        self._flushing = False  # whether that is due at the end of this turn
        self._at_once = False  # whether a single peer speaks in this turn, so that its end is when ``said_all`` comes
        self._ended = False
        self._began = time.monotonic()
        self._turns = self._batches = self._heard_messages = 0  # for statistics
        broker.tell_of_shell(self._figures)
        self._server: Server
        self._loop: asyncio.AbstractEventLoop
        self._alarm: asyncio.TimerHandle | None = None

    # --- what the server calls ---------------------------------------------------------------------------------

    def started(self, server: Server) -> None:
        reuse_large(MUCH_BYTES)
        collect_seldom()
        self._server, self._loop = server, asyncio.get_running_loop()
        self._tick()

    def stopped(self) -> None:
        self._flush()
        self._ended = True  # that connections end from here on is our doing; their leases wait for the next start
        try:
            self._journal.close()
        except JournalFull as error:
            logger.error("%s", error, extra={"event": "journal_full"})

    def queue_methods(self, name: str) -> tuple[str, ...] | None:
        return self._core.exposed(name)

    def called(self, peer: int, queue: str, method: str, args: tuple[object, ...], kwds: dict[str, object]) -> None:
        call = events.Called(peer, queue, method, args, kwds)
        if self._full is None:
            self._handle(call)
        elif method.startswith("put"):
            self._server.peers[peer].reply("#ERROR", standard_queue.Full(str(self._full)))
        else:
            self._read(call)
        self._set_alarm()

    def hello(self, peer: Peer, role: str, info: dict[str, object]) -> object:
        self._commit()  # the answer tells what is known
        if self._full is not None and role != "monitor":
            raise self._full
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
                job = str(info.get("job", ""))
                self._handle(events.ClientCame(peer.number, session, limit, name, lifetime, job))
                answer |= self._core.session_state(session)
            case "client", {"collector": str(collector), "job": str(job), "version": _}:
                self._handle(events.CollectorCame(peer.number, collector, job))
                answer |= self._core.job_state(job)
            case "worker", {
                "worker": str(id_),
                "name": str(name),
                "slots": int(n),
                "python": str(minor),
                "version": _,
            }:
                labels, families, blobs = (_set_of(str, info, what) for what in ("labels", "families", "blobs"))
                # Without a journal there is nothing that a worker could come back to.
                holds = _set_of(int, info, "holds") if self._keeps and "holds" in info else None
                self._handle(events.WorkerCame(peer.number, id_, name, n, minor, labels, holds, families, blobs))
                answer |= {"keeps": self._keeps, "done": self._core.items_done(id_)}
            case "monitor", {"version": _}:
                pass
            case _:
                raise ProtocolError(f"this is not how a {role} introduces itself")
        return answer

    def said(self, peer: int, batch: list[Message]) -> None:
        if (link := self._links.get(peer)) is None or link.close_for is not None:
            return
        if self._full is not None:
            batch = self._answer_at_once(link, batch)
        self._at_once = self._server.one_speaks
        self._batches += 1
        self._heard_messages += len(batch)
        if batch:
            self._handle_or_hold(events.Said(peer, batch))
        self._set_alarm()

    def said_all(self) -> None:
        self._at_once = False
        if self._flushing:
            self._flush()

    def heard(self, peer: int) -> None:
        self._core.handle(events.Heard(peer), self._loop.time())

    def writable(self, peer: int) -> None:
        if (link := self._links.get(peer)) is not None and link.outbox:
            self._mark(link)

    def closed(self, peer: int, delivered: bool) -> None:
        self._links.pop(peer, None)
        self._dirty.pop(peer, None)
        self._leisurely.pop(peer, None)
        if not self._ended:
            self._handle_or_hold(events.Gone(peer, delivered))

    # --- events and effects ------------------------------------------------------------------------------------

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, self._loop.time()):
            self._perform(effect)
        self._flush_soon()

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.Send((connection, channel), message):
                self._send(connection, ("relay", channel, [message]))
            case events.Send(int(connection), message):
                self._send(connection, message)
            case Reply(_, "#ERROR", _) if self._full is not None:
                self._reply(effect)  # it tells of nothing that could be forgotten
            case Reply():
                self._replies.append(effect)
            case events.Close(int(connection), reason, broke_rules):
                self._close(connection, reason, logging.WARNING if broke_rules else logging.DEBUG)
            case events.Note(level, text, fields):
                logger.log(logging.getLevelNamesMapping()[level.upper()], text, extra=fields)

    def _send(self, connection: int, message: Message) -> None:
        link = self._links.get(connection)
        if link is None or (message[0] == "output" and not link.peer.writable):
            return  # what tasks print is for those who look at once; nobody's memory is to hold it
        link.outbox.append(message)
        if message[0] not in _LEISURELY:
            self._mark(link)
        elif message[0] == "accepted":
            self._mark_later(connection)

    def _mark_later(self, connection: int) -> None:
        due = self._loop.time() + _LEISURE_SECONDS
        self._leisurely.setdefault(connection, due)
        if self._leisure is None:
            self._leisure = self._loop.call_at(due, self._mark_leisurely)

    def _mark_leisurely(self) -> None:
        now = self._loop.time()
        for number in [number for number, due in self._leisurely.items() if due <= now]:
            del self._leisurely[number]
            self.writable(number)
        due = next(iter(self._leisurely.values()), None)
        self._leisure = None if due is None else self._loop.call_at(due, self._mark_leisurely)

    def _mark(self, link: _Link) -> None:
        self._dirty[link.peer.number] = link
        self._flush_soon()

    def _close(self, connection: int, reason: str, level: int) -> None:
        if (peer := self._server.peers.get(connection)) is not None:
            link = self._links.setdefault(connection, _Link(peer, []))
            link.close_for = link.close_for or (reason, level)
            self._mark(link)

    # --- the end of a turn -------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            if not self._at_once:
                self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._ended:
            return
        self._turns += 1
        self._commit()
        if self._full is not None:
            self._put_off()
            return
        replies, self._replies = self._replies, []
        for reply in replies:
            self._reply(reply)
        dirty, self._dirty = self._dirty, {}
        for link in dirty.values():
            # A peer that does not read keeps its messages here, as references, rather than encoded in a buffer.
            if link.outbox and (link.peer.writable or link.close_for is not None):
                batch, link.outbox = link.outbox, []
                self._leisurely.pop(link.peer.number, None)
                link.peer.send(batch)
            if link.close_for is not None:
                reason, level = link.close_for
                fields = {"event": "connection_closed", "peer": link.peer.address}
                logger.log(level, "closed the connection of %s: %s", link.peer.address, reason, extra=fields)
                link.peer.close()
        self._resume()

    def _reply(self, reply: Reply) -> None:
        if (peer := self._server.peers.get(reply.connection)) is not None:
            peer.reply(reply.kind, reply.value)

    # --- the journal -------------------------------------------------------------------------------------------

    def _commit(self) -> None:
        """Write down what has changed; afterwards ``_full`` says why that was not possible, or it was."""
        self._journal.append(self._core.take_records())
        try:
            self._journal.commit()
            if self._journal.wants_compaction(self._core.held_bytes):
                self._compaction = self._journal.compact([record] for record in self._core.snapshot())
                self._loop.call_soon(self._compact)
        except JournalFull as error:
            if self._full is None:
                logger.error("%s", error, extra={"event": "journal_full"})
            self._full = error
            return
        if self._full is not None:
            self._full = None
            logger.warning("the journal can be written again; work goes on", extra={"event": "journal_writable"})
            self._flush_soon()

    def _compact(self) -> None:
        """Make a step of a compaction; the next one comes after a turn."""
        try:
            for _ in self._compaction:
                self._loop.call_soon(self._compact)
                return
        except JournalError as error:
            logger.error("the journal could not be compacted: %s", error, extra={"event": "compaction_failed"})

    def _figures(self) -> dict[str, object]:
        """What ``status`` tells beside what the core knows."""
        return {
            "uptime_seconds": time.monotonic() - self._began,
            "connections": len(self._server.peers),
            "turns": self._turns,
            "batches": self._batches,
            "messages": self._heard_messages,
            "messages_per_turn": self._heard_messages / max(1, self._turns),
            "peak_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "journal": {**self._journal.figures(), "error": str(self._full or "")},
        }

    # --- while it cannot be written ----------------------------------------------------------------------------

    def _handle_or_hold(self, event: events.Event) -> None:
        if self._full is None and not self._held:
            self._handle(event)
        else:
            self._held.append(event)

    def _put_off(self) -> None:
        """Tell those whose answers cannot leave, for what they tell is not written down, that this is so."""
        assert self._full is not None
        for link in self._dirty.values():
            if any(_is_put_off(message) for message in link.outbox):
                link.outbox.clear()
                link.peer.send([("later", *self._full.args)])

    def _answer_at_once(self, link: _Link, batch: list[Message]) -> list[Message]:
        """Answer what changes nothing; the rest."""
        self._core.handle(events.Heard(link.peer.number), self._loop.time())
        answers: list[Message] = []
        for message in batch:
            match message:
                case ("ask",):
                    answers.append(("statistics", self._core.statistics()))
                case ("status",):
                    answers.append(("status", self._core.status()))
                case ("figures", int(question)):
                    answers.append(("figures", question, self._core.session_figures(link.peer.number)))
                case ("explain", int(question), int(sequence)):
                    unknown = {"state": "unknown", "reason": "journal", "task": sequence}
                    answers.append(("explained", question, unknown))
                case ("ping",) | ("heartbeat",):
                    answers.append(("pong",))
        if any(map(_is_put_off, batch)) and self._full is not None:
            answers.append(("later", *self._full.args))
        if answers:
            link.peer.send(answers)
        return [message for message in batch if message[0] not in _HARMLESS and not _is_put_off(message)]

    def _read(self, call: events.Called) -> None:
        """Answer a caller who takes something: that this is not written down can only mean that it is read twice."""
        for effect in self._core.handle(call, self._loop.time()):
            if isinstance(effect, Reply) and effect.connection == call.connection:
                self._reply(effect)
            else:
                self._perform(effect)

    def _resume(self) -> None:
        """Handle what was held, in the order in which it came."""
        held, self._held = self._held, []
        for event in held:
            self._handle(event)

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._loop.call_later(TICK_SECONDS, self._tick)
        for number in self._links:
            self.writable(number)
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
