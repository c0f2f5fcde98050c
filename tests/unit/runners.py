"""A runner core with a master and child processes in memory; its invariants are checked after each event."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multihost.deaths import Death
from multihost.runner.core import WARM_CHILDREN, RunnerCore
from multihost.runner.events import (
    ChildDied,
    Condemn,
    Connected,
    Disconnected,
    DrainAsked,
    Drop,
    Effect,
    Event,
    Exit,
    Finished,
    Interrupt,
    Keep,
    Kill,
    Lent,
    Note,
    Recall,
    Received,
    Retire,
    Run,
    Send,
    Start,
    Started,
    Tell,
    Tick,
    Unstarted,
)
from multihost.wire.messages import Message, check_batch

DRAIN_TIMEOUT = 60.0


@dataclass
class Process:
    """A child process: what it serves, and the tasks it was given and has not finished, first to last."""

    needs: tuple[str, ...]
    session: str | None = None
    functions: set[str] = field(default_factory=set)
    tasks: list[tuple[int, bytes]] = field(default_factory=list)
    ran: int = 0  # how many tasks it was given
    lending: bool = False
    condemned: bool = False
    told: list[Message] = field(default_factory=list)  # what the master said to sessions that its tasks opened


class Runner:
    """See the module."""

    def __init__(self, slots: int = 1, connect: bool = True, threads: int = 1, memory: int = 0) -> None:
        self.slots, self.threads = slots, threads
        self.core = RunnerCore(slots, DRAIN_TIMEOUT, threads, "w1", memory)
        self.now = 1000.0
        self.tokens = itertools.count(1)
        self.leases: dict[int, str] = {}  # token -> session, as the master knows them
        self.stopped: set[int] = set()  # tokens of leases that the master has ended
        self.processes: dict[int, Process] = {}
        self.blobs: set[str] = set()
        self.outbox: list[Message] = []
        self.runs: list[Run] = []
        self.started: list[int] = []
        self.killed: list[int] = []
        self.retired: list[int] = []
        self.interrupts: list[Interrupt] = []
        self.recalled: list[int] = []
        self.notes: list[Note] = []
        self.granted = self.limit = 0  # tasks that the connection has brought, and that it may bring
        self.exited = False
        if connect:
            self.connect()

    @property
    def wanted(self) -> int:
        """How many more tasks the master may grant."""
        return max(0, self.limit - self.granted)

    # --- events ------------------------------------------------------------------------------------------------

    def connect(self, keeps: bool = False, done: dict[int, int] | None = None) -> None:
        self.granted = self.limit = 0
        self.handle(Connected(keeps, done or {}))

    def disconnect(self) -> None:
        self.leases.clear()
        self.handle(Disconnected())
        assert self.core._keeps or not self.processes, "what runs would run a second time elsewhere"
        self.outbox.clear()

    def grant(
        self,
        count: int,
        session: str = "s",
        function: str = "f",
        needs: tuple[str, ...] = (),
        payload: bytes = b"",
        **options: object,
    ) -> list[int]:
        """Have the master grant ``count`` tasks, with the code they need; their tokens."""
        tokens = list(itertools.islice(self.tokens, count))
        self.leases |= dict.fromkeys(tokens, session)
        self.granted += count
        blobs: list[Message] = [("blob", b, b"code") for b in (*needs, function) if b not in self.blobs]
        self.receive(*blobs, ("grant", session, function, needs, options, [(token, payload) for token in tokens]))
        return tokens

    def receive(self, *messages: Message) -> None:
        for message in messages:
            if message[0] == "forget":
                self.leases = {token: session for token, session in self.leases.items() if session != message[1]}
        self.handle(Received(list(messages)))

    def stop(self, *tokens: int) -> None:
        """Have the master end these leases: their tasks were cancelled."""
        for token in tokens:
            del self.leases[token]
        self.stopped.update(tokens)
        self.receive(("stop", list(tokens)))

    def end_part(self, child: int, count: int) -> None:
        """Have a child end so many items of the chunk that it runs."""
        self.handle(Finished(child, [], 0.0, [(self.processes[child].tasks[0][0], count, b"part")]))

    def start_function(self, child: int, retry: bool = False) -> None:
        """Have a child call the function of its first task, which has a time limit."""
        self.handle(Started(child, self.processes[child].tasks[0][0], retry))

    def lend(self, child: int) -> list[int]:
        """Have a child wait for tasks of its task; the tokens of those it gives back."""
        process = self.processes[child]
        process.lending = True
        unstarted = [token for token, _ in process.tasks[1:]]
        del process.tasks[1:]
        process.ran -= len(unstarted)
        for effect in self.core.handle(Lent(child, True), self.now):
            self._perform(effect)  # and no check: it has given back what the core does not know of yet
        self.handle(Unstarted(child, unstarted))
        return unstarted

    def give_up(self, child: int) -> list[int]:
        """A child answers a recall: the tokens of what it has not started."""
        process = self.processes[child]
        unstarted = [token for token, _ in process.tasks[1:]]
        del process.tasks[1:]
        process.ran -= len(unstarted)
        self.handle(Unstarted(child, unstarted))
        return unstarted

    def take_back(self, child: int) -> None:
        """Have a child wait no longer."""
        self.processes[child].lending = False
        self.handle(Lent(child, False))

    def finish(self, child: int, count: int = 1, seconds: float = 1.0, kind: str = "result") -> list[int]:
        """Have a child finish its first ``count`` tasks, ``seconds`` each; their tokens."""
        tasks = self.processes[child].tasks
        tokens = [token for token, _ in tasks[:count]]
        del tasks[:count]
        self.handle(Finished(child, [(token, kind, b"") for token in tokens], seconds * len(tokens)))
        return tokens

    def die(
        self,
        child: int,
        reason: str = "its process was killed by SIGKILL",
        stack: str = "",
        printed: tuple[int, str] = (0, ""),
        death: Death | None = None,
    ) -> None:
        self.processes.pop(child, None)
        self.handle(ChildDied(child, reason, stack, printed, death))

    def drain(self) -> None:
        self.handle(DrainAsked())

    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.handle(Tick())

    # --- effects -----------------------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Effect]:
        assert not self.exited
        effects = self.core.handle(event, self.now)
        for effect in effects:
            self._perform(effect)
        self._check()
        return effects

    def _perform(self, effect: Effect) -> None:
        assert not self.exited, "something follows the exit"
        match effect:
            case Send(message):
                check_batch("worker", [message])
                self._send(message)
            case Keep(blob_id):
                self.blobs.add(blob_id)
            case Drop(blob_ids):
                self.blobs -= set(blob_ids)
            case Start(child, needs):
                assert set(needs) <= self.blobs
                self.processes[child] = Process(needs)
                self.started.append(child)
            case Run():
                self.runs.append(effect)
                self._run(effect)
            case Recall(child):
                assert len(self.processes[child].tasks) > 1, "nothing lies behind what runs"
                self.recalled.append(child)
            case Interrupt(child, token):
                assert token in [given for given, _ in self.processes[child].tasks]
                self.interrupts.append(effect)
            case Tell(child, ("drop", list(function_ids))):
                assert self.processes[child].functions.issuperset(function_ids)
                self.processes[child].functions.difference_update(function_ids)
            case Tell(child, message):
                self.processes[child].told.append(message)
            case Retire(child):
                assert not self.processes.pop(child).tasks, "it retires in the middle of a task"
                self.retired.append(child)
            case Condemn(child):
                assert not self.processes[child].condemned
                self.processes[child].condemned = True
            case Kill(child):
                self.processes.pop(child, None)
                self.killed.append(child)
            case Note():
                self.notes.append(effect)
            case Exit():
                assert not self.leases, "it leaves with leases in its hands"
                self.exited = True

    def _send(self, message: Message) -> None:
        self.outbox.append(message)
        match message:
            case ("want", int(limit)):
                self.limit = limit
            case ("settle", rows):
                self._end([token for token, _, _ in _rows(rows)])
            case ("give_back", tokens):
                self._end(_rows(tokens))
            case ("parts" | "output", rows):
                assert {token for token, *_ in _rows(rows)} <= set(self.leases)

    def _end(self, tokens: Sequence[int]) -> None:
        assert tokens, "an empty message says nothing"
        for token in tokens:
            del self.leases[token]  # a KeyError here is a lease ended twice, or never had

    def _run(self, run: Run) -> None:
        process = self.processes[run.child]
        assert run.tasks
        assert process.tasks or len(self.working) < self.slots, "more children work than there are slots"
        assert not process.lending
        assert not process.condemned
        (session,) = {self.leases[token] for token, _ in run.tasks}
        assert process.session in (None, session), "a child serves two sessions"
        process.session = session
        assert run.function_id in self.blobs
        assert run.new == (run.function_id not in process.functions)
        process.functions.add(run.function_id)
        process.tasks += run.tasks
        process.ran += len(run.tasks)
        assert process.ran <= run.options.get("lifetime", process.ran)  # type: ignore[operator]
        assert "careful" not in run.options or len(process.tasks) == 1

    def _check(self) -> None:
        given = [token for process in self.processes.values() for token, _ in process.tasks]
        assert len(set(given)) == len(given), "a task runs twice"
        held = [token for token in given if token not in self.stopped]
        assert set(held) <= set(self.leases)
        assert self.core.held == len(self.leases)
        lending = [process for process in self.processes.values() if process.lending]
        assert len(self.processes) - len(lending) < self.slots + WARM_CHILDREN + self.returned
        assert len(held) == len(self.leases) or len(self.working) >= self.slots, "a slot idles beside a task that waits"

    @property
    def working(self) -> list[int]:
        """The children that take a slot."""
        return [child for child in self.busy if not self.processes[child].lending]

    @property
    def returned(self) -> int:
        """How many children work above the number of slots, because they have waited for tasks of theirs."""
        return max(0, len(self.working) - self.slots)

    @property
    def busy(self) -> list[int]:
        return [child for child, process in self.processes.items() if process.tasks]

    @property
    def idle(self) -> list[int]:
        return [child for child, process in self.processes.items() if not process.tasks]

    def said(self, name: str) -> list[Any]:
        """The fields of the messages ``name`` sent since this was asked last, whatever was sent besides."""
        fields = [message[1] if len(message) > 1 else None for message in self.outbox if message[0] == name]
        self.outbox = [message for message in self.outbox if message[0] != name]
        return fields


def _rows(field: object) -> list[Any]:
    assert isinstance(field, list)
    return field
