"""multihost/broker/core.py under any history: each submitted task and each item of a chunk ends in one outcome.

Clients and workers come, speak, fall silent, die and return at random; tasks open sessions of their own. ``Broker``
checks the core's invariants after each event; here is what the peers may expect.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from multihost.broker.events import Heard
from multihost.broker.letters import DeadLetter, is_ours
from multihost.broker.members import Link
from multihost.broker.records import Record
from multihost.broker.tasks import MAX_DELIVERIES
from multihost.errors import TaskExpired, WorkerDied
from multihost.payload import dump_part, load_error, load_part
from multihost.wire.messages import Message
from tests.unit.brokers import CUBE, LAMBDA, LEASE_TIMEOUT, SQUARE, Broker, Function, check_replay

PICK = st.integers(0, 1 << 16)
FUNCTIONS = (SQUARE, CUBE, LAMBDA)
ITEMS = 4  # of each chunk
WHOLE = ("result", dump_part(ITEMS, 0.0, [], {}))  # how the master ends a chunk whose last item it gives up
OPTIONS: list[dict[str, Any]] = [
    {},
    {},
    {"chunk": ("map", ITEMS)},
    {"retries": 2, "backoff": 1.0},
    {"retries": 1, "backoff": 20.0, "priority": 5},
    {"delay": 3.0, "priority": 5},
    {"expires": 4.0},
    {"expires": 4.0, "delay": 1.0, "retries": 1, "backoff": 5.0},
    {"expires": 1.0, "chunk": ("map", ITEMS), "labels": ("gpu",)},
    {"priority": -3, "name": "unimportant"},
    {"labels": ("gpu",)},
    {"labels": ("gpu",), "chunk": ("starmap", ITEMS), "priority": 1},
]
TaskName = tuple[str, int]  # session and sequence number


@dataclass
class Submit:
    """What may be said again when its answer was lost."""

    first: int
    count: int
    function: int
    options: dict[str, Any]


@dataclass
class Client:
    """A session as its program, or the task that opened it, knows it."""

    session: str
    link: Link | None
    family: str = ""  # the program's session; empty: this is one
    depth: int = 0
    opener: str = ""  # the worker that runs the task that opened it
    next: int = 0
    submitted: set[int] = field(default_factory=set)
    outcomes: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    parts: dict[int, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    acknowledged: set[int] = field(default_factory=set)
    last: Submit | None = None

    @property
    def nested(self) -> bool:
        return self.depth > 0


@dataclass
class Held:
    """A lease, as the worker knows it: for a chunk, how many items had ended before."""

    task: TaskName
    family: str
    done: int
    depth: int
    begun: bool = False  # whether the worker has said so


@dataclass
class Worker:
    worker_id: str
    labels: frozenset[str]
    held: dict[int, Held] = field(default_factory=dict)  # by token
    draining: bool = False


@dataclass
class Task:
    """What has happened to a task, as everybody but the master sees it."""

    options: dict[str, Any]
    losses: int = 0  # since the last retry or ended item
    tries: int = 0
    due: float = 0.0  # of the next try, or of the first
    expires_at: float = float("inf")
    done: int = 0  # items of a chunk that have ended
    dead: set[int] = field(default_factory=set)  # items that were given up
    settled: tuple[str, bytes] | None = None  # what a worker said in time
    spent: bool = False
    begun: bool = False  # a delivery came to something, if only to its loss

    def lose(self) -> None:
        if "chunk" in self.options and self.done == ITEMS:
            self.settled = WHOLE
            return
        self.losses += 1
        self.begun = True
        if self.losses == MAX_DELIVERIES and "chunk" in self.options:
            self.dead.add(self.done)
            self.done += 1
            self.losses = 0
            if self.done == ITEMS:
                self.settled = WHOLE
        self.spent = self.losses == MAX_DELIVERIES


def pick(pick: int, among: list[Any]) -> Any:
    return among[pick % len(among)]


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.clients: list[Client] = []
        self.workers: dict[int, Worker] = {}
        self.away: list[Worker] = []  # those that have not come back since the master's restart
        self.tokens: set[int] = set()  # every one ever granted
        self.tasks: dict[TaskName, Task] = {}
        self.sessions = self.ids = self.channels = 0
        self.snapshot: Iterator[Record] | None = None  # of a compaction that has begun when there were so many records
        self.compacted = 0

    # --- what peers were sent ----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Let all peers read what they were sent."""
        self.give_up_the_absent()
        for connection in [connection for connection in self.workers if connection in self.broker.closed]:
            self.lost(connection)
        for connection, worker in self.workers.items():
            self.read(connection, worker)
        # A session may have ended while its client was away, or with the one whose task opened it.
        self.clients = [client for client in self.clients if self.broker.core.knows(client.session)]
        for client in self.clients:
            assert not client.nested or client.link is None or client.link[0] in self.workers  # type: ignore[index]
            if client.link is not None:
                self.hear(client, self.broker.take(client.link))
        known = {client.session for client in self.clients} | self.letters_that_run()
        assert {client.family for client in self.clients if client.nested} <= known
        for worker in self.workers.values():
            assert {lease.task[0] for lease in worker.held.values()} <= known, "a task of a session that has ended runs"
        self.forget_the_absent(known)
        holders = [*self.workers.values(), *self.away]
        leased = Counter(lease.task for worker in holders for lease in worker.held.values())
        assert all(count == 1 for count in leased.values()), "a task is held twice"
        assert self.broker.count("leased") == len(leased)

    def letters_that_run(self) -> set[str]:
        """The sessions of dead letters that were requeued; each letter's state is what came of it."""
        letters = self.broker.core._ledger.letters
        for letter in letters:
            task = self.tasks.get((letter.home, 0))
            if task is None or task.spent:
                assert letter.state == "dead"
            elif task.settled is not None:
                assert letter.state == {"result": "done", "error": "failed"}[task.settled[0]]
            else:
                assert letter.state == "requeued"
        return set(letters.running)

    def give_up_the_absent(self) -> None:
        """The master waits no longer for workers that are not back."""
        if self.broker.core._awaited_until is None:
            for worker in self.away:
                self.lose_all(worker)
            self.away = []

    def forget_the_absent(self, known: set[str]) -> None:
        """Workers that are not back hold nothing of what has ended meanwhile."""
        ended = {(client.session, sequence) for client in self.clients for sequence in client.outcomes}
        for worker in self.away:
            leases = worker.held.items()
            worker.held = {token: h for token, h in leases if h.task not in ended and h.task[0] in known}

    def read(self, connection: int, worker: Worker) -> None:
        for name, *fields in self.broker.take(connection):
            match name, fields:
                case "grant", [str(family), _, _, dict(options), list(rows)]:
                    for token, payload in rows:
                        self.is_granted_rightly(worker, family, token, payload, options)
                case "stop", [list(tokens)]:
                    for token in tokens:
                        del worker.held[token]
                case "forget", [str(family), _]:
                    worker.held = {token: lease for token, lease in worker.held.items() if lease.family != family}

    def is_granted_rightly(
        self, worker: Worker, family: str, token: int, payload: bytes, options: dict[str, Any]
    ) -> None:
        session, number = (family, "0") if is_ours(family) and "depth" not in options else payload.decode().split()
        task = self.tasks[session, int(number)]
        assert not worker.draining
        assert token not in self.tokens
        assert task.settled is None, "a task that has its outcome is run again"
        assert task.losses < MAX_DELIVERIES
        assert task.due <= self.broker.now, "the next try comes too early"
        assert task.begun or self.broker.now < task.expires_at, "what has expired is run"
        assert set(task.options.get("labels", ())) <= worker.labels
        assert options.get("done", 0) == task.done, "an item that has ended is run again, or one that has not is not"
        assert options.get("chunk") == task.options.get("chunk", (None,))[0]
        assert ("careful" in options) == (task.losses > 0)
        self.tokens.add(token)
        worker.held[token] = Held((session, int(number)), family, task.done, int(options.get("depth", 0)))

    def hear(self, client: Client, messages: list[Message]) -> None:
        for name, *fields in messages:
            if name == "outcomes":
                for sequence, kind, content, _ in fields[0]:  # type: ignore[attr-defined]
                    self.is_told_rightly(client, sequence, kind, content)

    def is_told_rightly(self, client: Client, sequence: int, kind: str, content: bytes) -> None:
        assert sequence not in client.acknowledged, "an outcome is told after it was acknowledged"
        task = self.tasks[client.session, sequence]
        if kind == "part":
            assert sequence not in client.outcomes
            client.parts[sequence].append(content)
            return
        assert client.outcomes.setdefault(sequence, (kind, content)) == (kind, content)
        self.items_are_whole(client, sequence)
        if kind == "cancelled":
            assert task.settled is None
        elif task.settled is not None:
            assert (kind, content) == task.settled
        else:
            error = load_error(content)
            if isinstance(error, TaskExpired):
                assert task.expires_at <= self.broker.now
                assert not task.begun
                return
            assert task.spent
            assert isinstance(error, WorkerDied)
            assert len(error.losses) == MAX_DELIVERIES

    def items_are_whole(self, client: Client, sequence: int) -> None:
        """The items of a chunk that have ended before it are told, each once and in order, those given up as such."""
        task, told = self.tasks[client.session, sequence], 0
        for part in client.parts.get(sequence, []):
            start, _, outcomes = load_part(part)
            assert start == told, "an item has two outcomes, or none"
            assert {start + place for place in outcomes.errors} == task.dead & {*range(start, start + len(outcomes))}
            told += len(outcomes)
        assert told == task.done

    def lost(self, connection: int) -> None:
        """The master has given up a worker, and with it what it held, also what it had not read of yet."""
        worker = self.workers.pop(connection)
        self.read(connection, worker)
        self.lose_all(worker)

    def lose_all(self, worker: Worker) -> None:
        """A task that was there at another loss is only blamed if it had begun."""
        for lease in worker.held.values():
            task = self.tasks[lease.task]
            if lease.begun or not task.losses:
                task.lose()

    def say(self, client: Client, *messages: Message) -> None:
        if isinstance(client.link, tuple):
            connection, channel = client.link
            self.broker.say(connection, ("relay", channel, list(messages)))
        else:
            assert client.link is not None
            self.broker.say(client.link, *messages)

    def talking(self, which: int) -> Client | None:
        """One of the clients, if it has a connection."""
        client: Client = pick(which, self.clients)
        return client if client.link is not None else None

    # --- clients -----------------------------------------------------------------------------------------------

    @rule(limit=st.none() | st.integers(1, 3))
    def client_comes(self, limit: int | None) -> None:
        self.sessions += 1
        session = f"session-{self.sessions}"
        self.clients.append(Client(session, self.broker.client(session, limit)))
        self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK)
    def client_leaves(self, which: int) -> None:
        client = self.talking(which)
        if client is not None and not isinstance(client.link, tuple):
            assert client.link is not None
            self.broker.leave(client.link)
            client.link = None
            self.listen()

    @precondition(lambda self: any(not client.nested for client in self.clients))
    @rule(which=PICK)
    def client_returns(self, which: int) -> None:
        """Also over a connection that the master still takes for alive."""
        client: Client = pick(which, [client for client in self.clients if not client.nested])
        old, client.link = client.link, self.broker.client(client.session)
        if old is not None:
            assert old in self.broker.closed
            self.broker.leave(old)  # type: ignore[arg-type]
        self.is_told_again(client, self.broker.take(client.link))
        self.listen()

    def is_told_again(self, client: Client, messages: list[Message]) -> None:
        """All that it has not acknowledged."""
        before, client.parts = client.parts, defaultdict(list)
        known, client.outcomes = client.outcomes, {}
        self.hear(client, messages)
        assert all(client.outcomes[sequence] == known[sequence] for sequence in set(known) - client.acknowledged)
        client.outcomes = known | client.outcomes
        for sequence, parts in before.items():
            if sequence not in client.acknowledged:
                assert client.parts[sequence][: len(parts)] == parts

    @precondition(lambda self: self.clients)
    @rule(
        which=PICK,
        count=st.integers(1, 6),
        gap=st.integers(0, 2),
        function=st.integers(0, 2),
        options=st.sampled_from(OPTIONS),
    )
    def submit(self, which: int, count: int, gap: int, function: int, options: dict[str, Any]) -> None:
        if client := self.talking(which):
            first = client.next + gap
            client.last = Submit(first, count, function, options)
            client.next = first + count
            for sequence in range(first, first + count):
                client.submitted.add(sequence)
                task = self.tasks[client.session, sequence] = Task(options)
                task.due = self.broker.now + options.get("delay", 0.0)
                task.expires_at = self.broker.now + options.get("expires", float("inf"))
            self.submit_last(client)

    @precondition(lambda self: self.clients)
    @rule(which=PICK)
    def submit_again(self, which: int) -> None:
        client = self.talking(which)
        if client is not None and client.last is not None:
            self.submit_last(client)

    def submit_last(self, client: Client) -> None:
        assert client.last is not None
        assert client.link is not None
        first, last, function = (
            client.last.first,
            client.last.first + client.last.count,
            FUNCTIONS[client.last.function],
        )
        payloads = [f"{client.session} {sequence}".encode() for sequence in range(first, last)]
        self.say(client, *function.messages, ("submit", first, function.id, dict(client.last.options), payloads))
        assert ("accepted", client.next) in self.broker.inbox[client.link]
        self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK, some=st.sets(st.sampled_from(FUNCTIONS), min_size=1))
    def release(self, which: int, some: set[Function]) -> None:
        """Also of what its tasks need: they run all the same."""
        if client := self.talking(which):
            assert client.link is not None
            self.say(client, ("release", [function.id for function in some]))
            assert ("released", [function.id for function in some]) in self.broker.inbox[client.link]
            self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK, some=st.sets(st.integers(0, 20)))
    def acknowledge(self, which: int, some: set[int]) -> None:
        if client := self.talking(which):
            sequences = sorted(some & set(client.outcomes))
            client.acknowledged |= set(sequences)
            self.say(client, ("acknowledge", sequences))
            self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK, some=st.sets(st.integers(0, 20), min_size=1), running=st.booleans())
    def cancel(self, which: int, some: set[int], running: bool) -> None:
        if client := self.talking(which):
            assert client.link is not None
            holders = [*self.workers.values(), *self.away]
            held = {lease.task for worker in holders for lease in worker.held.values()}
            self.say(client, ("cancel", sorted(some), running))
            said = self.broker.inbox[client.link]
            late = {sequence for name, *fields in said if name == "too_late" for sequence in fields[0]}  # type: ignore[attr-defined]
            self.listen()
            cancelled = {sequence for sequence in some if client.outcomes.get(sequence) == ("cancelled", b"")}
            assert late | cancelled == some
            unfinished = {(client.session, sequence) for sequence in late & client.submitted - set(client.outcomes)}
            assert unfinished <= (set() if running else held), "a task that could be cancelled was not"

    @precondition(lambda self: self.clients)
    @rule(which=PICK)
    def close(self, which: int) -> None:
        if client := self.talking(which):
            self.say(client, ("close",))
            assert not self.broker.core.knows(client.session)
            if not isinstance(client.link, tuple):
                assert client.link is not None
                self.broker.leave(client.link)
            self.listen()

    # --- sessions that tasks open ------------------------------------------------------------------------------

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(which=PICK, task=PICK, limit=st.none() | st.integers(1, 2))
    def task_opens_session(self, which: int, task: int, limit: int | None) -> None:
        connection: int = pick(which, [c for c, worker in self.workers.items() if worker.held])
        lease: Held = pick(task, [*self.workers[connection].held.values()])
        self.channels += 1
        nested = self.broker.open(connection, self.channels, lease.family, lease.depth + 1, limit)
        ((name, channel, answer),) = self.broker.take(connection)
        assert (name, channel, answer["accepted"]) == ("relay_open", self.channels, 0)  # type: ignore[index]
        opener = self.workers[connection].worker_id
        self.clients.append(Client(nested.session, nested.link, lease.family, lease.depth + 1, opener))
        self.listen()

    @precondition(lambda self: any(client.nested and client.link is not None for client in self.clients))
    @rule(which=PICK)
    def task_ends_with_its_session_open(self, which: int) -> None:
        client: Client = pick(which, [c for c in self.clients if c.nested and c.link is not None])
        connection, channel = client.link  # type: ignore[misc]
        self.broker.say(connection, ("relay_close", channel))
        assert not self.broker.core.knows(client.session)
        self.listen()

    @precondition(lambda self: any(client.nested and client.link is not None for client in self.clients))
    @rule(which=PICK)
    def task_breaks_the_rules(self, which: int) -> None:
        """That ends its session; its worker serves on."""
        client: Client = pick(which, [c for c in self.clients if c.nested and c.link is not None])
        assert client.link is not None
        self.say(client, ("submit", -1, SQUARE.id, {}, [b""]))
        assert self.broker.take(client.link)[-1][0] == "refused"
        assert not self.broker.core.knows(client.session)
        self.listen()

    # --- workers -----------------------------------------------------------------------------------------------

    @rule(want=st.integers(0, 5), labels=st.sampled_from([(), ("gpu",), ("gpu", "ssd")]))
    def worker_comes(self, want: int, labels: tuple[str, ...]) -> None:
        self.ids += 1
        self.register(f"worker-{self.ids}", want, frozenset(labels))

    def register(self, worker_id: str, want: int, labels: frozenset[str]) -> None:
        connection = self.broker.worker(worker_id, labels=labels)
        self.workers[connection] = Worker(worker_id, labels)
        self.listen()
        self.broker.want(connection, want)
        self.listen()

    @precondition(lambda self: self.workers)
    @rule(which=PICK, want=st.integers(0, 5))
    def worker_returns(self, which: int, want: int) -> None:
        """A worker dials anew before the master has noticed that its old connection is gone."""
        old: int = pick(which, [*self.workers])
        worker = self.workers[old]
        self.register(worker.worker_id, want, worker.labels)
        assert old in self.broker.closed
        assert old not in self.workers
        self.broker.leave(old)
        self.listen()

    @precondition(lambda self: self.workers)
    @rule(which=PICK, count=st.integers(0, 8))
    def want(self, which: int, count: int) -> None:
        self.broker.want(pick(which, [*self.workers]), count)
        self.listen()

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(which=PICK, count=st.integers(1, 4), kind=st.sampled_from(["result", "result", "error", "retry", "lost"]))
    def settle(self, which: int, count: int, kind: str) -> None:
        connection: int = pick(which, [c for c, worker in self.workers.items() if worker.held])
        worker = self.workers[connection]
        rows: list[tuple[int, str, bytes]] = []
        for token in [*worker.held][:count]:
            lease = worker.held.pop(token)
            task, content = self.tasks[lease.task], f"{kind} of {lease.task} by {token}".encode()
            rows.append((token, kind, content))
            if kind == "lost":
                task.lose()
            elif kind == "retry" and task.tries < task.options.get("retries", 0):
                task.due = self.broker.now + task.options["backoff"] * 2**task.tries
                task.tries += 1
                task.begun = True
                task.losses = 0
            else:
                task.settled = "error" if kind == "retry" else kind, content
        self.broker.say(connection, ("settle", rows))
        self.listen()

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(which=PICK, task=PICK)
    def task_begins(self, which: int, task: int) -> None:
        connection: int = pick(which, [c for c, worker in self.workers.items() if worker.held])
        held = self.workers[connection].held
        token: int = pick(task, [*held])
        held[token].begun = True
        self.broker.say(connection, ("begun", [token, 10_000_000]))
        self.listen()

    @precondition(lambda self: self.chunks())
    @rule(which=PICK, count=st.integers(1, ITEMS))
    def items_end(self, which: int, count: int) -> None:
        connection, token = pick(which, self.chunks())
        lease = self.workers[connection].held[token]
        task = self.tasks[lease.task]
        count = min(count, ITEMS - task.done)
        part = dump_part(task.done, 0.0, [f"item of {token}"] * count, {})
        task.done += count
        task.begun = True
        task.losses = 0
        lease.done = task.done
        self.broker.say(connection, ("parts", [(token, count, part)]))
        self.listen()

    def chunks(self) -> list[tuple[int, int]]:
        """Connection and token of each lease of a chunk that has items left."""
        return [
            (connection, token)
            for connection, worker in self.workers.items()
            for token, lease in worker.held.items()
            if "chunk" in self.tasks[lease.task].options and self.tasks[lease.task].done < ITEMS
        ]

    @precondition(lambda self: self.workers and self.tokens)
    @rule(which=PICK, token=PICK, kind=st.sampled_from(["result", "error", "retry", "lost"]))
    def settle_what_is_not_held(self, which: int, token: int, kind: str) -> None:
        connection: int = pick(which, [*self.workers])
        stale: int = pick(token, sorted(self.tokens))
        if stale not in self.workers[connection].held:
            before = self.broker.core.statistics() | {"stale": 0}
            said: list[Message] = [("settle", [(stale, kind, b"stale")]), ("give_back", [stale])]
            self.broker.say(connection, *said, ("parts", [(stale, 1, b"stale")]), ("output", [(stale, "stale")]))
            assert self.broker.core.statistics() | {"stale": 0} == before
            self.listen()

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(which=PICK, count=st.integers(1, 4))
    def give_back(self, which: int, count: int) -> None:
        connection: int = pick(which, [c for c, worker in self.workers.items() if worker.held])
        worker = self.workers[connection]
        tokens = [*worker.held][:count]
        for token in tokens:
            del worker.held[token]
        self.broker.say(connection, ("give_back", tokens))
        self.listen()

    @precondition(lambda self: self.workers)
    @rule(which=PICK)
    def drain(self, which: int) -> None:
        connection: int = pick(which, [*self.workers])
        self.broker.say(connection, ("drain",))
        self.listen()
        self.workers[connection].draining = True

    @precondition(lambda self: self.workers)
    @rule(which=PICK)
    def worker_dies(self, which: int) -> None:
        connection: int = pick(which, [*self.workers])
        self.broker.closed.setdefault(connection, None)  # type: ignore[arg-type]  # it reads nothing any more
        self.broker.leave(connection)
        self.listen()

    @precondition(lambda self: self.workers)
    @rule(which=PICK, token=PICK)
    def worker_breaks_the_rules(self, which: int, token: int) -> None:
        """What it said before counts, nothing after it."""
        connection: int = pick(which, [*self.workers])
        self.broker.say(connection, ("settle", []), ("want", -1), self.broker.wanting(connection, 5))
        assert connection in self.broker.closed
        self.broker.leave(connection)
        self.listen()

    # --- dead letters ------------------------------------------------------------------------------------------

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(which=PICK)
    def task_kills_whatever_runs_it(self, which: int) -> None:
        """As long as there is a worker that takes it."""
        held: list[Held] = [lease for worker in self.workers.values() for lease in worker.held.values()]
        name = pick(which, held).task
        while holders := [
            (connection, token)
            for connection, worker in self.workers.items()
            for token, lease in worker.held.items()
            if lease.task == name
        ]:
            connection, token = holders[0]
            del self.workers[connection].held[token]
            self.tasks[name].lose()
            lost = ("settle", [(token, "lost", b"killed")])
            self.broker.say(connection, lost, self.broker.wanting(connection, 1))
            self.listen()

    @precondition(lambda self: len(self.broker.core._ledger.letters) > 0)
    @rule(which=PICK, what=st.sampled_from(["dead_drop", "dead_requeue", "dead_requeue"]))
    def dead_letter_is_decided_on(self, which: int, what: str) -> None:
        letters = self.broker.core._ledger.letters
        letter: DeadLetter = pick(which, [*letters])
        runs = letter.home in letters.running
        if what == "dead_requeue" and not runs:
            kept = ("retries", "backoff", "labels", "priority")
            self.tasks[letter.home, 0] = Task({name: letter.options[name] for name in kept if name in letter.options})
        monitor = self.broker.monitor()
        self.broker.say(monitor, (what, [letter.number]))
        problem = "it was requeued, and has not ended yet" if runs and what == "dead_requeue" else ""
        assert self.broker.take(monitor) == [("dead_done", [(letter.number, problem)])]
        self.listen()

    # --- time --------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2.0, LEASE_TIMEOUT / 2, LEASE_TIMEOUT + 1]), alive=st.integers(0, 7))
    def time_passes(self, seconds: float, alive: int) -> None:
        """``alive`` says, in its bits, which workers are heard meanwhile."""
        heard = [connection for n, connection in enumerate(self.workers) if alive >> (n % 3) & 1]
        end = self.broker.now + seconds
        while self.broker.now < end:  # what is granted meanwhile is read when it comes
            self.broker.pass_time(min(0.5, end - self.broker.now), *heard)
            self.listen()
        assert not set(heard) & set(self.broker.closed)
        self.listen()

    @rule()
    def master_stands_still(self) -> None:
        self.broker.tick()
        closed = set(self.broker.closed)
        self.broker.tick(10_000.0)
        assert set(self.broker.closed) == closed
        self.listen()

    # --- restarts of the master --------------------------------------------------------------------------------

    @rule()
    def master_restarts(self) -> None:
        self.broker.restart()
        self.away += self.workers.values()
        self.workers = {}
        for client in self.clients:
            client.link = None
        self.snapshot = None  # a compaction that was under way is not
        self.listen()

    @precondition(lambda self: self.away)
    @rule(which=PICK, unheard=PICK)
    def worker_comes_back(self, which: int, unheard: int) -> None:
        """Of what it was granted last, one task may not have reached it; and it may hold what has ended meanwhile."""
        worker = self.away.pop(which % len(self.away))
        if unheard % 5 == 0:  # it is one that keeps nothing
            self.lose_all(worker)
            self.workers[self.broker.worker(worker.worker_id, labels=worker.labels)] = Worker(
                worker.worker_id, worker.labels
            )
            self.listen()
            return
        ended = sorted(self.tokens - {token for one in (worker, *self.away) for token in one.held})[:2]
        if unheard % 3 == 0 and worker.held:
            del worker.held[max(worker.held)]
        connection = self.broker.worker(worker.worker_id, labels=worker.labels, holds=[*worker.held, *ended])
        self.workers[connection] = Worker(worker.worker_id, worker.labels, worker.held)
        if ended:
            assert self.broker.inbox[connection].pop(0) == ("stop", ended)
        self.listen()

    @precondition(lambda self: any(client.nested and client.link is None for client in self.clients))
    @rule(which=PICK)
    def task_opens_its_session_again(self, which: int) -> None:
        client: Client = pick(which, [c for c in self.clients if c.nested and c.link is None])
        back = [connection for connection, worker in self.workers.items() if worker.worker_id == client.opener]
        if back:
            self.channels += 1
            client.link = back[0], self.channels
            self.broker.sessions[client.link] = client.session
            info = {"session": client.session, "limit": None, "name": "a task", "depth": client.depth}
            self.broker.say(back[0], ("relay_open", self.channels, client.family, info))
            ((name, channel, answer),) = self.broker.take(back[0])
            assert (name, channel, answer["known"]) == ("relay_open", self.channels, True)  # type: ignore[index]
            assert answer["accepted"] == client.next  # type: ignore[index]
            self.is_told_again(client, self.broker.take(client.link))
            self.listen()

    # --- the journal -------------------------------------------------------------------------------------------

    @rule()
    def compaction_begins(self) -> None:
        self.snapshot, self.compacted = self.broker.core.snapshot(), len(self.broker.records)

    @precondition(lambda self: self.snapshot is not None)
    @rule()
    def compaction_ends(self) -> None:
        """What has happened since it began is behind it."""
        assert self.snapshot is not None
        self.broker.records[: self.compacted] = self.snapshot
        self.snapshot = None
        check_replay(self.broker)

    # --- the promise -------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """All clients return and one good worker serves: then every task of an open session has its outcome."""
        check_replay(self.broker)
        for which in range(sum(not client.nested for client in self.clients)):
            self.client_returns(which)
        for connection in [*self.workers]:
            self.broker.handle(Heard(connection))
        self.register("the last", 1_000_000, frozenset({"gpu"}))
        while self.away:
            self.time_passes(2.0, 7)
        while self.broker.count("queued") or self.broker.count("leased"):
            while any(worker.held for worker in self.workers.values()):
                self.settle(0, 1000, "result")
                self.want(0, 1_000_000)
            self.time_passes(2.0, 7)  # for those that are to be tried again
        for client in self.clients:
            assert set(client.outcomes) == client.submitted
            for sequence, outcome in client.outcomes.items():
                assert outcome == self.broker.outcomes[client.session, sequence]


