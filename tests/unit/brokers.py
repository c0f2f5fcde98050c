"""A broker core with peers in memory: what they are sent is kept for them, and the core's invariants always hold."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from multihost.broker.bounds import LEASES_PER_SLOT, Bounds
from multihost.broker.core import BrokerCore
from multihost.broker.events import (
    Called,
    ClientCame,
    Close,
    CollectorCame,
    Effect,
    Event,
    Gone,
    Heard,
    Note,
    Said,
    Send,
    Tick,
    WorkerCame,
)
from multihost.broker.letters import is_ours
from multihost.broker.members import Link
from multihost.broker.queues import Reply
from multihost.broker.records import Record, decode, encode
from multihost.broker.tasks import TaskState
from multihost.payload import content_id
from multihost.wire.messages import Message, check_batch

LEASE_TIMEOUT, SESSION_TIMEOUT, JOB_TTL = 10.0, 60.0, 600.0
QUEUES, QUEUE_SIZE = ["get_task_queue", "get_result_queue"], 2
EPOCH = 1_700_000_000.25


def make_core(bounds: Bounds | None = None) -> BrokerCore:
    return BrokerCore(LEASE_TIMEOUT, SESSION_TIMEOUT, QUEUES, QUEUE_SIZE, EPOCH, bounds, JOB_TTL)


def replayed(records: Iterable[Record]) -> BrokerCore:
    """What a new master knows after it has read these records from a journal."""
    core = make_core()
    for record in decode(b"".join(encode([*records]))):
        core.replay(*record)  # type: ignore[misc]
    return core


@dataclass(frozen=True)
class Function:
    """A function's blob, and the blobs that go before it."""

    content: bytes
    needs: tuple["Function", ...] = ()

    @property
    def id(self) -> str:
        return content_id(self.content, tuple(need.id for need in self.needs))

    @property
    def messages(self) -> list[Message]:
        """What a client says to make it known."""
        before = [message for need in self.needs for message in need.messages]
        return [*before, ("blob", self.id, self.content, tuple(need.id for need in self.needs))]


ARCHIVE = Function(b"archive of sources")
SQUARE = Function(b"square", (ARCHIVE,))
CUBE = Function(b"cube", (ARCHIVE,))
LAMBDA = Function(b"lambda")


@dataclass
class Grant:
    """One task as a worker got it."""

    token: int
    session: str
    function_id: str
    needs: tuple[str, ...]
    payload: bytes
    options: dict[str, object] = field(default_factory=dict)


@dataclass
class Nested:
    """A session that a task has opened: it speaks through its worker."""

    broker: "Broker"
    worker: int
    channel: int
    session: str

    @property
    def link(self) -> tuple[int, int]:
        return self.worker, self.channel

    def say(self, *messages: Message) -> list[Effect]:
        return self.broker.say(self.worker, ("relay", self.channel, list(messages)))

    def submit(self, *payloads: bytes, first: int = 0, function: Function = SQUARE) -> list[Effect]:
        return self.say(("submit", first, function.id, {}, list(payloads)))

    def close(self) -> list[Effect]:
        return self.broker.say(self.worker, ("relay_close", self.channel))


