"""The runner's rules: ``handle(event, now) -> effects``. Knows no clock, socket or process; see ``loop.py`` for those.

A **child** is a process that serves one session with one state of that session's code; at most ``slots`` children
work at a time. The others are kept warm for a while, so that a client who comes back finds his modules imported.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
    StartFailed,
    Tick,
)

# How much work a worker holds, by the measured time of the functions: enough to hide the way to the master, little
# enough that no other worker idles while tasks wait here.
HOLD_SECONDS = 0.020
# How much of it lies in a child's pipe, where it cannot be taken back any more.
CHILD_SECONDS = 0.004
MAX_HELD = 4096
# Tasks that have not started after so long behind others go back to the master.
STUCK_SECONDS = 0.050
MAX_REST_SECONDS = 30.0
WARM_CHILDREN = 4  # idle children of other sessions; each costs memory and saves the start of a process and its imports


class Item(NamedTuple):
    """A leased task, in the worker's hands."""

    token: int
    session: str
    function_id: str
    needs: tuple[str, ...]
    payload: bytes


@dataclass(slots=True, eq=False)
class Child:
    """A child process, and the tasks it was given and has not finished, the running one first."""

    number: int
    session: str
    needs: tuple[str, ...]
    functions: set[str] = field(default_factory=set)
    running: OrderedDict[int, Item] = field(default_factory=OrderedDict)


