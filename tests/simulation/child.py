"""A child process of a worker: it runs what it is given as ``runner/slot.py`` does, in virtual time.

What a call does stands in its plan: return, raise, die, hang, or submit tasks of its own and wait for them.
"""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from multihost.errors import TaskTimeout
from multihost.payload import dump_error, dump_part
from multihost.runner import events
from multihost.runner.outbox import _PULSE_SECONDS, GATHER_SECONDS
from multihost.wire.messages import PART, Message
from tests.simulation.records import Call, Deed, Plan
from tests.simulation.sessions import Session
from tests.simulation.world import Process

if TYPE_CHECKING:
    from tests.simulation.worker import Worker

_PIPE_SECONDS = 0.0002


@dataclass
class _Task:
    """The task that runs, and what has ended of it."""

    token: int
    plan: Plan
    options: dict[str, object]
    place: int  # of the item that runs
    began: float
    taken: int  # how many items were handed over
    values: list[object] = field(default_factory=list)  # of items that were not handed over
    errors: dict[int, bytes] = field(default_factory=dict)


class _Nested:
    """A session that the running task has opened, on a channel of its child."""

    def __init__(self, child: "Child", channel: int, number: int, task: _Task, deed: Deed) -> None:
        self.channel, self.number, self.deed = channel, number, deed
        self.unfinished = 0
        self._child, self._task = child, task
        self._log = child.worker.log
        self._plans = [_of_run(plan, number) for plan in deed.nested]
        child.worker.plans.update((plan.name, plan) for plan in self._plans)
        name = f"nested-{number}"
        inherited = frozenset(child.needs)
        self.session = Session(child.worker.world, self._log, name, self._transmit, self._changed, inherited)

    def attached(self, answer: dict[str, Any]) -> None:
        self.session.attached(answer)
        for plan in self._plans:
            self.session.submit(plan)

    def _transmit(self, batch: list[Any]) -> None:
        self.count(sum(len(fields[3]) for name, *fields in batch if name == "submit"))
        self._child.report(events.Relayed(self._child.number, self.channel, batch))

    def received(self, batch: list[Any]) -> None:
        for name, *fields in batch:
            if name == "outcomes":
                self.count(-sum(row[1] != PART for row in fields[0]))
        self.session.handle(batch)

    def count(self, change: int) -> None:
        before = self.unfinished
        self.unfinished += change
        if bool(before) != bool(self.unfinished):
            self._child.lend(bool(self.unfinished))

    def _changed(self) -> None:
        if self.session.name in self._log.ended:  # the master refused it
            self._child.nested_ended(self, False)
        elif not self.session.waiting:
            told = {self._log.told[call.name][0].verdict for plan in self._plans for call in plan.calls}
            self._child.nested_ended(self, told == {"result"})

    def end(self, how: str) -> None:
        self._log.ended.setdefault(self.session.name, how)
        self.session.detached()


def _of_run(plan: Plan, number: int) -> Plan:
    """What a task submits has other names each time the task runs."""
    calls = tuple(replace(call, name=f"{call.name}@{number}") for call in plan.calls)
    return replace(plan, name=f"{plan.name}@{number}", calls=calls)