@dataclass
class Broker:
    """See the module. Connections are numbered as the shell would; time stands still unless a test moves it."""

    core: BrokerCore = field(default_factory=make_core)
    now: float = 1000.0
    inbox: dict[Link, list[Message]] = field(default_factory=lambda: defaultdict(list))
    closed: dict[Link, Close] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    roles: dict[int, str] = field(default_factory=dict)
    sessions: dict[Link, str] = field(default_factory=dict)  # of clients' connections
    outcomes: dict[tuple[str, int], tuple[str, bytes]] = field(default_factory=dict)  # every one ever told
    parts: dict[tuple[str, int], list[bytes]] = field(default_factory=lambda: defaultdict(list))  # of chunks
    granted: Counter[Link] = field(default_factory=Counter)  # how many tasks
    records: list[Record] = field(default_factory=list)  # what a journal would hold
    restarted: bool = False

    # --- peers -------------------------------------------------------------------------------------------------

    def client(self, session: str = "s", limit: int | None = None, lifetime: int | None = None, job: str = "") -> int:
        connection = self._connect("client")
        self.sessions[connection] = session
        self.handle(ClientCame(connection, session, limit, f"program {session}", lifetime, job))
        return connection

    def collector(self, job: str, collector: str = "c") -> int:
        """A client that attaches to a detached job."""
        connection = self._connect("client")
        self.handle(CollectorCame(connection, collector, job))
        self.sessions[connection] = str(self.core.job_state(job)["session"])
        return connection

    def worker(
        self,
        worker_id: str = "",
        slots: int = 1,
        want: int = 0,
        labels: Iterable[str] = (),
        holds: Iterable[int] | None = None,
        families: Iterable[str] = (),
    ) -> int:
        connection = self._connect("worker")
        worker_id = worker_id or f"w{connection}"
        held = None if holds is None else frozenset(holds)
        name = f"host-{worker_id}"
        self.handle(
            WorkerCame(connection, worker_id, name, slots, "3.11", frozenset(labels), held, frozenset(families))
        )
        if want:
            self.want(connection, want)
        return connection

    def monitor(self) -> int:
        return self._connect("monitor")

    def _connect(self, role: str) -> int:
        connection = len(self.roles) + 1
        self.roles[connection] = role
        return connection

    def restart(self) -> None:
        """The master ends, and a new one begins with its journal; no connection is left."""
        self.core = replayed(self.records)
        self.core.resume(self.now)
        self.records += self.core.take_records()
        self.inbox.clear()
        self.restarted = True
        check_invariants(self.core, self.restarted)

    # --- what happens ------------------------------------------------------------------------------------------

    def say(self, connection: int, *messages: Message) -> list[Effect]:
        return self.handle(Said(connection, check_batch(self.roles[connection], list(messages))))

    def want(self, worker: int, count: int) -> list[Effect]:
        """It would take so many tasks more."""
        return self.say(worker, self.wanting(worker, count))

    def wanting(self, worker: int, count: int) -> Message:
        return ("want", self.granted[worker] + count)

    def submit(
        self, client: int, *payloads: bytes, first: int = 0, function: Function = SQUARE, **options: object
    ) -> list[Effect]:
        return self.say(client, *function.messages, ("submit", first, function.id, options, list(payloads)))

    def settle(self, worker: int, token: int, kind: str = "result", content: bytes = b"") -> list[Effect]:
        return self.say(worker, ("settle", [(token, kind, content)]))

    def open(
        self,
        worker: int,
        channel: int,
        family: str = "s",
        depth: int = 1,
        limit: int | None = None,
        token: int | None = None,
    ) -> "Nested":
        """Have a task that runs on ``worker`` open a session of its own, on a channel; ``token``: its lease's."""
        nested = Nested(self, worker, channel, f"{family}/{worker}-{channel}")
        info: dict[str, object] = {"session": nested.session, "limit": limit, "name": "a task", "depth": depth}
        if token is not None:
            info["task"] = token
        self.sessions[worker, channel] = nested.session
        self.say(worker, ("relay_open", channel, family, info))
        return nested

    def leave(self, connection: int, delivered: bool = False) -> list[Effect]:
        return self.handle(Gone(connection, delivered))

    def call(self, connection: int, method: str, *args: object, queue: str = "get_task_queue") -> list[Effect]:
        return self.handle(Called(connection, queue, method, args, {}))

    def tick(self, seconds: float = 0.5) -> list[Effect]:
        self.now += seconds
        return self.handle(Tick())

    def pass_time(self, seconds: float, *alive: int) -> None:
        """Let time pass in small steps, as it does for a master that runs; the workers ``alive`` are heard."""
        end = self.now + seconds
        while self.now < end:
            for worker in alive:
                self.handle(Heard(worker))
            self.tick(min(0.5, end - self.now))

    def handle(self, event: Event) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        for effect in effects:
            match effect:
                case Send(connection, message):
                    if connection not in self.closed:
                        self.inbox[connection].append(message)
                    self._note(connection, message)
                case Close(connection):
                    self.closed[connection] = effect
                case Note():
                    self.notes.append(effect)
                case Reply():
                    self.replies.append(effect)
        self.records += self.core.take_records()
        check_invariants(self.core, self.restarted)
        return effects

    def _note(self, connection: Link, message: Message) -> None:
        match message:
            case ("grant", *_, list(tasks)):
                self.granted[connection] += len(tasks)
            case ("outcomes", list(rows)):
                for sequence, kind, content, _ in rows:
                    if kind == "part":
                        self.parts[self.sessions[connection], sequence].append(content)
                        continue
                    told = self.outcomes.setdefault((self.sessions[connection], sequence), (kind, content))
                    assert told == (kind, content), "a task has two outcomes"

    # --- what peers were sent ----------------------------------------------------------------------------------

    def take(self, connection: Link) -> list[Message]:
        """What a peer was sent since it was asked last."""
        return self.inbox.pop(connection, [])

    def grants(self, worker: int) -> list[Grant]:
        """The tasks a worker was granted since it was asked last, in order."""
        return [
            Grant(token, session, function_id, needs, payload, options)
            for name, *fields in self.take(worker)
            if name == "grant"
            for session, function_id, needs, options, rows in [fields_of_grant(fields)]
            for token, payload in rows
        ]

    def payloads(self, worker: int) -> list[bytes]:
        return [grant.payload for grant in self.grants(worker)]

    def results(self, client: Link) -> dict[int, tuple[str, bytes]]:
        """The outcomes a client was sent since it was asked last, without the parts of chunks."""
        told: list[Any] = [row for name, *fields in self.take(client) if name == "outcomes" for row in _rows(fields)]
        rows = [row for row in told if row[1] != "part"]
        assert len({sequence for sequence, _, _, _ in rows}) == len(rows)
        return {sequence: (kind, content) for sequence, kind, content, _ in rows}

    def count(self, name: str) -> Any:
        return self.core.statistics()[name]


