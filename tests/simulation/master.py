"""The master: a broker core in the simulation's own shell, which does what ``broker/service.py`` does."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

from multihost.broker import events
from multihost.broker.bounds import Bounds
from multihost.broker.core import TICK_SECONDS, BrokerCore
from multihost.broker.letters import is_ours
from multihost.broker.records import decode, encode
from multihost.errors import JobError, ProtocolError
from multihost.wire.messages import Message, check_batch
from tests.simulation.network import End, Network
from tests.simulation.records import Ledger
from tests.simulation.world import LARGE_BYTES, Host, Process, World
from tests.unit.brokers import check_invariants

# One turn of the event loop: what comes within it is answered together.
TURN_SECONDS = 0.0005
_COMPACT_EVERY = 200  # commits


class Disk(Protocol):
    """What of the master survives its death. ``keeps``: whether anything does."""

    keeps: bool

    def start(self, now: float) -> BrokerCore:
        """A core as a new process of the master begins with."""

    def commit(self, core: BrokerCore) -> None:
        """Called before what a turn has to say is sent: whatever it reveals must survive from now on."""


@dataclass
class Memory:
    """Nothing survives: clients submit again what has no outcome yet."""

    lease_timeout: float
    session_timeout: float
    bounds: Bounds
    job_ttl: float
    keeps: bool = False

    def start(self, now: float) -> BrokerCore:
        core = BrokerCore(self.lease_timeout, self.session_timeout, [], bounds=self.bounds, job_ttl=self.job_ttl)
        core._ledger.large_bytes = LARGE_BYTES
        return core

    def commit(self, core: BrokerCore) -> None:
        pass


@dataclass
class Journal:
    """What was committed survives."""

    lease_timeout: float
    session_timeout: float
    bounds: Bounds
    job_ttl: float
    keeps: bool = True
    rows: list[bytes] = field(default_factory=list)
    _commits: int = 0

    def start(self, now: float) -> BrokerCore:
        core = BrokerCore(self.lease_timeout, self.session_timeout, [], bounds=self.bounds, job_ttl=self.job_ttl)
        core._ledger.large_bytes = LARGE_BYTES
        for row in self.rows:
            for record in decode(row):
                core.replay(*record)  # type: ignore[misc]
        core.resume(now)
        return core

    def commit(self, core: BrokerCore) -> None:
        if records := core.take_records():
            self.rows.append(b"".join(encode(records)))
            self._commits += 1
            if self._commits % _COMPACT_EVERY == 0:
                self.rows = [b"".join(encode([record])) for record in core.snapshot()]


@dataclass
class _Link:
    end: End
    role: str
    outbox: list[Message] = field(default_factory=list)


class Master:
    """See the module. ``checked``: whether the core's invariants are checked after each event."""

    def __init__(self, world: World, host: Host, disk: Disk, lease_timeout: float, checked: bool) -> None:
        self.host = host
        self.network: Network
        self.ledger = Ledger()
        self.life = 0  # how often it was started
        self._world = world
        self._disk = disk
        self._lease_timeout = lease_timeout
        self._checked = checked
        self.process = Process(host, "master")
        self.process.alive = False

    @property
    def era(self) -> int:
        """Within one, a fencing token is given once."""
        return 1 if self._disk.keeps else self.life

    def start(self) -> None:
        self.life += 1
        self.process = Process(self.host, f"master-{self.life}")
        self.core = self._disk.start(self._world.now)
        self._links: dict[int, _Link] = {}
        self._connections: dict[End, int] = {}
        self._numbers = count(1)
        self._dirty: dict[int, _Link] = {}
        self._alarm: float | None = None
        self._world.note("master", "starts", self.life)
        self._tick()

    def crash(self) -> None:
        """End at once; what was not sent yet is lost."""
        self._world.note("master", "crashes")
        self.process.alive = False
        for end in self._connections:
            self.network.vanish(end, tell=True)

    # --- what the network calls --------------------------------------------------------------------------------

    def received(self, end: End, value: Any) -> None:
        if not self.process.alive:
            self.network.refuse(end)
        elif end in self._connections:
            self._said(self._connections[end], value)
        else:
            self._hello(end, *value)

    def lost(self, end: End) -> None:
        if (number := self._connections.get(end)) is not None and self.process.alive:
            self._gone(number)

    def _hello(self, end: End, role: str, info: dict[str, Any]) -> None:
        try:
            self._greet(end, role, info)
        except JobError as error:
            self._links.pop(self._connections[end], None)
            self.network.send(end, ["refused", type(error).__name__])
            self.network.close(end)

    def _greet(self, end: End, role: str, info: dict[str, Any]) -> None:
        number = self._connections[end] = next(self._numbers)
        self._links[number] = _Link(end, role)
        self._disk.commit(self.core)  # the answer tells what is known
        answer: dict[str, object] = {"lease_timeout": self._lease_timeout, "max_payload": 1 << 20, "life": self.era}
        if role == "client" and "collector" in info:
            self._handle(events.CollectorCame(number, info["collector"], info["job"]))
            answer |= self.core.job_state(info["job"])
        elif role == "client":
            answer["known"] = self.core.knows(info["session"])
            if not answer["known"]:
                self.ledger.begun.setdefault(info["session"], []).append(self._world.now)
            name, job = info["session"], info["job"]
            self._handle(events.ClientCame(number, name, info["limit"], name, info["lifetime"], job))
            answer |= self.core.session_state(info["session"])
        elif role == "worker":
            labels = frozenset(info["labels"])
            kept = [frozenset(info[what]) for what in ("holds", "families", "blobs")] if self._disk.keeps else []
            name = info["worker"]
            self._handle(events.WorkerCame(number, name, name, info["slots"], "3.11", labels, *kept))
            answer |= {"keeps": self._disk.keeps, "done": self.core.items_done(name)}
        self.network.send(end, ["welcome", answer])

    def _said(self, number: int, batch: list[Message]) -> None:
        if (link := self._links.get(number)) is None:
            return  # the core has closed it: nothing is read from it any more
        batch = check_batch(link.role, batch)
        self._world.note("master", "hears", number, *batch)
        due = self.core.next_deadline()  # a task that expires just then is nobody's doing
        idle = due is None or due > self._world.now + 1e-3
        before = self._statistics() if idle and self._all_stale(number, batch) else None
        worker = self.core._workers.by_connection.get(number)
        held = () if worker is None else self.core._ledger.leases.of(worker.worker_id)
        begun = [token for name, *fields in batch if name == "begun" for token in fields[0]]  # type: ignore[attr-defined]
        self.ledger.unheard -= {(self.era, token) for token in begun if token in held}  # too late for the others
        self._handle(events.Said(number, batch))
        if before is not None:
            assert before == self._statistics(), "a stale fencing token has changed something"
        self._set_alarm()

    def _all_stale(self, number: int, batch: list[Any]) -> bool:
        """Whether a batch says nothing but how deliveries ended whose leases have ended before."""
        worker = self.core._workers.by_connection.get(number)
        held = () if worker is None else self.core._ledger.leases.of(worker.worker_id)
        return self._checked and all(
            name in ("settle", "ran") and all(token not in held for token, _, _ in fields[0]) for name, *fields in batch
        )

    def _statistics(self) -> dict[str, object]:
        return self.core.statistics() | {"stale": None}

    def _gone(self, number: int) -> None:
        self._links.pop(number, None)
        self._dirty.pop(number, None)
        self._world.note("master", "misses", number)
        self._handle(events.Gone(number, delivered=False))

    # --- events and effects ------------------------------------------------------------------------------------

    def _handle(self, event: events.Event) -> None:
        for effect in self.core.handle(event, self._world.now):
            match effect:
                case events.Send((connection, channel), message):
                    self._send(connection, ("relay", channel, [message]))
                case events.Send(int(connection), message):
                    self._send(connection, message)
                case events.Close(int(connection), reason, broke_rules):
                    if broke_rules:
                        raise ProtocolError(f"the master was told what breaks the rules: {reason}")
                    self._close(connection)
                case events.Note(_, text):
                    self._world.note("master", "says", text)
        if self._checked:
            check_invariants(self.core, restarted=self.life > 1)

    def _send(self, connection: int, message: Any) -> None:
        if message[0] == "grant":
            requeued = is_ours(message[1]) and "depth" not in message[4]  # else its tasks, if any
            self._note_grant(int(message[1].rpartition("-")[2]) if requeued else None, message[5])
        if (link := self._links.get(connection)) is None:
            return
        link.outbox.append(message)
        if not self._dirty:
            self._world.at(self._world.soon(TURN_SECONDS), self.process, self._flush)
        self._dirty[connection] = link

    def _note_grant(self, letter: int | None, tasks: list[tuple[int, bytes]]) -> None:
        for token, payload in tasks:
            task = payload.decode()
            self.ledger.granted[self.era, token] = self._world.now
            if letter is not None:
                self.ledger.requeued[self.era, token] = letter
                continue
            self.ledger.grants.setdefault(task, []).append((self.era, token))

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, {}
        self._disk.commit(self.core)
        for link in dirty.values():
            self._write(link)

    def _write(self, link: _Link) -> None:
        if link.outbox:
            batch, link.outbox = link.outbox, []
            self.network.send(link.end, batch)

    def _close(self, connection: int) -> None:
        if (link := self._links.pop(connection, None)) is not None:
            self._dirty.pop(connection, None)
            self._write(link)  # its last words
            self.network.close(link.end)
            self._world.at(self._world.soon(TURN_SECONDS), self.process, self._gone, connection)

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._world.after(TICK_SECONDS, self.process, self._tick)
        self._handle(events.Tick())

    def _set_alarm(self) -> None:
        due = self.core.next_deadline()
        if due != self._alarm:
            self._alarm = due
            if due is not None:
                self._world.at(due, self.process, self._ring, due)

    def _ring(self, due: float) -> None:
        if due == self._alarm:
            self._alarm = None
            self._handle(events.Tick())
            self._set_alarm()
