"""A runner core with a master and child processes in memory; its invariants are checked after each event."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from multihost.runner.core import WARM_CHILDREN, RunnerCore
from multihost.runner.events import (
    ChildDied,
    Connected,
    Disconnected,
    DrainAsked,
    Drop,
    Effect,
    Event,
    Exit,
    Finished,
    Keep,
    Kill,
    Note,
    Received,
    Run,
    Send,
    Start,
    Tick,
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


class Runner:
    """See the module."""

    def __init__(self, slots: int = 1, connect: bool = True) -> None:
        self.slots = slots
        self.core = RunnerCore(slots, DRAIN_TIMEOUT)
        self.now = 1000.0
        self.tokens = itertools.count(1)
        self.leases: dict[int, str] = {}  # token -> session, as the master knows them
        self.processes: dict[int, Process] = {}
        self.blobs: set[str] = set()
        self.outbox: list[Message] = []
        self.runs: list[Run] = []
        self.started: list[int] = []
        self.killed: list[int] = []
        self.notes: list[Note] = []
        self.wanted = 0  # as the master knows it
        self.exited = False
        if connect:
            self.connect()

    # --- events ------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        self.wanted = 0
        self.handle(Connected())

    def disconnect(self) -> None:
        self.leases.clear()
        self.handle(Disconnected())
        assert not self.processes, "what runs would run a second time elsewhere"
        self.outbox.clear()

    def grant(
        self, count: int, session: str = "s", function: str = "f", needs: tuple[str, ...] = (), payload: bytes = b""
    ) -> list[int]:
        """Have the master grant ``count`` tasks, with the code they need; their tokens."""
        tokens = list(itertools.islice(self.tokens, count))
        self.leases |= dict.fromkeys(tokens, session)
        self.wanted = max(0, self.wanted - count)
        blobs: list[Message] = [("blob", b, b"code") for b in (*needs, function) if b not in self.blobs]
        self.receive(*blobs, ("grant", session, function, needs, {}, [(token, payload) for token in tokens]))
        return tokens

    def receive(self, *messages: Message) -> None:
        for message in messages:
            if message[0] == "forget":
                self.leases = {token: session for token, session in self.leases.items() if session != message[1]}
        self.handle(Received(list(messages)))

    def finish(self, child: int, count: int = 1, seconds: float = 1.0, kind: str = "result") -> list[int]:
        """Have a child finish its first ``count`` tasks, ``seconds`` each; their tokens."""
        tasks = self.processes[child].tasks
        tokens = [token for token, _ in tasks[:count]]
        del tasks[:count]
        self.handle(Finished(child, [(token, kind, b"") for token in tokens], seconds * len(tokens)))
        return tokens

    def die(self, child: int, reason: str = "its process was killed by SIGKILL") -> None:
        del self.processes[child]
        self.handle(ChildDied(child, reason))

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
            case Kill(child):
                del self.processes[child]
                self.killed.append(child)
            case Note():
                self.notes.append(effect)
            case Exit():
                assert not self.leases, "it leaves with leases in its hands"
                self.exited = True

    def _send(self, message: Message) -> None:
        self.outbox.append(message)
        match message:
            case ("want", int(count)):
                self.wanted = count
            case ("settle", rows):
                self._end([token for token, _, _ in _rows(rows)])
            case ("give_back", tokens):
                self._end(_rows(tokens))

    def _end(self, tokens: Sequence[int]) -> None:
        assert tokens, "an empty message says nothing"
        for token in tokens:
            del self.leases[token]  # a KeyError here is a lease ended twice, or never had

    def _run(self, run: Run) -> None:
        process = self.processes[run.child]
        assert run.tasks
        (session,) = {self.leases[token] for token, _ in run.tasks}
        assert process.session in (None, session), "a child serves two sessions"
        process.session = session
        assert run.function_id in self.blobs
        assert run.new == (run.function_id not in process.functions)
        process.functions.add(run.function_id)
        process.tasks += run.tasks

    def _check(self) -> None:
        given = [token for process in self.processes.values() for token, _ in process.tasks]
        assert len(set(given)) == len(given), "a task runs twice"
        assert set(given) <= set(self.leases)
        assert self.core.held == len(self.leases)
        assert len(self.busy) <= self.slots
        assert len(self.processes) < self.slots + WARM_CHILDREN
        assert len(given) == len(self.leases) or len(self.busy) == self.slots, "a slot idles beside a task that waits"

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