class RunnerCore:
    """See the module."""

    def __init__(self, slots: int, drain_timeout: float) -> None:
        self._slots = slots
        self._drain_timeout = drain_timeout  # seconds
        self._queue: deque[Item] = deque()  # leased and not yet given to a child
        self._children: OrderedDict[int, Child] = OrderedDict()  # longest unused first
        self._next_child = 1
        self._blobs: set[str] = set()  # ids of those that are kept
        self._seconds: dict[str, float] = {}  # function id -> running mean of its duration
        self._recent = ""  # the function whose task ended last
        self._announced = 0  # what the master thinks we want
        self._progress = 0.0  # when a task last started or ended here
        self._connected = False
        self._drain_until: float | None = None
        self._draining = False  # whether the master knows of the drain, so that no grant is under way any more
        self._exited = False
        self._rest_seconds = 0.0
        self._rest_until: float | None = None  # while this host has no room for a process
        self._handlers: dict[type, Callable[[Any, float], list[Effect]]] = {
            Connected: self._connect,
            Disconnected: self._disconnect,
            Received: self._receive,
            Finished: self._finish,
            ChildDied: self._child_died,
            StartFailed: self._start_failed,
            DrainAsked: self._drain_asked,
            Tick: self._tick,
        }

    @property
    def held(self) -> int:
        """How many leases this worker holds."""
        return len(self._queue) + sum(len(child.running) for child in self._children.values())

    @property
    def impatient(self) -> bool:
        """Whether a ``Tick`` is due within ``STUCK_SECONDS``: tasks wait here, or the drain has a deadline."""
        return bool(self._queue) or self._drain_until is not None or self._rest_until is not None

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Apply one event; the effects are to be performed in order."""
        effects = self._handlers[type(event)](event, now)
        effects += self._assign(now)
        effects += self._announce()
        may_leave = self._draining or not self._connected
        if self._drain_until is not None and may_leave and not self._exited and not self.held:
            self._exited = True
            effects.append(Exit())
        return effects

    # --- the master --------------------------------------------------------------------------------------------

    def _connect(self, event: Connected, now: float) -> list[Effect]:
        self._connected, self._announced = True, 0
        return [Send(("drain",))] if self._drain_until is not None else []

    def _disconnect(self, event: Disconnected, now: float) -> list[Effect]:
        """Our leases ended with the connection: what still runs would run a second time elsewhere, so stop it.

        The next master may be another one that knows none of our sessions, so nothing is kept for them either.
        """
        self._connected = False
        self._queue.clear()
        self._seconds.clear()
        blobs, self._blobs = sorted(self._blobs), set()
        return [*(effect for child in [*self._children.values()] for effect in self._kill(child)), Drop(blobs)]

    def _receive(self, event: Received, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for message in event.batch:
            match message:
                case ("grant", str(session), str(function_id), tuple(needs), dict(), list(tasks)):
                    items = [Item(token, session, function_id, needs, payload) for token, payload in tasks]
                    self._announced = max(0, self._announced - len(items))
                    self._queue.extend(items)
                case ("blob", str(blob_id), bytes(content)):
                    self._blobs.add(blob_id)
                    effects.append(Keep(blob_id, content))
                case ("forget", str(session), list(blob_ids)):
                    effects += self._forget(session, blob_ids)
                case ("draining",):
                    self._draining = True
                case _:
                    pass  # a pong: the loop has noted that the master lives
        if self._drain_until is not None:
            effects += self._give_back_queue()
        return effects

    def _forget(self, session: str, blob_ids: list[str]) -> list[Effect]:
        self._queue = deque(item for item in self._queue if item.session != session)
        effects = [e for child in [*self._children.values()] if child.session == session for e in self._kill(child)]
        for blob_id in blob_ids:
            self._blobs.discard(blob_id)
            self._seconds.pop(blob_id, None)
        return [*effects, Drop(blob_ids)]

    # --- children ----------------------------------------------------------------------------------------------

    def _finish(self, event: Finished, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        if child is None:
            return []  # it was killed while this was under way
        outcomes = [outcome for outcome in event.outcomes if outcome[0] in child.running]
        each = event.seconds / max(1, len(event.outcomes))
        for token, _, _ in outcomes:
            self._recent = child.running.pop(token).function_id
            mean = self._seconds.setdefault(self._recent, each)
            self._seconds[self._recent] = mean + (each - mean) / 8
        self._rest_seconds = 0.0
        self._progress = now
        return [Send(("settle", outcomes))]

    def _child_died(self, event: ChildDied, now: float) -> list[Effect]:
        child = self._children.pop(event.child, None)
        if child is None:
            return []
        if not child.running:
            return [Note("warning", f"an idle child process ended: {event.reason}")]
        token, _ = child.running.popitem(last=False)
        self._queue.extendleft(reversed(child.running.values()))
        self._progress = now
        return [
            Note("warning", f"a child process ended in the middle of a task: {event.reason}"),
            Send(("settle", [(token, "lost", event.reason.encode())])),
        ]

    def _start_failed(self, event: StartFailed, now: float) -> list[Effect]:
        """Not the tasks' fault: others may have them, and this worker rests, longer each time it fails again."""
        if (child := self._children.pop(event.child, None)) is not None:
            self._queue.extendleft(reversed(child.running.values()))
        self._rest_seconds = min(MAX_REST_SECONDS, 2 * self._rest_seconds or 1.0)
        self._rest_until = now + self._rest_seconds
        text = f"no process could be started ({event.reason}); this worker rests for {self._rest_seconds:g} s"
        return [Note("error", text), *self._give_back_queue()]

    def _kill(self, child: Child) -> list[Effect]:
        del self._children[child.number]
        return [Kill(child.number)]

    def _assign(self, now: float) -> list[Effect]:
        """Give queued tasks to children: to those of the same session and code, or to a new one in a free slot."""
        effects: list[Effect] = []
        while self._queue:
            item = self._queue[0]
            child = self._child_for(item)
            if child is None:
                if sum(1 for c in self._children.values() if c.running) >= self._slots:
                    break
                effects += self._make_room()
                child = Child(self._next_child, item.session, item.needs)
                self._next_child += 1
                self._children[child.number] = child
                effects.append(Start(child.number, child.needs))
            effects.append(self._hand_over(child, item))
            self._progress = now
        return effects

    def _child_for(self, item: Item) -> Child | None:
        """The child that can take ``item`` now: an idle one, or, when no slot is free, one whose pipe holds little."""
        suitable = [c for c in self._children.values() if (c.session, c.needs) == (item.session, item.needs)]
        best = min(suitable, key=lambda child: len(child.running), default=None)
        if best is None:
            return None
        free = sum(1 for child in self._children.values() if child.running) < self._slots
        most = 0 if free else self._room(item.function_id) // 2
        wakes = not best.running  # it would be one more at work
        return best if len(best.running) <= most and (free or not wakes) else None

    def _room(self, function_id: str) -> int:
        """How many tasks of a function may lie in a child's pipe."""
        seconds = self._seconds.get(function_id)
        return 1 if seconds is None else max(1, min(MAX_HELD, int(CHILD_SECONDS / max(seconds, 1e-7))))

    def _hand_over(self, child: Child, first: Item) -> Run:
        portion = min(self._room(first.function_id), -(-len(self._queue) // self._slots))
        tasks: list[tuple[int, bytes]] = []
        while self._queue and len(tasks) < portion:
            item = self._queue[0]
            if (item.session, item.function_id) != (first.session, first.function_id):
                break
            self._queue.popleft()
            child.running[item.token] = item
            tasks.append((item.token, item.payload))
        new = first.function_id not in child.functions
        child.functions.add(first.function_id)
        self._children.move_to_end(child.number)
        return Run(child.number, first.function_id, new, tasks)

    def _make_room(self) -> list[Effect]:
        idle = [child for child in self._children.values() if not child.running]
        return self._kill(idle[0]) if len(idle) >= WARM_CHILDREN else []

    # --- how much to ask for -----------------------------------------------------------------------------------

    def _announce(self) -> list[Effect]:
        """Tell the master how many more tasks we would take, when that has changed enough to matter."""
        if not self._connected or self._drain_until is not None:
            return []
        target = self._target()
        want = 0 if self._rest_until is not None else max(0, target - self.held)
        change = abs(want - self._announced)
        # A small change is only worth a message while each slot has more than the task it runs.
        if not change or (want and target > self._slots and 4 * change < target):
            return []
        self._announced = want
        return [Send(("want", want))]

    def _target(self) -> int:
        """How many tasks to hold: what the slots finish soon, by the slowest function that runs now or ran last."""
        running = {next(iter(c.running.values())).function_id for c in self._children.values() if c.running}
        measured = [self._seconds.get(function_id) for function_id in running or {self._recent}]
        if None in measured:
            return self._slots
        slowest = max(seconds for seconds in measured if seconds is not None)
        return self._slots * max(1, min(MAX_HELD, int(HOLD_SECONDS / max(slowest, 1e-7))))

    def _give_back_queue(self) -> list[Effect]:
        tokens = [item.token for item in self._queue]
        self._queue.clear()
        return [Send(("give_back", tokens))] if tokens else []

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: float) -> list[Effect]:
        if self._drain_until is not None and now >= self._drain_until:
            return self._stop_running()
        if self._rest_until is not None and now >= self._rest_until:
            self._rest_until = None
        if self._queue and now - self._progress > STUCK_SECONDS:
            # What runs takes longer than its function used to: let others have what waits behind it.
            for child in self._children.values():
                for item in child.running.values():
                    self._seconds[item.function_id] = max(self._seconds.get(item.function_id, 0.0), HOLD_SECONDS)
            return self._give_back_queue()
        return []

    def _drain_asked(self, event: DrainAsked, now: float) -> list[Effect]:
        if self._drain_until is not None:
            return self._stop_running()
        self._drain_until = now + self._drain_timeout
        drain: list[Effect] = [Note("info", f"draining: {self.held} tasks in hand, none is taken any more")]
        return [*drain, Send(("drain",)), *self._give_back_queue()]

    def _stop_running(self) -> list[Effect]:
        """Give back even what runs, unpenalised, and stop it; wait for nothing any more."""
        self._draining = True
        effects = self._give_back_queue()
        busy = [child for child in self._children.values() if child.running]
        tokens = [token for child in busy for token in child.running]
        for child in busy:
            effects += self._kill(child)
        return [*effects, Send(("give_back", tokens))] if tokens else effects