TestCluster: Callable[[], Any] = Cluster.TestCase
TestCluster.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(40))
def test_dead_letters_are_right_in_histories_that_are_full_of_them(seed: int) -> None:
    """Hypothesis hardly ever comes to a third loss, and then to a decision about it."""
    chance, cluster = random.Random(seed), Cluster()

    def any_one() -> int:
        return chance.randrange(1 << 16)

    for step in range(120):
        held = any(worker.held for worker in cluster.workers.values())
        match chance.randrange(12):
            case 0:
                cluster.client_comes(chance.choice([None, 2]))
            case 1 | 2 if cluster.clients:
                cluster.submit(any_one(), 3, 0, chance.randrange(3), chance.choice(OPTIONS))
            case 3 | 4 if held:
                cluster.task_kills_whatever_runs_it(any_one())
            case 5 | 6 if len(cluster.broker.core._ledger.letters):
                cluster.dead_letter_is_decided_on(
                    any_one(), chance.choice(["dead_drop", "dead_requeue", "dead_requeue"])
                )
            case 7 if held:
                cluster.settle(any_one(), 2, chance.choice(["result", "error", "retry", "lost"]))
            case 8:
                cluster.worker_comes(4, chance.choice([(), ("gpu",)]))
            case 7 if cluster.workers:
                cluster.worker_dies(any_one())
            case 9 if held and step % 2:
                cluster.task_begins(any_one(), any_one())
            case 9 if cluster.clients and step % 3:
                cluster.close(any_one())
            case 10:
                cluster.master_restarts()
                while cluster.away and chance.random() < 0.8:
                    cluster.worker_comes_back(any_one(), any_one())
                for which in range(sum(not client.nested for client in cluster.clients)):
                    cluster.client_returns(which)
            case 11 if cluster.snapshot is None:
                cluster.compaction_begins()
            case 11:
                cluster.compaction_ends()
            case _:
                cluster.time_passes(2.0, 7)
    cluster.teardown()