def fields_of_grant(fields: list[Any]) -> tuple[str, str, tuple[str, ...], dict[str, object], list[tuple[int, bytes]]]:
    session, function_id, needs, options, rows = fields
    return session, function_id, needs, options, rows


def _rows(fields: list[Any]) -> list[Any]:
    (rows,) = fields
    assert rows  # an empty message says nothing
    return list(rows)


def check_replay(broker: Broker) -> None:
    """The records lead to what the core knows, and so does its snapshot."""
    known = [*broker.core.snapshot()]
    assert [*replayed(broker.records).snapshot()] == known
    assert [*replayed(known).snapshot()] == known


def check_invariants(core: BrokerCore, restarted: bool = False) -> None:
    """What must hold after every event, whatever has happened."""
    ledger, workers = core._ledger, core._workers
    ready, lines, sessions = ledger.ready, ledger.ready._lines, ledger.sessions
    shelves = [(name, kind, shelf) for name, line in lines.items() for kind, shelf in line.shelves.items()]
    delayed = [task for _, task in ledger.delayed]
    queued = [task for _, _, shelf in shelves for task in shelf.values()] + delayed
    for name, kind, shelf in shelves:
        assert shelf, "an empty shelf"
        for number, task in shelf.items():
            assert (name, number) == (task.session, task.sequence)
            assert kind == (task.options.labels, task.options.priority)
    leased = list(ledger.leases)

    # Each task is in one place, and its state says in which.
    places = Counter((task.session, task.sequence) for task in queued)
    places += Counter((task.session, task.sequence) for _, _, task in leased)
    places += Counter((name, sequence) for name, session in sessions.items() for sequence in session.outcomes)
    assert all(count == 1 for count in places.values()), "a task is in two places"
    assert all(task.state is TaskState.QUEUED for task in queued)
    assert all(task.state is TaskState.LEASED for _, _, task in leased)
    assert all(session in sessions for session, _ in places)
    assert all(sequence < sessions[session].next_sequence for session, sequence in places)

    # What has not begun and expires is known to do so.
    assert ledger.expiring._tasks == {task for task in queued if task.expires_at is not None and not task.begun}
    assert ledger.expiring._tasks <= {task for _, _, task in ledger.expiring._heap}

    tasks = queued + [task for _, _, task in leased]
    assert (ledger.unfinished, ledger.task_bytes) == (len(tasks), sum(len(task.payload) for task in tasks))
    functions = {name for task in tasks if ledger.blobs.size(name := task.function_id) >= ledger.large_bytes}
    assert ledger.function_bytes == sum(map(ledger.blobs.size, functions))

    # None is lost from the counts.
    counts = core.statistics()
    ended = ("queued", "leased", "done", "failed", "dead", "cancelled", "expired")
    assert counts["submitted"] == sum(int(str(counts[name])) for name in ended)

    # None is leased more than its slots are worth, whatever it wants.
    for worker in workers.by_connection.values():
        assert len(ledger.leases.of(worker.worker_id)) + worker.wanted <= worker.slots * LEASES_PER_SLOT
    for name, session in sessions.items():
        ends = sum(session.counts[end] for end in ended[2:])
        assert session.counts["submitted"] == ends + sum(ledger.places(name))

    # Leases belong to living workers, and the lines count them.
    assert {c: w.worker_id for c, w in workers.by_connection.items()} == {
        w.connection: worker_id for worker_id, w in workers._by_id.items()
    }
    awaited = core._awaited_until is not None  # after a restart: workers and sessions of tasks that are not back yet
    assert awaited or {worker for worker, _, _ in leased} <= set(workers._by_id)
    assert all(ledger.leases._held.values())
    assert len({token for _, token, _ in leased}) == len(leased)
    of_session = Counter(task.session for _, _, task in leased)
    assert {name: line.leased for name, line in lines.items()} == {name: of_session[name] for name in lines}
    assert all(line.limit is None or line.leased <= line.limit for line in lines.values())
    assert set(lines) == set(sessions)

    # Whoever can take a turn has one; whoever wants a task and could have one has it.
    assert Counter(ready._turns) == Counter({line.family for line in lines.values() if line.able})
    assert set(ready._turns) == ready._in_turns
    assert set(workers._hungry) == {c for c, w in workers.by_connection.items() if w.wanted > 0 and not w.draining}
    for worker in workers._hungry.values():
        assert not ready.available(worker.labels), "a task waits beside a worker that wants one"

    # A family is a program's session and what its tasks have opened; the deepest is first in line.
    families = {name: session.family for name, session in sessions.items()}
    assert set(families.values()) <= set(sessions)
    assert {line.session: line.family for family in ready._families.values() for line in family} == families
    for family in ready._families.values():
        depths = [line.depth for line in family]
        assert depths == sorted(depths, reverse=True)

    # Code is there as long as somebody may need it, and no longer.
    blobs = ledger.blobs._blobs
    assert all(
        ledger.blobs.has(task.session, task.function_id) or ledger.blobs.has(families[task.session], task.function_id)
        for task in tasks
    )
    holders = {*sessions, "dead-letters"} if len(ledger.letters) else set(sessions)
    assert all(blob.sessions and blob.sessions <= holders for blob in blobs.values())
    assert all(worker.known <= set(blobs) for worker in workers.by_connection.values())
    for holder, _, task in [] if restarted else leased:  # the master does not know what a worker had before
        assert {task.function_id, *ledger.blobs.needs(task.function_id)} <= workers._by_id[holder].known

    # So is that of dead letters, whose bytes are counted; those that are run again have a session, and nobody else has.
    needed = {blob_id for letter in ledger.letters for blob_id in ledger.blobs.reach(letter.function_id)}
    assert needed == {blob_id for blob_id, blob in blobs.items() if "dead-letters" in blob.sessions}
    weights = [letter.weight for letter in ledger.letters] + [ledger.blobs.size(blob_id) for blob_id in needed]
    assert ledger.letters.size_bytes == sum(weights)
    assert set(ledger.letters.running) == {name for name in sessions if is_ours(name)}

    # A connection or channel serves one session, both ways; a channel is as good as its worker.
    assert {c: s.session_id for c, s in core._clients.by_link.items()} == {
        s.link: s.session_id for s in sessions.values() if s.link is not None
    }
    assert {link[0] for link in core._clients.by_link if isinstance(link, tuple)} <= set(workers.by_connection)
    assert all(isinstance(s.link, tuple) or (awaited and s.link is None) for s in sessions.values() if s.nested)

    # What waits for clients is counted; who is here is held only for what he can acknowledge.
    for name, session in sessions.items():
        assert session.result_bytes == sum(len(row[2]) for row in session.all_rows())
        assert session.link is None or not lines[name].held or session.outcomes or session.job
        assert not (session.nested and lines[name].held)

    # A detached job is found by its name, and keeps what comes of its tasks until that was used.
    assert {session.job: session for session in sessions.values() if session.job} == ledger.jobs
    for job in (job for job in ledger.jobs.values() if job.sealed):
        here = {task.sequence for task in tasks if task.session == job.session_id} | set(job.outcomes)
        assert here == set(range(job.dropped, job.next_sequence)), "a task of a detached job is lost"

    # What came of a chunk is kept until its client has acknowledged the whole.
    unfinished = {(task.session, task.sequence) for task in (*queued, *(task for _, _, task in leased))}
    for name, session in sessions.items():
        assert all((name, n) in unfinished or n in session.outcomes for n in session.parts)
