"""multihost/broker/core.py under any history: each submitted task ends in exactly one outcome.

Clients and workers come, speak, fall silent, die and return at random. ``Broker`` checks the core's invariants after
each event; here is what the peers may expect.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from multihost.broker.core import MAX_DELIVERIES
from multihost.broker.events import Heard
from multihost.errors import WorkerDied
from multihost.payload import load_error
from tests.unit.brokers import CUBE, LAMBDA, LEASE_TIMEOUT, SQUARE, Broker

PICK = st.integers(0, 1 << 16)
FUNCTIONS = (SQUARE, CUBE, LAMBDA)


@dataclass
class Client:
    """A session as its program knows it."""

    session: str
    connection: int | None
    next: int = 0
    submitted: set[int] = field(default_factory=set)
    outcomes: dict[int, tuple[str, bytes]] = field(default_factory=dict)
    acknowledged: set[int] = field(default_factory=set)
    last: tuple[int, int, int] | None = None  # first number, count and function of its last submit


@dataclass
class Worker:
    worker_id: str
    held: dict[int, tuple[str, int]] = field(default_factory=dict)  # token -> task
    draining: bool = False


def pick(pick: int, among: list[Any]) -> Any:
    return among[pick % len(among)]


class Cluster(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.broker = Broker()
        self.clients: list[Client] = []
        self.workers: dict[int, Worker] = {}
        self.tokens: set[int] = set()  # every one ever granted
        self.settled: dict[tuple[str, int], tuple[str, bytes]] = {}  # what a worker said in time
        self.losses: dict[tuple[str, int], int] = {}
        self.sessions = self.ids = 0

    # --- what peers were sent ----------------------------------------------------------------------------------

    def listen(self) -> None:
        """Let all peers read what they were sent."""
        for connection in [connection for connection in self.workers if connection in self.broker.closed]:
            self.lost(connection)
        for connection, worker in self.workers.items():
            for grant in self.broker.grants(connection):
                assert not worker.draining
                assert grant.token not in self.tokens
                self.tokens.add(grant.token)
                worker.held[grant.token] = grant.session, int(grant.payload)
                self.is_granted_rightly(grant.session, int(grant.payload))
        for client in self.clients:
            if client.connection is not None:
                for sequence, outcome in self.broker.results(client.connection).items():
                    self.is_told_rightly(client, sequence, outcome)
        # A session may have ended while its client was away: then all of it is cancelled.
        self.clients = [client for client in self.clients if self.broker.core.knows(client.session)]
        for worker in self.workers.values():
            known = {client.session for client in self.clients}
            worker.held = {token: task for token, task in worker.held.items() if task[0] in known}

    def is_granted_rightly(self, session: str, sequence: int) -> None:
        holders = [worker for worker in self.workers.values() if (session, sequence) in worker.held.values()]
        assert len(holders) == 1, "two workers hold the same task"
        assert (session, sequence) not in self.settled, "a task that has its outcome is run again"
        assert self.losses.get((session, sequence), 0) < MAX_DELIVERIES
        (client,) = [client for client in self.clients if client.session == session]
        assert sequence in client.submitted

    def is_told_rightly(self, client: Client, sequence: int, outcome: tuple[str, bytes]) -> None:
        assert sequence not in client.acknowledged, "an outcome is told after it was acknowledged"
        assert client.outcomes.setdefault(sequence, outcome) == outcome
        task = client.session, sequence
        if outcome[0] == "cancelled":
            assert task not in self.settled
        elif task in self.settled:
            assert outcome == self.settled[task]
        else:
            error = load_error(outcome[1])
            assert isinstance(error, WorkerDied)
            assert len(error.losses) == self.losses[task] == MAX_DELIVERIES

    def lost(self, connection: int) -> None:
        """The master has given up a worker: each task it held is a delivery lost, also one it had not read of yet."""
        unread = self.broker.grants(connection)
        self.tokens |= {grant.token for grant in unread}
        tasks = [(grant.session, int(grant.payload)) for grant in unread]
        for task in (*self.workers.pop(connection).held.values(), *tasks):
            self.losses[task] = self.losses.get(task, 0) + 1

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
        client: Client = pick(which, self.clients)
        if client.connection is not None:
            self.broker.leave(client.connection)
            client.connection = None
            self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK)
    def client_returns(self, which: int) -> None:
        """Also over a connection that the master still takes for alive."""
        client: Client = pick(which, self.clients)
        old, client.connection = client.connection, self.broker.client(client.session)
        if old is not None:
            assert old in self.broker.closed
            self.broker.leave(old)
        waiting = self.broker.results(client.connection)
        assert set(client.outcomes) - client.acknowledged <= set(waiting)
        for sequence, outcome in waiting.items():
            self.is_told_rightly(client, sequence, outcome)
        self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK, count=st.integers(1, 6), gap=st.integers(0, 2), function=st.integers(0, 2))
    def submit(self, which: int, count: int, gap: int, function: int) -> None:
        client: Client = pick(which, self.clients)
        if client.connection is not None:
            first = client.next + gap
            client.last = first, count, function
            client.next = first + count
            client.submitted |= set(range(first, first + count))
            self.submit_last(client)

    @precondition(lambda self: self.clients)
    @rule(which=PICK)
    def submit_again(self, which: int) -> None:
        client: Client = pick(which, self.clients)
        if client.connection is not None and client.last is not None:
            self.submit_last(client)

    def submit_last(self, client: Client) -> None:
        assert client.last is not None
        assert client.connection is not None
        first, count, function = client.last
        payloads = [str(sequence).encode() for sequence in range(first, first + count)]
        self.broker.submit(client.connection, *payloads, first=first, function=FUNCTIONS[function])
        assert ("accepted", client.next) in self.broker.inbox[client.connection]
        self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK, some=st.sets(st.integers(0, 20)))
    def acknowledge(self, which: int, some: set[int]) -> None:
        client: Client = pick(which, self.clients)
        if client.connection is not None:
            sequences = sorted(some & set(client.outcomes))
            client.acknowledged |= set(sequences)
            self.broker.say(client.connection, ("acknowledge", sequences))
            self.listen()

    @precondition(lambda self: self.clients)
    @rule(which=PICK, some=st.sets(st.integers(0, 20)))
    def cancel(self, which: int, some: set[int]) -> None:
        client: Client = pick(which, self.clients)
        if client.connection is not None and some:
            self.broker.say(client.connection, ("cancel", sorted(some), False))
            said = self.broker.inbox[client.connection]
            late = {sequence for name, *fields in said if name == "too_late" for sequence in fields[0]}  # type: ignore[attr-defined]
            self.listen()
            cancelled = {sequence for sequence in some if client.outcomes.get(sequence) == ("cancelled", b"")}
            assert late | cancelled == some

    @precondition(lambda self: self.clients)
    @rule(which=PICK)
    def close(self, which: int) -> None:
        client: Client = pick(which, self.clients)
        if client.connection is not None:
            self.broker.say(client.connection, ("close",))
            assert not self.broker.core.knows(client.session)
            self.broker.leave(client.connection)
            self.listen()

    # --- workers -----------------------------------------------------------------------------------------------

    @rule(want=st.integers(0, 5))
    def worker_comes(self, want: int) -> None:
        self.ids += 1
        self.register(f"worker-{self.ids}", want)

    def register(self, worker_id: str, want: int) -> None:
        connection = self.broker.worker(worker_id)
        self.workers[connection] = Worker(worker_id)
        self.listen()
        self.broker.say(connection, ("want", want))
        self.listen()

    @precondition(lambda self: self.workers)
    @rule(which=PICK, want=st.integers(0, 5))
    def worker_returns(self, which: int, want: int) -> None:
        """A worker dials anew before the master has noticed that its old connection is gone."""
        old: int = pick(which, [*self.workers])
        worker_id = self.workers[old].worker_id
        self.register(worker_id, want)
        assert old in self.broker.closed
        assert old not in self.workers
        self.broker.leave(old)
        self.listen()

    @precondition(lambda self: self.workers)
    @rule(which=PICK, count=st.integers(0, 8))
    def want(self, which: int, count: int) -> None:
        self.broker.say(pick(which, [*self.workers]), ("want", count))
        self.listen()

    @precondition(lambda self: any(worker.held for worker in self.workers.values()))
    @rule(which=PICK, count=st.integers(1, 4), kind=st.sampled_from(["result", "result", "error", "lost"]))
    def settle(self, which: int, count: int, kind: str) -> None:
        connection: int = pick(which, [c for c, worker in self.workers.items() if worker.held])
        worker = self.workers[connection]
        rows: list[tuple[int, str, bytes]] = []
        for token in [*worker.held][:count]:
            task = worker.held.pop(token)
            rows.append((token, kind, f"{kind} of {task} by {token}".encode()))
            if kind == "lost":
                self.losses[task] = self.losses.get(task, 0) + 1
            else:
                self.settled[task] = rows[-1][1:]
        self.broker.say(connection, ("settle", rows))
        self.listen()

    @precondition(lambda self: self.workers and self.tokens)
    @rule(which=PICK, token=PICK, kind=st.sampled_from(["result", "error", "lost"]))
    def settle_what_is_not_held(self, which: int, token: int, kind: str) -> None:
        connection: int = pick(which, [*self.workers])
        stale: int = pick(token, sorted(self.tokens))
        if stale not in self.workers[connection].held:
            before = self.broker.core.statistics() | {"stale": 0}
            self.broker.say(connection, ("settle", [(stale, kind, b"stale")]), ("give_back", [stale]))
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

    # --- time --------------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.5, 2.0, LEASE_TIMEOUT / 2, LEASE_TIMEOUT + 1]), alive=st.integers(0, 7))
    def time_passes(self, seconds: float, alive: int) -> None:
        """``alive`` says, in its bits, which workers are heard meanwhile."""
        heard = [connection for n, connection in enumerate(self.workers) if alive >> (n % 3) & 1]
        self.broker.pass_time(seconds, *heard)
        assert not set(heard) & set(self.broker.closed)
        self.listen()

    @rule()
    def master_stands_still(self) -> None:
        self.broker.tick()
        closed = set(self.broker.closed)
        self.broker.tick(10_000.0)
        assert set(self.broker.closed) == closed
        self.listen()

    # --- the promise -------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """All clients return and one good worker serves: then every task of an open session has its outcome."""
        for which in range(len(self.clients)):
            self.client_returns(which)
        for connection in [*self.workers]:
            self.broker.handle(Heard(connection))
        self.register("the last", 1_000_000)
        while any(worker.held for worker in self.workers.values()):
            self.settle(0, 1000, "result")
            self.want(0, 1_000_000)
        assert (self.broker.count("queued"), self.broker.count("leased")) == (0, 0)
        for client in self.clients:
            assert set(client.outcomes) == client.submitted
            for sequence, outcome in client.outcomes.items():
                assert outcome == self.broker.outcomes[client.session, sequence]


TestCluster: Callable[[], Any] = Cluster.TestCase
TestCluster.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)  # type: ignore[attr-defined]
