"""The broker's rules: ``handle(event, now) -> effects``. Knows no clock, socket or file; ``service.py`` has those."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import Any

from multihost.broker.blobs import BlobStore
from multihost.broker.events import (
    Called,
    ClientCame,
    Close,
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
from multihost.broker.leases import LeaseTable
from multihost.broker.queues import METHODS, Reply, SharedQueue
from multihost.broker.ready import ReadyQueue
from multihost.broker.tasks import PLAIN, Task, TaskEvent, TaskOptions
from multihost.errors import ProtocolError, WorkerDied
from multihost.payload import dump_error
from multihost.wire.messages import CANCELLED, OUTCOME_KINDS

MAX_DELIVERIES = 3
TICK_SECONDS = 0.5
# A gap of this many ticks means that the master itself stood still; nobody is blamed for the time it did not see.
_PAUSE_TICKS = 4


@dataclass(slots=True, eq=False)
class Session:
    """One client's tasks. Outcomes stay until the client has acknowledged them."""

    session_id: str
    name: str
    connection: int | None
    next_sequence: int = 0  # every lower number is a task that was accepted
    outcomes: dict[int, tuple[str, bytes, str]] = field(default_factory=dict)  # kind, content, whence it came
    left_at: float = 0.0


@dataclass(slots=True, eq=False)
class Worker:
    """One registration of a worker."""

    connection: int
    worker_id: str
    name: str
    slots: int
    python: str
    heard: float
    wanted: int = 0  # how many more tasks it will take, as it said last and less what was granted since
    draining: bool = False
    known: set[str] = field(default_factory=set)  # ids of the blobs it has
    settled: int = 0


