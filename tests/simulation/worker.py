"""A worker: a runner core in the simulation's own shell, which does what ``runner/loop.py`` and ``slots.py`` do."""

from collections.abc import Callable, Sequence
from typing import Any

from multihost.runner import events
from multihost.runner.children import CAREFUL
from multihost.runner.core import RunnerCore
from multihost.runner.durations import STUCK_SECONDS
from multihost.wire.connection import _ATTEMPT_SECONDS, Patience, backoff
from multihost.wire.messages import Message, check_batch
from tests.simulation.child import Child
from tests.simulation.master import Master
from tests.simulation.network import End, Network
from tests.simulation.records import ClientLog, Plan
from tests.simulation.world import Host, Process, World

# One turn of the loop: what it has to say is one frame.
_TURN_SECONDS = 0.0002


class Worker:
    """See the module. ``left`` is called when its process has ended by itself or by a task."""

    def __init__(
        self,
        world: World,
        network: Network,
        master: Master,
        host: Host,
        log: ClientLog,
        plans: dict[str, Plan],
        slots: int,
        labels: tuple[str, ...],
        lease_timeout: float,
        drain_timeout: float,
        left: Callable[["Worker"], None],
    ) -> None:
        self.world, self.host, self.log, self.plans = world, host, log, plans
        self.ledger = master.ledger
        self.process = Process(host, host.name)
        self.life = 0  # of the master it is connected to
        self.labels = labels
        self.starts_fail = False  # whether the host has no room for a process
        self.draining = False
        self._network, self._master = network, master
        self._slots = slots
        self._lease_timeout = lease_timeout
        self._left = left
        self._core = RunnerCore(slots, drain_timeout, name=host.name)
        self._children: dict[int, Child] = {}
        self._blobs: set[str] = set()
        self._leases: dict[int, str] = {}  # token -> session, of the leases that it has not ended
        self._outbox: list[Message] = []
        self._flushing = False
        self._end: End | None = None
        self._greeted = False
        self._attached = self._heard = self._beat = world.now
        self._due: float | None = None  # when it wakes up next
        self._patience = Patience(world.chance)
        self._delays = backoff(world.chance)
        self._dial()

    @property
    def children(self) -> list[Child]:
        return [*self._children.values()]

    @property
    def quiet(self) -> bool:
        """Whether it holds nothing."""
        return not self._leases and not self._core.held

    def crash(self, tell: bool) -> None:
        """The process is killed and its children with it; without ``tell`` the whole host is gone."""
        self.world.note(self.host.name, "crashes", tell)
        self._stop()
        if self._end is not None:
            self._network.vanish(self._end, tell)

    def murdered(self) -> None:
        """A task has killed the process."""
        self.crash(tell=True)
        self._left(self)

    def drain(self) -> None:
        """SIGTERM."""
        self.draining = True
        self.world.note(self.host.name, "is to drain")
        if self._greeted:
            self._handle(events.DrainAsked())
        else:
            self._leave()

    def _stop(self) -> None:
        self.process.alive = False
        for child in self._children.values():
            child.kill()

    def _leave(self) -> None:
        self.world.note(self.host.name, "leaves")
        self._stop()
        if self._end is not None:
            self._flush()
            self._network.close(self._end)
        self._left(self)

    # --- the link ----------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        info = {"worker": self.host.name, "slots": self._slots, "labels": self.labels, **self._core.hello()}
        self._end = self._network.dial(self.process, self, self._master, ["worker", info])
        self.world.after(_ATTEMPT_SECONDS, self.process, self._too_late, self._end)

    def _too_late(self, end: End) -> None:
        if end is self._end and not self._greeted:
            self._network.close(end)
            self._dial_again()

    def _dial_again(self) -> None:
        self._end = None
        self.world.after(next(self._delays), self.process, self._dial)

    def received(self, end: End, value: Any) -> None:
        if end is not self._end or not self.process.alive:
            return
        self._heard = self.world.now
        match value:
            case ["welcome", answer]:
                self.life = answer["life"]
                self._greeted = True
                self._attached = self._beat = self.world.now
                self.world.note(self.host.name, "is welcome")
                self._handle(events.Connected(answer["keeps"], answer["done"]))
            case [*_, ("refused", reason)]:
                raise AssertionError(f"the master refused what {self.host.name} sent: {reason}")
            case batch:
                self._note_leases(batch)
                self.world.note(self.host.name, "hears", *batch)
                self._handle(events.Received(batch))

    def lost(self, end: End) -> None:
        if end is not self._end or not self.process.alive:
            return
        self._end = None
        if not self._greeted:
            self._dial_again()
            return
        self.world.note(self.host.name, "loses the master")
        self._greeted = False
        self._outbox.clear()
        self._delays = backoff(self.world.chance)
        patience = self._patience.after(lasted=self.world.now - self._attached)
        before = {*self._leases}
        self._handle(events.Disconnected())
        kept = self._core._keeps
        if kept:  # what it has not kept, such as tasks with sessions of their own, is queued again unpenalised
            self.ledger.handed_back.update((self.life, token) for token in before - self._leases.keys())
        assert kept or not any(child.busy for child in self.children), "what runs would run a second time elsewhere"
        if self.process.alive:
            self.world.after(patience, self.process, self._dial)

    # --- events and effects ------------------------------------------------------------------------------------

    def told(self, child: Child, event: events.FromChild) -> None:
        if self._children.get(child.number) is child:
            self.world.note(self.host.name, "is told", event)
            self._handle(event)

    def child_died(self, child: Child, reason: str) -> None:
        if self._children.get(child.number) is child:
            del self._children[child.number]
            self.world.note(self.host.name, "loses child", child.number)
            self._handle(events.ChildDied(child.number, reason))

    def _handle(self, event: events.Event) -> None:
        for effect in self._core.handle(event, self.world.now):
            self._perform(effect)
        if self.process.alive:
            self._check()
            self._set_alarm()

    def _perform(self, effect: events.Effect) -> None:
        match effect:
            case events.Send(message):
                self._send(message)
            case events.Run(number, function, _, tasks, options):
                assert self._blobs.issuperset([function])
                if CAREFUL in options and self._flushing:
                    self._flush()
                self.ledger.handed |= {(self.life, token) for token, _ in tasks}
                if (child := self._children.get(number)) is not None:
                    child.receive("run", options, tasks)
            case events.Keep(blob_id):
                self._blobs.add(blob_id)
            case events.Drop(blob_ids):
                self._blobs.difference_update(blob_ids)
            case events.Start(number, needs):
                assert self._blobs.issuperset(needs)
                self._start(number, needs)
            case events.Interrupt(number, token, seconds):
                self._to(number, "interrupt", token, seconds)
            case events.Tell(number, told):
                self._to(number, "tell", told)
            case events.Retire(number):
                self._to(number, "retire")
            case events.Condemn(number):
                if (child := self._children.get(number)) is not None:
                    child.die("its process was killed by SIGKILL")
            case events.Kill(number):
                if (child := self._children.pop(number, None)) is not None:
                    child.kill()
            case events.Note(_, text):
                self.world.note(self.host.name, "says", text)
            case events.Exit():
                assert not self._leases or not self._greeted, "it leaves with leases in its hands"
                self._leave()

    def _to(self, number: int, call: str, *args: object) -> None:
        if (child := self._children.get(number)) is not None:
            child.receive(call, *args)

    def _start(self, number: int, needs: tuple[str, ...]) -> None:
        if self.starts_fail:
            # Told in the next turn: what is to be run in that child follows in this one.
            self.world.after(0.0, self.process, self._handle, events.StartFailed(number, "no room"))
        else:
            self._children[number] = Child(self, number, needs)

    def _send(self, message: Any) -> None:
        check_batch("worker", [message])
        match message:
            case ("settle", rows):
                self._end_leases([token for token, _, _ in rows])
            case ("begun", tokens):
                self.ledger.unheard |= {(self.life, token) for token in tokens}
            case ("give_back", tokens):
                self._end_leases(tokens)
                self.ledger.handed_back.update((self.life, token) for token in tokens)
        self._outbox.append(message)
        if not self._flushing:
            self._flushing = True
            self.world.at(self.world.soon(_TURN_SECONDS), self.process, self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._outbox and self._end is not None and self._greeted:
            batch, self._outbox = self._outbox, []
            if ran := self._core.take_ran():
                batch.insert(0, ("ran", ran))
            self._network.send(self._end, batch)

    # --- what must hold ----------------------------------------------------------------------------------------

    def _note_leases(self, batch: list[Any]) -> None:
        for name, *fields in batch:
            if name == "grant":
                self._leases |= {token: fields[0] for token, _ in fields[4]}
            elif name == "stop":
                for token in fields[0]:
                    self._leases.pop(token, None)
            elif name == "forget":
                self._leases = {token: session for token, session in self._leases.items() if session != fields[0]}

    def _end_leases(self, tokens: Sequence[int]) -> None:
        assert tokens, "an empty message says nothing"
        for token in tokens:
            # What ended while the master was away is told afterwards.
            assert token in self._leases or self._core._keeps, "a lease is ended twice, or was never had"
            self._leases.pop(token, None)

    def _check(self) -> None:
        if not self._greeted:
            holds = self._core.hello()["holds"]
            self._leases = {token: session for token, session in self._leases.items() if token in holds}  # type: ignore[operator]
            return
        assert self._core.held == len(self._leases), "a lease is forgotten"
        given = [token for child in self._core._children.values() for token in child.running]
        queued = [item.token for item in self._core._queue]
        assert len({*given, *queued}) == len(given) + len(queued), "a lease is in two places"
        busy = sum(child.busy for child in self._core._children.values())
        assert not queued or busy >= self._slots, "a slot idles beside a task that waits"

    # --- time --------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        if not self._greeted:
            self._due = None
            return
        now = self.world.now
        due = self._beat + self._lease_timeout / 3
        if self._core.impatient:
            due = min(due, now + STUCK_SECONDS / 2)
        if (deadline := self._core.next_deadline()) is not None:
            due = min(due, deadline)
        if self._due is None or due < self._due:
            self._due = max(due, now)
            self.world.at(self._due, self.process, self._wake, self._due)

    def _wake(self, due: float) -> None:
        if due != self._due or not self._greeted or self._end is None:
            return
        self._due = None
        now = self.world.now
        if now - self._heard > self._lease_timeout:
            end = self._end
            self._network.close(end)
            self.lost(end)
            return
        if now >= self._beat + self._lease_timeout / 3:
            self._beat = now
            self._send(("heartbeat",))
        deadline = self._core.next_deadline()
        if self._core.impatient or (deadline is not None and now >= deadline):
            self._handle(events.Tick())
        else:
            self._set_alarm()