class Child(Process):
    """See the module."""

    def __init__(self, worker: "Worker", number: int, needs: tuple[str, ...]) -> None:
        super().__init__(worker.host, f"{worker.host.name}/{number}")
        self.worker, self.number, self.needs = worker, number, needs
        self._world = worker.world
        self._backlog: deque[tuple[int, Plan, dict[str, object]]] = deque()
        self._task: _Task | None = None
        self._turn = 0  # of the call that runs; what was planned for another one does not happen
        self._outcomes: list[tuple[int, str, bytes]] = []
        self._seconds = 0.0
        self._handed = self._world.now
        self._pulsing = False
        self._cancelled: set[int] = set()
        self._nested: _Nested | None = None
        self._channels = 0
        self._lending = False
        self._last = 0.0  # when what was written last arrives at the worker

    @property
    def busy(self) -> bool:
        return self._task is not None or bool(self._backlog)

    # --- what the worker does ----------------------------------------------------------------------------------

    def receive(self, call: str, *args: Any) -> None:
        """Something is written to the child's pipe, or signalled: it arrives a little later, and in order."""
        self._world.after(_PIPE_SECONDS, self, getattr(self, call), *args)

    def run(self, options: dict[str, object], tasks: list[tuple[int, bytes]]) -> None:
        if self._lending:
            self.report(events.Unstarted(self.number, [token for token, _ in tasks]))
            return
        self._backlog.extend((token, self.worker.plans[payload.decode()], options) for token, payload in tasks)
        self._next()

    def interrupt(self, token: int, seconds: float | None) -> None:
        task = self._task
        if task is None or task.token != token:
            if seconds is None:
                self._cancelled.add(token)
        elif not self._call(task).deed(self._runs - 1).stubborn:
            self._end_nested("killed")
            if task.plan.chunk:
                handed = self._handed
                self.hand_over()
                self._handed = handed
            error = TaskTimeout(seconds, self.worker.host.name) if seconds else RuntimeError("stopped")
            kind = "retry" if seconds and task.plan.retry_timeouts else "error"
            self._end_task(kind, dump_error(error))

    def tell(self, message: Message) -> None:
        match message:
            case ("relay_open", int(channel), dict(answer)) if self._has(channel):
                assert self._nested is not None
                self._nested.attached(answer)
            case ("relay", int(channel), list(batch)) if self._has(channel):
                assert self._nested is not None
                self._nested.received(batch)

    def retire(self) -> None:
        if not self._world.likely(0.1):  # otherwise it hangs at its exit
            self.die("its process ended with exit status 0 and without an outcome")

    def die(self, reason: str) -> None:
        """End, in whatever it is doing; what it wrote before still arrives."""
        if self.alive:
            self.kill()
            self._last = max(self._last, self._world.soon(_PIPE_SECONDS))
            self._world.at(self._last, self.worker.process, self.worker.child_died, self, reason)

    def kill(self) -> None:
        self.alive = False
        if self._nested is not None:
            self._nested.end("killed")

    # --- what the worker is told -------------------------------------------------------------------------------

    def report(self, event: events.FromChild) -> None:
        self._last = max(self._last, self._world.soon(_PIPE_SECONDS))
        self._world.at(self._last, self.worker.process, self.worker.told, self, event)

    def hand_over(self) -> None:
        """Report what has ended."""
        self._handed = self._world.now
        parts = [] if self._task is None else self._take(self._task)
        if self._outcomes or parts:
            outcomes, self._outcomes = self._outcomes, []
            seconds, self._seconds = self._seconds, 0.0
            self.report(events.Finished(self.number, outcomes, seconds, parts))

    def _take(self, task: _Task) -> list[tuple[int, int, bytes]]:
        if not task.values:
            return []
        return [(task.token, len(task.values), self._pack(task))]

    def _pack(self, task: _Task) -> bytes:
        seconds = self._world.now - task.began
        content = dump_part(task.taken, seconds, task.values, task.errors)
        task.taken, task.began = task.taken + len(task.values), self._world.now
        task.values, task.errors = [], {}
        return content

    def _pulse(self) -> None:
        if not self._pulsing:
            self._pulsing = True
            self._world.after(_PULSE_SECONDS, self, self._beat)

    def _beat(self) -> None:
        self._pulsing = False
        self.hand_over()
        if self._task is not None and self._task.plan.chunk:
            self._pulse()

    # --- tasks -------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Begin the next task, if none runs."""
        while self._task is None and self._backlog:
            token, plan, options = self._backlog.popleft()
            if token in self._cancelled:
                self._cancelled.discard(token)
                self._outcomes.append((token, "error", b""))
                continue
            match options:
                case {"item": (int(place), _)}:  # of a chunk, that one alone
                    plan = replace(plan, calls=(plan.calls[place],), chunk=False)
            done = options.get("done", 0)
            assert isinstance(done, int)
            self._task = _Task(token, plan, options, done, self._world.now, done)
            if plan.timeout is not None:
                self.report(events.Started(self.number, token, plan.retry_timeouts))
            self._begin()
        if self._task is None:
            self.hand_over()

    def _call(self, task: _Task) -> Call:
        return task.plan.calls[task.place]

    def _begin(self) -> None:
        """Call the function: of a chunk, with the next item."""
        task = self._task
        assert task is not None
        if task.plan.chunk:
            self._pulse()
            if task.place == len(task.plan.calls):  # all that was left of it was given up
                self._end_task("result", self._pack(task))
                return
        call = self._call(task)
        ledger = self.worker.ledger
        self._runs = ledger.runs.get(call.name, 0) + 1
        number = ledger.start(call.name, (self.worker.life, task.token), self.worker.host.name, self._world.now)
        self._world.note(self.name, "runs", call.name, number)
        self._turn += 1
        if self._world.likely(0.1):
            self.report(events.Printed(self.number, [(task.token, "a line\n")]))
        deed = call.deed(self._runs - 1)
        if deed.kind == "nest":
            self._open(number, task, deed)
        elif deed.kind != "hang":
            self._world.after(max(deed.seconds, 1e-5), self, self._ended, self._turn, deed, number)

    def _ended(self, turn: int, deed: Deed, number: int) -> None:
        """What the running call was to do is done."""
        task = self._task
        if task is None or turn != self._turn:
            return
        text = f"{self._call(task).name}#{number}"
        self.worker.ledger.ended[number] = deed.kind
        if deed.kind == "die":
            self._world.note(self.name, "dies", text)
            self.die("its process was killed by SIGSEGV")
        elif deed.kind == "murder":
            self._world.note(self.name, "kills its worker", text)
            self.worker.murdered()
        elif deed.kind in ("return", "nest"):
            self._put(task, "result", text.encode(), text)
        else:
            kind = "retry" if deed.kind == "retry" and task.plan.retries else "error"
            self._put(task, kind, dump_error(ValueError(text)), None)

    def _put(self, task: _Task, kind: str, content: bytes, value: object) -> None:
        if not task.plan.chunk:
            self._end_task(kind, content)
            return
        if kind != "result":
            task.errors[len(task.values)] = content
        task.values.append(value)
        task.place += 1
        if task.place == len(task.plan.calls):
            self._end_task("result", self._pack(task))
            return
        if "careful" in task.options or self._world.now - self._handed > GATHER_SECONDS:
            self.hand_over()
        self._begin()

    def _end_task(self, kind: str, content: bytes) -> None:
        task, self._task = self._task, None
        assert task is not None
        self._turn += 1
        self._seconds += self._world.now - task.began
        self._outcomes.append((task.token, kind, content))
        if "careful" in task.options or self._world.now - self._handed > GATHER_SECONDS:
            self.hand_over()
        elif self._backlog:
            self._pulse()
        self._next()

    # --- sessions that tasks open ------------------------------------------------------------------------------

    def _has(self, channel: int) -> bool:
        return self._nested is not None and self._nested.channel == channel

    def _open(self, number: int, task: _Task, deed: Deed) -> None:
        self._channels += 1
        self._nested = nested = _Nested(self, self._channels, number, task, deed)
        depth = task.options.get("depth", 0)
        assert isinstance(depth, int)
        name = nested.session.name
        info: dict[str, object] = {"session": name, "limit": None, "lifetime": None, "name": name, "depth": depth + 1}
        self.report(events.RelayOpened(self.number, self._channels, info))

    def nested_ended(self, nested: _Nested, well: bool) -> None:
        """All tasks of the task have ended."""
        if nested is not self._nested:
            return
        self._end_nested("closed")
        deed = nested.deed if well else Deed("raise")
        self._world.after(1e-5, self, self._ended, self._turn, deed, nested.number)

    def _end_nested(self, how: str) -> None:
        nested, self._nested = self._nested, None
        if nested is not None:
            nested.end(how)
            self.report(events.RelayClosed(self.number, nested.channel))
            nested.count(-nested.unfinished)

    def lend(self, lending: bool) -> None:
        self._lending = lending
        self.report(events.Lent(self.number, lending))
        if lending and self._backlog:
            unstarted = [token for token, _, _ in self._backlog]
            self._backlog.clear()
            self.report(events.Unstarted(self.number, unstarted))
