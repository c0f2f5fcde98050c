"""The runner's rules: ``handle(event, now) -> effects``. Knows no clock, socket or process; see ``loop.py`` for those.

A **child** is a process that serves one session with one state of that session's code; at most ``slots`` children
work at a time. The others are kept warm for a while, so that a client who comes back finds his modules imported.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from typing import Any

from multihost.deaths import in_bytes
from multihost.options import MAX_SECONDS
from multihost.runner.children import TIMEOUT, Child, Item
from multihost.runner.credit import Credit
from multihost.runner.durations import CHILD_SECONDS, STUCK_SECONDS, Durations
from multihost.runner.events import (
    ChildDied,
    Condemn,
    Connected,
    Crowded,
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
    Measured,
    Note,
    Printed,
    Recall,
    Received,
    RelayClosed,
    Relayed,
    RelayOpened,
    Retire,
    Run,
    Send,
    Start,
    Started,
    StartFailed,
    Tell,
    Tick,
    Unstarted,
)
from multihost.runner.inquest import Inquest
from multihost.runner.limits import RETIRE_SECONDS, STOP_GRACE_SECONDS, TIMEOUT_GRACE_SECONDS, Limits
from multihost.runner.memory import MEMORY
from multihost.runner.relays import Relays
from multihost.runner.unrecorded import Unrecorded

_LATER = 0.001  # so long after that a ``Tick`` finds it out, whichever way the sums are rounded
MAX_REST_SECONDS = 30.0
WARM_CHILDREN = 4  # idle children of other sessions; each costs memory and saves the start of a process and its imports


class RunnerCore:
    """See the module.

    Args:
        slots: how many children work at a time.
        drain_timeout: seconds that running tasks have after a drain was asked for.
        threads: how many tasks a child runs at a time.
        name: of the worker, for errors.
        memory: bytes that a child may take while it runs tasks; 0: any number.
    """

    def __init__(self, slots: int, drain_timeout: float, threads: int = 1, name: str = "", memory: int = 0) -> None:
        self._slots, self._threads = slots, threads
        self._drain_timeout = drain_timeout
        self._inquest = Inquest(name, threads, memory)
        self._measuring = memory > 0  # whether a task was seen that has a limit of memory
        self._queue: deque[Item] = deque()  # leased and not yet given to a child
        self._children: OrderedDict[int, Child] = OrderedDict()  # longest unused first
        self._retiring: dict[int, float] = {}  # children that end by themselves, and when that will have taken too long
        self._next_child = 1
        self._blobs: set[str] = set()  # ids of those that are kept
        self._durations = Durations()
        self._credit = Credit(slots, threads, self._durations)
        # Not told yet: a token, how many tasks ended, their seconds in all.
        self._ran: list[tuple[int, int, float]] = []
        self._progress = 0.0  # when a task last started or ended here, or came to an empty queue
        self._limits = Limits()
        self._relays = Relays()
        self._connected = False
        self._keeps = False  # whether the master knows our leases again after a restart
        self._unrecorded = Unrecorded()
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
            Started: self._started,
            Printed: self._printed,
            Unstarted: self._unstarted,
            Lent: self._lent,
            RelayOpened: self._relay_opened,
            Relayed: self._relayed,
            RelayClosed: self._relay_closed,
            ChildDied: self._child_died,
            Measured: self._measured,
            Crowded: self._crowded,
            StartFailed: self._start_failed,
            DrainAsked: self._drain_asked,
            Tick: self._tick,
        }

    @property
    def held(self) -> int:
        """How many leases this worker holds."""
        return len(self._queue) + sum(child.leases for child in self._children.values())

    def take_ran(self) -> list[tuple[int, int, float]]:
        """How long tasks ran, to be told before how they ended: the message "ran"."""
        ran, self._ran = self._ran, []
        return ran

    def load(self) -> dict[str, float]:
        """What a worker tells of itself with its heartbeat, for people."""
        return {
            "children": len(self._children) + len(self._retiring),
            "busy_children": self._busy(),
            "children_started": self._next_child - 1,
            "held": self.held,
        }

    def hello(self) -> dict[str, object]:
        """What a new connection's master is told of what is left from the one before."""
        holds = {item.token for item in self._queue} | self._unrecorded.tokens()
        for child in self._children.values():
            holds |= {token for token, item in child.running.items() if not item.void}
        families = {child.session for child in self._children.values()}
        return {"holds": tuple(holds), "families": tuple(families), "blobs": tuple(self._blobs)}

    @property
    def impatient(self) -> bool:
        """Whether a ``Tick`` is due within ``STUCK_SECONDS``: tasks wait here, or the drain has a deadline."""
        waiting = bool(self._queue) or any(len(c.running) > self._threads for c in self._children.values())
        return waiting or self._drain_until is not None or self._rest_until is not None

    def next_deadline(self) -> float | None:
        """When a ``Tick`` is due in any case: a task's time is up, something takes too long, or is about to end."""
        deadlines = [self._limits.next(), self._credit.review, *self._retiring.values()]
        children = self._children.values()
        stuck = [child.since for child in children if len(child.running) > self._threads and not child.lending]
        if self._queue:
            stuck.append(self._progress)
        deadlines += [since + STUCK_SECONDS + _LATER for since in stuck]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def to_measure(self) -> list[int]:
        """The children whose memory is limited now."""
        if not self._measuring:
            return []
        return [n for n, child in self._children.items() if not child.condemned and self._inquest.limit(child)]

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Apply one event; the effects are to be performed in order."""
        effects = self._handlers[type(event)](event, now)
        effects += self._assign(now)
        effects += self._announce(now)
        may_leave = self._draining or not self._connected
        if self._drain_until is not None and may_leave and not self._exited and not self.held:
            self._exited = True
            effects.append(Exit())
        return effects

    # --- the master --------------------------------------------------------------------------------------------

    def _connect(self, event: Connected, now: float) -> list[Effect]:
        effects = [] if event.keeps else self._keep_nothing()
        self._connected, self._keeps = True, event.keeps
        self._credit.connected()
        effects += [Send(message) for message in self._unrecorded.again(event.done)]
        children = self._children.values()
        items = (item for child in children for item in child.running.values())
        if begun := [item.token for item in items if item.careful and not item.void]:
            effects.append(Send(("begun", begun)))
        effects += self._tell_rest(now)
        return [*effects, Send(("drain",))] if self._drain_until is not None else effects

    def _disconnect(self, event: Disconnected, now: float) -> list[Effect]:
        """A master with a journal may be restarted, and then what runs here goes on under its leases.

        What no child has is queued there again. Tasks cannot take up their sessions again, so they end.
        """
        self._connected = False
        self._ran.clear()
        if not self._keeps:
            return self._keep_nothing()
        self._queue.clear()
        orphans = [self._children[number] for number in sorted(self._relays.clear()) if number in self._children]
        return [effect for child in orphans for effect in self._kill(child)]

    def _keep_nothing(self) -> list[Effect]:
        """Our leases ended with the connection: what still runs would run a second time elsewhere, so stop it.

        The next master may be another one that knows none of our sessions, so nothing is kept for them either.
        """
        self._queue.clear()
        self._durations.clear()
        self._limits.clear()
        self._relays.clear()
        self._unrecorded.clear()
        blobs, self._blobs = sorted(self._blobs), set()
        kills = [effect for child in [*self._children.values()] for effect in self._kill(child)]
        return [*kills, Drop(blobs)] if blobs else kills

    def _report(self, name: str, rows: list[Any], starts: list[int] | None = None) -> list[Effect]:
        """Say what became of tasks; of items of chunks also with which one each row ``starts``."""
        if not rows:
            return []
        if self._keeps:
            self._unrecorded.add(name, rows, starts or [])
        return [Send((name, rows))] if self._connected else []  # otherwise it is said when the master is back

    def _receive(self, event: Received, now: float) -> list[Effect]:
        effects: list[Effect] = []
        batch: list[Any] = event.batch
        for message in batch:
            match message:
                # No classes in the one that comes most: to match one costs 0.5 µs, and 8 in cold caches.
                case ("grant", session, function_id, needs, options, tasks):
                    self._credit.granted(len(tasks))
                    self._measuring = self._measuring or MEMORY in options
                    if not self._queue:
                        self._progress = now
                    self._queue.extend(
                        Item(token, session, function_id, needs, payload, options) for token, payload in tasks
                    )
                case ("blob", str(blob_id), bytes(content)):
                    self._blobs.add(blob_id)
                    effects.append(Keep(blob_id, content))
                case ("stop", list(tokens)):
                    effects += self._stop(set(tokens), now)
                case ("relay_open" | "relay" as name, int(number), content):
                    if (owner := self._relays.inward(number)) is not None:
                        effects.append(Tell(owner[0], (name, owner[1], content)))
                case ("forget", str(session), list(blob_ids)):
                    effects += self._forget(session, blob_ids)
                case ("recorded", int(count)):
                    self._unrecorded.recorded(count)
                case ("draining",):
                    self._draining = True
                case _:
                    pass  # a pong: the loop has noted that the master lives
        if self._drain_until is not None:
            effects += self._give_back_queue()
        return effects

    def _stop(self, tokens: set[int], now: float) -> list[Effect]:
        """These leases are void: drop what waits, and end what a child has, started or not."""
        self._queue = deque(item for item in self._queue if item.token not in tokens)
        effects: list[Effect] = []
        for child in self._children.values():
            for token in child.running.keys() & tokens:
                child.void(token)
                effects.append(Interrupt(child.number, token, None))
                self._limits.kill_at(token, child.number, now + STOP_GRACE_SECONDS)
        return effects

    def _forget(self, session: str, blob_ids: list[str]) -> list[Effect]:
        self._queue = deque(item for item in self._queue if item.session != session)
        effects = [e for child in [*self._children.values()] if child.session == session for e in self._kill(child)]
        for blob_id in blob_ids:
            self._blobs.discard(blob_id)
            self._durations.forget(blob_id)
        for child in self._children.values():
            if dropped := sorted(child.functions.intersection(blob_ids)):
                child.functions.difference_update(dropped)
                effects.append(Tell(child.number, ("drop", dropped)))
        return [*effects, Drop(blob_ids)]

    # --- what children say -------------------------------------------------------------------------------------

    def _finish(self, event: Finished, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        if child is None:
            return []  # it was killed while this was under way
        noted = [(row, start) for row in event.parts if (start := self._note_part(child, *row[:2])) is not None]
        effects = self._report("parts", [row for row, _ in noted], [start for _, start in noted])
        # What a child says may be anything, and not even a number.
        each = min(MAX_SECONDS, max(0.0, event.seconds)) / max(1, len(event.outcomes))
        outcomes = [outcome for outcome in event.outcomes if self._note_outcome(child, outcome[0], each)]
        if outcomes:
            child.since = now
            if self._connected:
                self._ran.append((outcomes[0][0], len(outcomes), each * len(outcomes)))
        if event.outcomes:
            child.late = False
            self._note_begun(child, now)
        effects += self._report("settle", outcomes)
        self._rest_seconds = 0.0
        self._progress = now
        return [*effects, *self._retire_if_worn(child, now), *self._thin_out()]

    def _note_part(self, child: Child, token: int, count: int) -> int | None:
        """With which item they begin, if the master is to hear that so many more items of a chunk have ended."""
        item = child.running.get(token)
        if item is None or item.void or not item.chunk or count < 1:
            return None
        item.advance(count)
        return item.done - count

    def _note_outcome(self, child: Child, token: int, seconds: float) -> bool:
        """Whether the master is to hear how a task has ended."""
        item = child.remove(token)
        if item is None:
            return False  # made up
        self._limits.lift(token)
        if item.void:
            return False
        self._durations.note(item.measure, seconds)
        return True

    def _started(self, event: Started, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        item = None if child is None else child.running.get(event.token)
        if item is not None and not item.void:
            item.retry_memory = event.retry_memory
            match item.options.get(TIMEOUT):
                case float(seconds):
                    item.retry = event.retry
                    self._limits.interrupt_at(item.token, event.child, now + seconds)
        return []

    def _printed(self, event: Printed, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        if child is None:
            return []
        rows = [row for row in event.rows if row[0] in child.running and not child.running[row[0]].void]
        return [Send(("output", rows))] if rows else []

    def _unstarted(self, event: Unstarted, now: float) -> list[Effect]:
        """A child waits for tasks of its own: what it was to run after that must not wait for it."""
        if (child := self._children.get(event.child)) is None:
            return []
        items = [item for token in event.tokens if (item := child.remove(token)) is not None]
        if child.left is not None:
            child.left += len(items)
        self._queue_again(items)
        return [] if self._drain_until is None else self._give_back_queue()

    def _lent(self, event: Lent, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        if child is None:
            return []
        child.lending = event.lending
        self._progress = now
        return [*self._retire_if_worn(child, now), *self._thin_out()]

    def _relay_opened(self, event: RelayOpened, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        number = None if child is None else self._relays.open(event.child, event.channel)
        if child is None or number is None:
            return []
        return [Send(("relay_open", number, child.session, event.info))]

    def _relayed(self, event: Relayed, now: float) -> list[Effect]:
        number = self._relays.outward(event.child, event.channel)
        return [] if number is None else [Send(("relay", number, event.batch))]

    def _relay_closed(self, event: RelayClosed, now: float) -> list[Effect]:
        number = self._relays.close(event.child, event.channel)
        return [] if number is None else [Send(("relay_close", number))]

    # --- children that end -------------------------------------------------------------------------------------

    def _child_died(self, event: ChildDied, now: float) -> list[Effect]:
        retired = self._retiring.pop(event.child, None) is not None
        child = self._children.pop(event.child, None)
        effects = self._close_channels(event.child)
        if retired or child is None:
            return effects
        if not child.running and not child.condemned:
            return [*effects, Note("warning", f"an idle child process ended: {event.reason}")]
        self._progress = now
        for token in child.running:
            self._limits.lift(token)
        verdict = self._inquest.hold(child, event)
        self._queue_again(verdict.again)
        effects += self._report("parts", verdict.parts, verdict.starts)
        effects += self._report("settle", verdict.outcomes)
        return [*effects, Note("warning", verdict.note)] if verdict.note else effects

    def _measured(self, event: Measured, now: float) -> list[Effect]:
        child = self._children.get(event.child)
        if child is None or child.condemned:
            return []
        limit = self._inquest.limit(child)
        if not limit or event.used_bytes <= limit:
            return []
        child.condemned, child.excess, child.suspect = True, event.used_bytes, next(iter(child.running))
        text = (
            f"a child process is killed: it took {in_bytes(event.used_bytes)} of memory, its limit is {in_bytes(limit)}"
        )
        return [Note("warning", text), Condemn(child.number)]

    def _crowded(self, event: Crowded, now: float) -> list[Effect]:
        """A task that is over shall not go on in the processes that it started: they end with the child."""
        if (child := self._children.get(event.child)) is None:
            return []
        child.crowded = True
        text = "a child process is replaced: a task was interrupted, and has left processes behind"
        return [Note("warning", text), *self._retire_if_worn(child, now)]

    def _start_failed(self, event: StartFailed, now: float) -> list[Effect]:
        """Not the tasks' fault: others may have them, and this worker rests, longer each time it fails again."""
        if (child := self._children.pop(event.child, None)) is not None:
            self._queue_again(child.running.values())
        self._rest_seconds = min(MAX_REST_SECONDS, 2 * self._rest_seconds or 1.0)
        self._rest_until = now + self._rest_seconds
        text = f"no process could be started ({event.reason}); this worker rests for {self._rest_seconds:g} s"
        return [Note("error", text), *self._tell_rest(now), *self._give_back_queue()]

    def _tell_rest(self, now: float) -> list[Effect]:
        """Say why we want nothing, if it is that."""
        resting = self._connected and self._rest_until is not None and self._rest_until > now
        return [Send(("rest", self._rest_until - now))] if resting else []  # type: ignore[operator]

    def _queue_again(self, items: Iterable[Item]) -> None:
        """Put tasks that a child had to the front, in order, but for those that were cancelled."""
        tasks = [*items]
        for item in tasks:
            self._limits.lift(item.token)
            item.begun, item.end = False, None
        self._queue.extendleft(item for item in reversed(tasks) if not item.void)

    def _retire_if_worn(self, child: Child, now: float) -> list[Effect]:
        if not child.worn or not child.idle:
            return []
        del self._children[child.number]
        self._retiring[child.number] = now + RETIRE_SECONDS
        return [Retire(child.number)]

    def _kill(self, child: Child) -> list[Effect]:
        del self._children[child.number]
        for token in child.running:
            self._limits.lift(token)
        return [Kill(child.number), *self._close_channels(child.number)]

    def _close_channels(self, child: int) -> list[Effect]:
        return [Send(("relay_close", number)) for number in self._relays.close_all(child)]

    # --- which child gets what ---------------------------------------------------------------------------------

    def _assign(self, now: float) -> list[Effect]:
        """Give queued tasks to children: to those of the same session and code, or to a new one in a free slot."""
        effects: list[Effect] = []
        while self._queue:
            item = self._queue[0]
            child = self._child_for(item)
            if child is None and self._busy() >= self._slots:
                if (child := self._nearly_free(item, now)) is None:
                    break
                effects += self._hand_over(child, item, now, ahead=True)
                continue
            if child is None:
                effects += self._make_room()
                lifetime = item.options.get("lifetime")
                child = Child(
                    self._next_child, item.session, item.needs, lifetime if isinstance(lifetime, int) else None
                )
                self._next_child += 1
                self._children[child.number] = child
                effects.append(Start(child.number, child.needs))
            effects += self._hand_over(child, item, now)
        return effects

    def _nearly_free(self, item: Item, now: float) -> Child | None:
        """A child that is about to end a task, and would otherwise have to wait for us then."""
        if item.careful or TIMEOUT in item.options:
            return None
        for child in self._children.values():
            may = len(child.running) <= self._threads and child.suits(item)
            if may and any(end - CHILD_SECONDS <= now < end + STUCK_SECONDS for end in child.ends(self._threads)):
                return child
        return None

    def _note_begun(self, child: Child, now: float) -> None:
        """Those of a child's tasks that run: of the new ones among them, when they are expected to end."""
        for item in child.first(self._threads):
            if not item.begun:
                item.begun = True
                if not (item.careful or TIMEOUT in item.options):
                    seconds = self._durations.get(item.measure)
                    item.end = None if seconds is None else now + seconds

    def _busy(self) -> int:
        return sum(child.busy for child in self._children.values())

    def _child_for(self, item: Item) -> Child | None:
        """The child that can take ``item`` now: an idle one, or, when no slot is free, one whose pipe holds little."""
        suitable = [
            child for child in self._children.values() if child.suits(item) and not (child.late and child.running)
        ]
        best = min(suitable, key=lambda child: len(child.running), default=None)
        if best is None:
            return None
        free = self._busy() < self._slots
        most = 0 if free else max(self._room(item) // 2, self._threads - 1)
        wakes = not best.running  # it would be one more at work
        return best if len(best.running) <= most and (free or not wakes) else None

    def _room(self, item: Item) -> int:
        """How many tasks like this one a child may have, running and in its pipe."""
        alone = item.careful or TIMEOUT in item.options
        return self._threads * (1 if alone else self._durations.in_pipe(item.measure))

    def _portion(self, child: Child, first: Item) -> int:
        """How many tasks like ``first`` to give to a child at once."""
        room = self._room(first)
        if room == self._threads:
            room -= len(child.running)
        share = -(-len(self._queue) // self._slots)
        return min(room, share) if child.left is None else min(room, share, child.left)

    def _hand_over(self, child: Child, first: Item, now: float, ahead: bool = False) -> list[Effect]:
        """Have the child run tasks like ``first``; of one that runs apart the master hears before that."""
        portion = 1 if first.careful or ahead else self._portion(child, first)
        if len(child.running) <= self._threads:
            child.since = now
        self._progress = now
        tasks: list[tuple[int, bytes]] = []
        while self._queue and len(tasks) < portion:
            item = self._queue[0]
            if not item.resembles(first):
                break
            self._queue.popleft()
            child.running[item.token] = item
            tasks.append((item.token, item.payload))
        if child.left is not None:
            child.left -= len(tasks)
        new = first.function_id not in child.functions
        child.functions.add(first.function_id)
        self._children.move_to_end(child.number)
        self._note_begun(child, now)
        run = Run(child.number, first.function_id, new, tasks, first.options)
        return [Send(("begun", [first.token])), run] if first.careful and self._connected else [run]

    def _make_room(self) -> list[Effect]:
        idle = [child for child in self._children.values() if child.idle]
        return self._kill(idle[0]) if len(idle) >= WARM_CHILDREN else []

    def _thin_out(self) -> list[Effect]:
        """End children that only the waiting of others had brought about."""
        excess = sum(not child.lending for child in self._children.values()) - self._slots - WARM_CHILDREN + 1
        if excess <= 0:
            return []
        idle = [child for child in self._children.values() if child.idle]
        return [effect for child in idle[:excess] for effect in self._kill(child)]

    # --- asking for tasks, and giving them back ----------------------------------------------------------------

    def _announce(self, now: float) -> list[Effect]:
        """Tell the master how many tasks we would take, when that has changed enough to matter."""
        if not self._connected or self._drain_until is not None:
            self._credit.want_nothing()
            return []
        resting = self._rest_until is not None
        limit = self._credit.new_limit(self._children.values(), len(self._queue), resting, now)
        return [] if limit is None else [Send(("want", limit))]

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
        effects = [*self._enforce(now), *self._recall(now)]
        if self._queue and now - self._progress > STUCK_SECONDS:
            # Let others have what waits behind what takes longer than its function used to, or behind what takes long.
            for child in self._children.values():
                if not child.ends_later(now, self._threads):
                    self._note_late(child)
            effects += self._give_back_queue()
        return effects

    def _recall(self, now: float) -> list[Effect]:
        """What lies behind a task that takes long shall not wait for it: have the child give it back."""
        effects: list[Effect] = []
        for child in self._children.values():
            if self._keeps_waiting(child) and now - child.since > STUCK_SECONDS:
                child.since = now  # asked again in a while, if it was between two tasks
                self._note_late(child)
                effects.append(Recall(child.number))
        return effects

    def _keeps_waiting(self, child: Child) -> bool:
        return len(child.running) > self._threads and not child.lending

    def _note_late(self, child: Child) -> None:
        child.late = bool(child.running)
        for item in child.running.values():
            item.end = None
            self._durations.note_late(item.measure)

    def _enforce(self, now: float) -> list[Effect]:
        """Interrupt tasks whose time is up, and kill children that did not end one in time."""
        effects: list[Effect] = []
        for token, due in self._limits.take_due(now):
            child = self._children[due.child]
            item = child.running[token]
            if not due.kill:
                item.overdue = True
                seconds = item.options[TIMEOUT]
                assert isinstance(seconds, float)
                effects.append(Interrupt(child.number, token, seconds))
                self._limits.kill_at(token, child.number, now + TIMEOUT_GRACE_SECONDS)
            elif not child.condemned and [*child.running].index(token) < self._threads:
                child.condemned = True
                what = "its timeout was over" if item.overdue and not item.void else "it was cancelled"
                text = f"a child process is killed: a task went on after it was interrupted, for {what}"
                effects += [Note("warning", text), Condemn(child.number)]
            # Otherwise it has not started, and will not, for the child knows that it was cancelled.
        for number in [number for number, at in self._retiring.items() if at <= now]:
            del self._retiring[number]
            effects += [Kill(number), *self._close_channels(number)]
        return effects

    def _drain_asked(self, event: DrainAsked, now: float) -> list[Effect]:
        if self._drain_until is not None:
            return self._stop_running()
        self._drain_until = now + self._drain_timeout
        drain: list[Effect] = [Note("info", f"draining: {self.held} tasks in hand, none is taken any more")]
        recalls = [Recall(child.number) for child in self._children.values() if self._keeps_waiting(child)]
        return [*drain, Send(("drain",)), *self._give_back_queue(), *recalls]

    def _stop_running(self) -> list[Effect]:
        """Give back even what runs, unpenalised, and stop it; wait for nothing any more."""
        self._draining = True
        effects = self._give_back_queue()
        busy = [child for child in self._children.values() if child.running]
        tokens = [item.token for child in busy for item in child.running.values() if not item.void]
        for child in busy:
            effects += self._kill(child)
        return [*effects, Send(("give_back", tokens))] if tokens else effects