class BrokerCore:
    """See the module. ``statistics`` is a plain dict because it crosses the wire."""

    def __init__(self, lease_timeout: float, session_timeout: float, queues: list[str], queue_size: int = 0) -> None:
        self._lease_timeout = lease_timeout  # seconds of silence after which a worker is lost
        self._session_timeout = session_timeout  # seconds a session waits for its client to come back
        self._queues = {name: SharedQueue(queue_size) for name in queues}
        self._sessions: dict[str, Session] = {}
        self._clients: dict[int, Session] = {}
        self._workers: dict[int, Worker] = {}
        self._hungry: OrderedDict[int, Worker] = OrderedDict()  # workers that want tasks, longest waiting first
        self._ready = ReadyQueue()
        self._leases = LeaseTable()
        self._blobs = BlobStore()
        self._ticked: float | None = None
        self._counts = dict.fromkeys(("submitted", "done", "failed", "dead", "cancelled", "redelivered", "stale"), 0)
        self._handlers: dict[type, Callable[[Any, float], list[Effect]]] = {
            ClientCame: self._client_came,
            WorkerCame: self._worker_came,
            Said: self._said,
            Heard: self._heard,
            Called: self._called,
            Gone: self._gone,
            Tick: self._tick,
        }
        self._messages: dict[str, Callable[..., list[Effect]]] = {
            "blob": self._blob,
            "submit": self._submit,
            "acknowledge": self._acknowledge,
            "cancel": self._cancel,
            "ping": self._ping,
            "close": self._close,
            "want": self._want,
            "settle": self._settle,
            "give_back": self._give_back,
            "drain": self._drain,
            "heartbeat": self._ping,
            "ask": self._ask,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Apply one event; the effects are to be performed in order.

        A message that breaks the rules is not applied, nor what follows it in its batch; its connection is closed.
        """
        return self._handlers[type(event)](event, now)

    def next_deadline(self) -> float | None:
        """When a waiting call to a shared queue times out next (a ``Tick`` is due then)."""
        return min((d for q in self._queues.values() if (d := q.next_deadline()) is not None), default=None)

    def session_state(self, session: str) -> dict[str, object]:
        """What a client is told when its connection begins: up to which number its tasks are here, and who works."""
        return {"accepted": self._sessions[session].next_sequence, **self._strength()}

    def knows(self, session: str) -> bool:
        return session in self._sessions

    def statistics(self) -> dict[str, object]:
        """What the master knows, in plain data."""
        return {
            "queued": len(self._ready),
            "leased": len(self._leases),
            "sessions": len(self._sessions),
            "blobs": len(self._blobs),
            **self._counts,
            "queues": {name: len(queue) for name, queue in self._queues.items()},
            "workers": [
                {
                    "id": w.worker_id,
                    "name": w.name,
                    "state": "draining" if w.draining else "ready",
                    "slots": w.slots,
                    "python": w.python,
                    "leases": self._leases.count(w.connection),
                    "settled": w.settled,
                }
                for w in self._workers.values()
            ],
        }

    # --- connections -------------------------------------------------------------------------------------------

    def _client_came(self, event: ClientCame, now: float) -> list[Effect]:
        effects: list[Effect] = []
        session = self._sessions.get(event.session)
        if session is None:
            session = self._sessions[event.session] = Session(event.session, event.name, event.connection)
            self._ready.open(event.session, event.limit)
            effects.append(Note("info", f"session began: {event.name}", {"session": event.session}))
        elif session.connection is not None:
            self._clients.pop(session.connection, None)
            effects.append(Close(session.connection, "its client came back on another connection"))
        session.connection = event.connection
        self._clients[event.connection] = session
        if session.outcomes:
            effects.append(self._outcomes(session, list(session.outcomes)))
        return effects

    def _worker_came(self, event: WorkerCame, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for old in [w for w in self._workers.values() if w.worker_id == event.worker_id]:
            effects += self._lose_worker(old, "it came back on another connection")
            effects.append(Close(old.connection, "its worker came back on another connection"))
        connection, worker_id, name, slots, python = event
        self._workers[connection] = Worker(connection, worker_id, name, slots, python, heard=now)
        fields: dict[str, object] = {"worker": name, "worker_id": worker_id, "slots": slots}
        effects.append(Note("info", f"worker joined: {name}, {slots} slots, Python {python}", fields))
        return [*effects, *self._tell_workers(before=len(self._workers) - 1), *self._match()]

    def _gone(self, event: Gone, now: float) -> list[Effect]:
        if (worker := self._workers.get(event.connection)) is not None:
            return [*self._lose_worker(worker, "its connection closed"), *self._match()]
        if (session := self._clients.pop(event.connection, None)) is not None:
            session.connection, session.left_at = None, now
            fields: dict[str, object] = {"session": session.session_id}
            return [Note("info", f"client left without closing its session: {session.name}", fields)]
        return [reply for q in self._queues.values() for reply in q.leave(event.connection, event.delivered)]

    def _heard(self, event: Heard, now: float) -> list[Effect]:
        if (worker := self._workers.get(event.connection)) is not None:
            worker.heard = now
        return []

    def _called(self, event: Called, now: float) -> list[Effect]:
        connection, name, method, args, kwds = event
        for queue in self._queues.values():  # one connection may serve all the queues of a caller
            queue.confirm(connection)
        if method == "__repr__" or method == "__str__":
            return [Reply(connection, "#RETURN", f"<shared queue {name!r}, {len(self._queues[name])} items>")]
        try:
            return list(self._queues[name].call(connection, method, args, kwds, now))
        except ProtocolError as error:
            return [Close(connection, str(error), broke_rules=True)]

    def exposed(self, queue: str) -> tuple[str, ...] | None:
        """The methods of a shared queue; None when there is no queue of that name."""
        return METHODS if queue in self._queues else None

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: float) -> list[Effect]:
        effects = self._forgive_own_pause(now)
        for worker in [w for w in self._workers.values() if now - w.heard > self._lease_timeout]:
            effects += self._lose_worker(worker, f"no heartbeat for {self._lease_timeout:g} s")
            effects.append(Close(worker.connection, "its heartbeat fell silent"))
        for session in [s for s in self._sessions.values() if s.connection is None]:
            if now - session.left_at > self._session_timeout:
                text = f"session closed: its client stayed away for {self._session_timeout:g} s ({session.name})"
                effects.append(Note("warning", text, {"session": session.session_id}))
                effects += self._end_session(session)
        for queue in self._queues.values():
            effects += queue.expire(now)
        return effects + self._match()

    def _forgive_own_pause(self, now: float) -> list[Effect]:
        before, self._ticked = self._ticked, now
        if before is None or now - before <= _PAUSE_TICKS * TICK_SECONDS:
            return []
        unseen = now - before
        for worker in self._workers.values():
            worker.heard += unseen
        for session in self._sessions.values():
            session.left_at += unseen
        text = f"the master stood still for {unseen:.1f} s; no lease expires for that time"
        return [Note("warning", text, {"seconds": unseen})]

    # --- what peers say ----------------------------------------------------------------------------------------

    def _said(self, event: Said, now: float) -> list[Effect]:
        connection = event.connection
        if (worker := self._workers.get(connection)) is not None:
            worker.heard = now
        effects: list[Effect] = []
        try:
            for name, *fields in event.batch:
                effects += self._messages[str(name)](connection, *fields)
        except ProtocolError as error:
            effects += [Send(connection, ("refused", str(error))), Close(connection, str(error), broke_rules=True)]
        return effects + self._match()

    def _ping(self, connection: int) -> list[Effect]:
        return [Send(connection, ("pong",))]

    def _ask(self, connection: int) -> list[Effect]:
        return [Send(connection, ("statistics", self.statistics()))]

    def _blob(self, connection: int, blob_id: str, content: bytes, needs: tuple[str, ...]) -> list[Effect]:
        self._blobs.add(self._session_of(connection).session_id, blob_id, content, needs)
        return []

    def _submit(
        self, connection: int, first: int, function_id: str, plain: dict[object, object], payloads: list[bytes]
    ) -> list[Effect]:
        session = self._session_of(connection)
        if first < 0:
            raise ProtocolError("a submit numbers its tasks from 0")
        if not self._blobs.has(session.session_id, function_id):
            raise ProtocolError("a submit names a function that was not sent before it")
        # A client numbers its tasks in order, so what it repeats after a lost answer is below next_sequence.
        options = TaskOptions.parse(plain) if plain else PLAIN
        known = max(0, session.next_sequence - first)
        tasks = [
            Task(session.session_id, sequence, function_id, payload, options)
            for sequence, payload in enumerate(payloads[known:], start=first + known)
        ]
        session.next_sequence = max(session.next_sequence, first + len(payloads))
        self._ready.extend(session.session_id, tasks)
        self._counts["submitted"] += len(tasks)
        return [Send(connection, ("accepted", session.next_sequence))]

    def _acknowledge(self, connection: int, sequences: list[int]) -> list[Effect]:
        outcomes = self._session_of(connection).outcomes
        for sequence in sequences:
            outcomes.pop(sequence, None)
        return []

    def _cancel(self, connection: int, sequences: list[int], running: bool) -> list[Effect]:
        session = self._session_of(connection)
        tasks = self._ready.withdraw(session.session_id, set(sequences))
        for task in tasks:
            self._record(task, TaskEvent.DROPPED, CANCELLED, b"")
        withdrawn = [task.sequence for task in tasks]
        effects: list[Effect] = [self._outcomes(session, withdrawn)] if withdrawn else []
        if late := sorted(set(sequences).difference(withdrawn)):
            effects.append(Send(connection, ("too_late", late)))
        return effects

    def _close(self, connection: int) -> list[Effect]:
        session = self._session_of(connection)
        fields: dict[str, object] = {"session": session.session_id}
        return [
            Note("info", f"session ended: {session.name}", fields),
            *self._end_session(session),
            Close(connection, "its session ended"),
        ]

    def _want(self, connection: int, count: int) -> list[Effect]:
        worker = self._worker_of(connection)
        if not 0 <= count <= 1_000_000:
            raise ProtocolError("a worker may want up to a million tasks")
        worker.wanted = 0 if worker.draining else count
        self._note_hunger(worker)
        return []

    def _settle(self, connection: int, outcomes: list[tuple[int, str, bytes]]) -> list[Effect]:
        worker = self._worker_of(connection)
        if not all(kind in _OUTCOMES for _, kind, _ in outcomes):
            raise ProtocolError(f"a task ends with one of {', '.join(_OUTCOMES)}")
        effects: list[Effect] = []
        settled: dict[Session, list[int]] = {}
        for token, kind, content in outcomes:
            event = _OUTCOMES[kind]
            task = self._leases.end(token, connection)
            if task is None:
                self._counts["stale"] += 1
            elif event is TaskEvent.LOST:
                effects += self._lose(task, f"{content.decode('utf-8', 'replace')} on worker {worker.name}")
            else:
                worker.settled += 1
                self._ready.ended(task)
                settled.setdefault(self._record(task, event, kind, content), []).append(task.sequence)
        return effects + [self._outcomes(s, sequences) for s, sequences in settled.items() if s.connection is not None]

    def _give_back(self, connection: int, tokens: list[int]) -> list[Effect]:
        worker = self._worker_of(connection)
        tasks = [task for token in tokens if (task := self._leases.end(token, connection)) is not None]
        for task in reversed(tasks):
            task.apply(TaskEvent.GIVEN_BACK)
            self._ready.take_back(task)
        return [Note("debug", f"worker {worker.name} gave back {len(tasks)} tasks", {"worker": worker.name})]

    def _drain(self, connection: int) -> list[Effect]:
        worker = self._worker_of(connection)
        worker.draining, worker.wanted = True, 0
        self._note_hunger(worker)
        # What was granted before this answer reaches the worker before it, so it can give that back and then leave.
        note = Note("info", f"worker drains: {worker.name}", {"worker": worker.name})
        return [note, Send(connection, ("draining",))]

    # --- the rules ---------------------------------------------------------------------------------------------

    def _match(self) -> list[Effect]:
        """Grant ready tasks to the workers that want some, evenly, the one that has waited longest first."""
        effects: list[Effect] = []
        sharers = 0  # how many of the hungry ones have not had their share in this round
        while self._hungry and (available := self._ready.available):
            sharers = sharers or len(self._hungry)
            share = -(-available // sharers)
            sharers -= 1
            _, worker = self._hungry.popitem(last=False)
            tasks = self._ready.take(min(share, worker.wanted))
            worker.wanted -= len(tasks)
            self._note_hunger(worker)
            for (session, function_id), run in groupby(tasks, key=attrgetter("session", "function_id")):
                effects += self._grant(worker, session, function_id, list(run))
        return effects

    def _grant(self, worker: Worker, session: str, function_id: str, tasks: list[Task]) -> list[Effect]:
        effects: list[Effect] = []
        for blob_id, content in self._blobs.missing(function_id, worker.known):
            worker.known.add(blob_id)
            effects.append(Send(worker.connection, ("blob", blob_id, content)))
        granted = []
        for task in tasks:
            task.apply(TaskEvent.GRANTED)
            granted.append((self._leases.grant(task, worker.connection), task.payload))
        needs = self._blobs.needs(function_id)
        effects.append(Send(worker.connection, ("grant", session, function_id, needs, {}, granted)))
        return effects

    def _note_hunger(self, worker: Worker) -> None:
        if worker.wanted > 0 and not worker.draining:
            self._hungry.setdefault(worker.connection, worker)
        else:
            self._hungry.pop(worker.connection, None)

    def _record(self, task: Task, event: TaskEvent, kind: str, content: bytes) -> Session:
        """The one place where a task gets its outcome."""
        task.apply(event)
        self._counts[task.state.name.lower()] += 1
        session = self._sessions[task.session]
        session.outcomes[task.sequence] = (kind, content, "")
        return session

    def _outcomes(self, session: Session, sequences: list[int]) -> Send:
        assert session.connection is not None
        return Send(
            session.connection,
            ("outcomes", [(sequence, *session.outcomes[sequence]) for sequence in sequences]),
        )

    def _lose(self, task: Task, reason: str) -> list[Effect]:
        """A leased task's process or worker is gone: queue it again, or give it up."""
        task.losses = (*task.losses, reason)
        fields: dict[str, object] = {
            "session": task.session,
            "task": task.sequence,
            "delivery": len(task.losses),
        }
        if len(task.losses) < MAX_DELIVERIES:
            task.apply(TaskEvent.LOST)
            self._ready.take_back(task)
            self._counts["redelivered"] += 1
            return [Note("warning", f"task {task.sequence} queued again: {reason}", fields)]
        self._ready.ended(task)
        session = self._record(task, TaskEvent.SPENT, "error", dump_error(WorkerDied(task.losses)))
        effects: list[Effect] = [Note("error", f"task {task.sequence} is a dead letter: {reason}", fields)]
        if session.connection is not None:
            effects.append(self._outcomes(session, [task.sequence]))
        return effects

    def _lose_worker(self, worker: Worker, reason: str) -> list[Effect]:
        del self._workers[worker.connection]
        self._hungry.pop(worker.connection, None)
        tasks = self._leases.end_all(worker.connection)
        level = "warning" if tasks else "info"
        text = f"worker left: {worker.name}, {len(tasks)} leases ({reason})"
        effects: list[Effect] = [Note(level, text, {"worker": worker.name, "leases": len(tasks)})]
        for task in reversed(tasks):
            effects += self._lose(task, f"worker {worker.name} was lost: {reason}")
        return effects + self._tell_workers(before=len(self._workers) + 1)

    def _tell_workers(self, before: int) -> list[Effect]:
        """Clients want to know when the last worker leaves and when the first one comes."""
        count = len(self._workers)
        if (before == 0) == (count == 0):
            return []
        slots = sum(worker.slots for worker in self._workers.values())
        return [Send(connection, ("workers", count, slots)) for connection in self._clients]

    def _strength(self) -> dict[str, object]:
        return {"workers": len(self._workers), "slots": sum(worker.slots for worker in self._workers.values())}

    def _end_session(self, session: Session) -> list[Effect]:
        """Cancel what is left of a session, and have the workers forget it."""
        del self._sessions[session.session_id]
        if session.connection is not None:
            self._clients.pop(session.connection, None)
        for task in self._ready.close(session.session_id):
            task.apply(TaskEvent.DROPPED)
            self._counts["cancelled"] += 1
        for holder, token, task in [lease for lease in self._leases if lease[2].session == session.session_id]:
            self._leases.end(token, holder)
            task.apply(TaskEvent.DROPPED)
            self._counts["cancelled"] += 1
        unused = self._blobs.release(session.session_id)
        effects: list[Effect] = []
        for worker in self._workers.values():
            drop = sorted(unused & worker.known)
            worker.known -= unused
            effects.append(Send(worker.connection, ("forget", session.session_id, drop)))
        return effects

    def _session_of(self, connection: int) -> Session:
        if (session := self._clients.get(connection)) is None:
            raise ProtocolError("this connection's session has ended")
        return session

    def _worker_of(self, connection: int) -> Worker:
        if (worker := self._workers.get(connection)) is None:
            raise ProtocolError("this connection's worker was given up")
        return worker


# What a worker may say of a task, and what that does to it.
_OUTCOMES = dict(
    zip(OUTCOME_KINDS, (TaskEvent.SUCCEEDED, TaskEvent.RAISED, TaskEvent.RETRIED, TaskEvent.LOST), strict=True)
)
