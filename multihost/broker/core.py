"""The broker's rules: ``handle(event, now) -> effects``. Knows no clock, socket or file; ``service.py`` has those."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter
from typing import Any

from multihost.broker.blobs import BlobStore
from multihost.broker.delayed import DelayedTasks
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
from multihost.broker.members import Link, Session, Worker
from multihost.broker.queues import METHODS, Reply, SharedQueue
from multihost.broker.ready import ReadyQueue
from multihost.broker.tasks import PLAIN, Task, TaskEvent, TaskOptions
from multihost.errors import ProtocolError, WorkerDied
from multihost.payload import dump_error, dump_part
from multihost.wire.messages import CANCELLED, OUTCOME_KINDS, PART, Message, check_batch

MAX_DELIVERIES = 3
TICK_SECONDS = 0.5
# A gap of this many ticks means that the master itself stood still; nobody is blamed for the time it did not see.
_PAUSE_TICKS = 4


class BrokerCore:
    """See the module. ``statistics`` is a plain dict because it crosses the wire."""

    def __init__(self, lease_timeout: float, session_timeout: float, queues: list[str], queue_size: int = 0) -> None:
        self._lease_timeout = lease_timeout  # seconds of silence after which a worker is lost
        self._session_timeout = session_timeout  # seconds a session waits for its client to come back
        self._queues = {name: SharedQueue(queue_size) for name in queues}
        self._sessions: dict[str, Session] = {}
        self._clients: dict[Link, Session] = {}
        self._workers: dict[int, Worker] = {}
        self._hungry: OrderedDict[int, Worker] = OrderedDict()  # workers that want tasks, longest waiting first
        self._ready = ReadyQueue()
        self._delayed = DelayedTasks()
        self._leases = LeaseTable()
        self._blobs = BlobStore()
        self._now = 0.0  # of the event that is being handled
        self._ticked: float | None = None
        self._counts = dict.fromkeys(_COUNTS, 0)
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
            "parts": self._parts,
            "output": self._output,
            "relay_open": self._relay_open,
            "relay": self._relay,
            "relay_close": self._relay_close,
            "give_back": self._give_back,
            "drain": self._drain,
            "heartbeat": self._ping,
            "ask": self._ask,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Apply one event; the effects are to be performed in order.

        A message that breaks the rules is not applied, nor what follows it in its batch; its connection is closed.

        Raises: ProtocolError: a client came for a session that it cannot have.
        """
        self._now = now
        return self._handlers[type(event)](event, now)

    def next_deadline(self) -> float | None:
        """When a ``Tick`` is due: a call to a shared queue times out, or a delayed task's time has come."""
        deadlines = [self._delayed.next_due(), *(queue.next_deadline() for queue in self._queues.values())]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def session_state(self, session: str) -> dict[str, object]:
        """What a client is told when its connection begins: up to which number its tasks are here, and who works."""
        return {"accepted": self._sessions[session].next_sequence, **self._strength()}

    def knows(self, session: str) -> bool:
        return session in self._sessions

    def statistics(self) -> dict[str, object]:
        """What the master knows, in plain data."""
        return {
            "queued": len(self._ready) + len(self._delayed),
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
                    "labels": sorted(w.labels),
                    "leases": self._leases.count(w.connection),
                    "settled": w.settled,
                }
                for w in self._workers.values()
            ],
        }

    # --- connections -------------------------------------------------------------------------------------------

    def _client_came(self, event: ClientCame, now: float) -> list[Effect]:
        session = self._sessions.get(event.session)
        if session is None:
            begun = Session(event.session, event.name, event.connection, event.session, lifetime=event.lifetime)
            self._begin(begun, event.limit)
            return [Note("info", f"session began: {event.name}", {"session": event.session})]
        if session.nested:
            raise ProtocolError("a task has opened this session, and it speaks through its worker")
        effects: list[Effect] = []
        if session.link is not None:
            self._clients.pop(session.link, None)
            effects.append(Close(session.link, "its client came back on another connection"))
        session.link = event.connection
        self._clients[event.connection] = session
        if rows := session.all_rows():
            effects.append(Send(event.connection, ("outcomes", rows)))
        return effects

    def _begin(self, session: Session, limit: int | None) -> None:
        assert session.link is not None
        self._sessions[session.session_id] = self._clients[session.link] = session
        self._ready.open(session.session_id, limit, session.family, session.depth)

    def _worker_came(self, event: WorkerCame, now: float) -> list[Effect]:
        effects: list[Effect] = []
        for old in [w for w in self._workers.values() if w.worker_id == event.worker_id]:
            effects += self._lose_worker(old, "it came back on another connection")
            effects.append(Close(old.connection, "its worker came back on another connection"))
        connection, worker_id, name, slots, python, labels = event
        self._workers[connection] = Worker(connection, worker_id, name, slots, python, labels, heard=now)
        fields: dict[str, object] = {"worker": name, "worker_id": worker_id, "slots": slots, "labels": sorted(labels)}
        effects.append(Note("info", f"worker joined: {name}, {slots} slots, Python {python}", fields))
        return [*effects, *self._tell_strength(), *self._match()]

    def _gone(self, event: Gone, now: float) -> list[Effect]:
        if (worker := self._workers.get(event.connection)) is not None:
            return [*self._lose_worker(worker, "its connection closed"), *self._match()]
        if (session := self._clients.pop(event.connection, None)) is not None:
            session.link, session.left_at = None, now
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
        for session in [s for s in self._sessions.values() if s.link is None]:
            if now - session.left_at > self._session_timeout:
                text = f"session closed: its client stayed away for {self._session_timeout:g} s ({session.name})"
                effects.append(Note("warning", text, {"session": session.session_id}))
                effects += self._end_session(session)
        for queue in self._queues.values():
            effects += queue.expire(now)
        for task in self._delayed.take_due(now):
            self._ready.put_first(task)
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
            if worker is not None and worker.connection in self._workers:
                # Now, lest it be granted tasks before its connection has ended.
                effects += self._lose_worker(worker, "it broke the rules")
        return effects + self._match()

    def _ping(self, link: Link) -> list[Effect]:
        return [Send(link, ("pong",))]

    def _ask(self, link: Link) -> list[Effect]:
        return [Send(link, ("statistics", self.statistics()))]

    # --- what clients say --------------------------------------------------------------------------------------

    def _blob(self, link: Link, blob_id: str, content: bytes, needs: tuple[str, ...]) -> list[Effect]:
        self._blobs.add(self._session_of(link).family, blob_id, content, needs)
        return []

    def _submit(
        self, link: Link, first: int, function_id: str, plain: dict[object, object], payloads: list[bytes]
    ) -> list[Effect]:
        session = self._session_of(link)
        if first < 0:
            raise ProtocolError("a submit numbers its tasks from 0")
        if not self._blobs.has(session.family, function_id):
            raise ProtocolError("a submit names a function that was not sent before it")
        options = TaskOptions.parse(plain) if plain else PLAIN
        # A client numbers its tasks in order, so what it repeats after a lost answer is below next_sequence.
        known = max(0, session.next_sequence - first)
        tasks = [
            Task(session.session_id, sequence, function_id, payload, options)
            for sequence, payload in enumerate(payloads[known:], start=first + known)
        ]
        session.next_sequence = max(session.next_sequence, first + len(payloads))
        self._ready.extend(session.session_id, tasks)
        self._counts["submitted"] += len(tasks)
        effects: list[Effect] = [Send(link, ("accepted", session.next_sequence))]
        return effects + self._tell_lacking([session]) if options.labels else effects

    def _acknowledge(self, link: Link, sequences: list[int]) -> list[Effect]:
        session = self._session_of(link)
        for sequence in sequences:
            if (
                session.outcomes.pop(sequence, None) is not None
            ):  # before its end, a chunk's parts may still be asked for
                session.parts.pop(sequence, None)
        return []

    def _cancel(self, link: Link, sequences: list[int], running: bool) -> list[Effect]:
        session, wanted = self._session_of(link), set(sequences)
        tasks = self._ready.withdraw(session.session_id, wanted) + self._delayed.withdraw(session.session_id, wanted)
        effects: list[Effect] = []
        if running:
            stopped, effects = self._stop(lambda task: task.session == session.session_id and task.sequence in wanted)
            tasks += stopped
        for task in tasks:
            self._record(task, TaskEvent.DROPPED, CANCELLED, b"")
        cancelled = sorted(task.sequence for task in tasks)
        if cancelled:
            effects.append(Send(link, ("outcomes", session.rows(cancelled))))
        if late := sorted(wanted.difference(cancelled)):
            effects.append(Send(link, ("too_late", late)))
        return effects

    def _close(self, link: Link) -> list[Effect]:
        session = self._session_of(link)
        effects = self._end_session(session)
        if session.nested:
            return effects
        note = Note("info", f"session ended: {session.name}", {"session": session.session_id})
        return [note, *effects, Close(link, "its session ended")]

    # --- what workers say --------------------------------------------------------------------------------------

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
        settled: dict[str, list[int]] = {}
        for token, kind, content in outcomes:
            event = _OUTCOMES[kind]
            task = self._leases.end(token, connection)
            if task is None:
                self._counts["stale"] += 1
            elif event is TaskEvent.LOST:
                effects += self._lose(task, f"{content.decode('utf-8', 'replace')} on worker {worker.name}")
            elif event is TaskEvent.RETRIED and task.tries < task.options.retries:
                self._retry(task)
            else:
                worker.settled += 1
                self._ready.ended(task)
                if event is TaskEvent.RETRIED:  # once too often
                    event, kind = TaskEvent.RAISED, "error"
                told = event is TaskEvent.RAISED or task.options.chunk  # plain results come by the hundred thousand
                whence = f"on worker {worker.name}, delivery {task.delivery}" if told else ""
                self._record(task, event, kind, content, whence)
                settled.setdefault(task.session, []).append(task.sequence)
        for session_id, sequences in settled.items():
            effects += self._tell_outcomes(self._sessions[session_id], sequences)
        return effects

    def _retry(self, task: Task) -> None:
        """Hold a task that raised until its next try is due."""
        task.tries += 1
        task.losses = ()
        task.apply(TaskEvent.RETRIED)
        self._ready.ended(task)
        self._counts["retried"] += 1
        self._delayed.add(task, self._now + task.retry_delay)

    def _parts(self, connection: int, rows: list[tuple[int, int, bytes]]) -> list[Effect]:
        """Some items of chunks have ended: whatever happens to the rest, these are not run again."""
        worker = self._worker_of(connection)
        found = [(self._leases.find(token, connection), count, content) for token, count, content in rows]
        if any(task is not None and not (task.options.chunk and count >= 1) for task, count, _ in found):
            raise ProtocolError("parts are of chunks, and of one item at least")
        effects: list[Effect] = []
        for task, count, content in found:
            if task is None:
                self._counts["stale"] += 1
            else:
                effects += self._note_part(task, count, content, f"on worker {worker.name}, delivery {task.delivery}")
        return effects

    def _note_part(self, task: Task, count: int, content: bytes, whence: str = "") -> list[Effect]:
        session = self._sessions[task.session]
        task.done += count
        task.losses = ()  # they were of the item that has ended now
        session.parts.setdefault(task.sequence, []).append((PART, content, whence))
        row = (task.sequence, PART, content, whence)
        return [] if session.link is None else [Send(session.link, ("outcomes", [row]))]

    def _output(self, connection: int, rows: list[tuple[int, str]]) -> list[Effect]:
        """What tasks print, for their clients; nothing of it is kept."""
        worker = self._worker_of(connection)
        effects: list[Effect] = []
        for token, text in rows:
            task = self._leases.find(token, connection)
            link = None if task is None else self._sessions[task.session].link
            if task is not None and link is not None:
                effects.append(Send(link, ("output", task.sequence, worker.name, text)))
        return effects

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

    # --- sessions that tasks open ------------------------------------------------------------------------------

    def _relay_open(self, connection: int, channel: int, family: str, info: dict[object, object]) -> list[Effect]:
        """A task opens a session, through its worker, which may only do so for a program whose tasks it was granted."""
        worker, link = self._worker_of(connection), (connection, channel)
        if link in self._clients:
            raise ProtocolError("a channel serves one session")
        match info:
            case {"session": str(session_id), "limit": None | int() as limit, "name": str(name), "depth": int(depth)}:
                pass
            case _:
                return [Send(link, ("refused", "this is not how a task's session introduces itself"))]
        if family not in worker.families or family not in self._sessions or session_id in self._sessions:
            return [Send(link, ("refused", "the program whose task this is has ended its session"))]
        parent = self._sessions[family]
        session = Session(session_id, name, link, family, max(1, depth), parent.lifetime)
        self._begin(session, limit)
        answer = {"known": False, **self.session_state(session_id)}
        return [Send(connection, ("relay_open", channel, answer))]

    def _relay(self, connection: int, channel: int, batch: list[Message]) -> list[Effect]:
        """What a task's session says. If that breaks the rules, it is the task's doing, and its worker serves on."""
        link = (connection, channel)
        self._worker_of(connection)
        if link not in self._clients:
            return []  # it has ended, and the task does not know it yet
        effects: list[Effect] = []
        try:
            for name, *fields in check_batch("client", batch):
                effects += self._messages[str(name)](link, *fields)
        except ProtocolError as error:
            effects.append(Send(link, ("refused", str(error))))
            if (session := self._clients.get(link)) is not None:
                effects += self._end_session(session)
        return effects

    def _relay_close(self, connection: int, channel: int) -> list[Effect]:
        self._worker_of(connection)
        session = self._clients.get((connection, channel))
        return [] if session is None else self._end_session(session)

    # --- the rules ---------------------------------------------------------------------------------------------

    def _match(self) -> list[Effect]:
        """Grant ready tasks to the workers that want some, evenly, the one that has waited longest first."""
        effects: list[Effect] = []
        sharers = 0  # how many of the hungry ones have not had their share in this round
        passed = 0  # how many workers in a row found nothing that they may have
        while passed < len(self._hungry) and self._ready.able:
            sharers = sharers or len(self._hungry)
            _, worker = self._hungry.popitem(last=False)
            share = -(-self._ready.available(worker.labels) // sharers)
            sharers -= 1
            tasks = self._ready.take(min(share, worker.wanted), worker.labels)
            worker.wanted -= len(tasks)
            self._note_hunger(worker)
            passed = 0 if tasks else passed + 1
            for (session, function_id, _, _), run in groupby(tasks, key=_BATCH):
                effects += self._grant(worker, self._sessions[session], function_id, list(run))
        return effects

    def _grant(self, worker: Worker, session: Session, function_id: str, tasks: list[Task]) -> list[Effect]:
        effects: list[Effect] = []
        worker.families.add(session.family)
        for blob_id, content in self._blobs.missing(function_id, worker.known):
            worker.known.add(blob_id)
            effects.append(Send(worker.connection, ("blob", blob_id, content)))
        granted = []
        for task in tasks:
            task.apply(TaskEvent.GRANTED)
            granted.append((self._leases.grant(task, worker.connection), task.payload))
        options = dict(tasks[0].options.for_worker)
        if tasks[0].done:
            options["done"] = tasks[0].done
        if session.lifetime is not None:
            options["lifetime"] = session.lifetime
        if session.nested:
            options["depth"] = session.depth
        needs = self._blobs.needs(function_id)
        effects.append(Send(worker.connection, ("grant", session.family, function_id, needs, options, granted)))
        return effects

    def _note_hunger(self, worker: Worker) -> None:
        if worker.wanted > 0 and not worker.draining:
            self._hungry.setdefault(worker.connection, worker)
        else:
            self._hungry.pop(worker.connection, None)

    def _record(self, task: Task, event: TaskEvent, kind: str, content: bytes, whence: str = "") -> None:
        """The one place where a task gets its outcome."""
        task.apply(event)
        self._counts[task.state.name.lower()] += 1
        self._sessions[task.session].outcomes[task.sequence] = (kind, content, whence)

    def _tell_outcomes(self, session: Session, sequences: list[int]) -> list[Effect]:
        return [] if session.link is None else [Send(session.link, ("outcomes", session.rows(sequences)))]

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
        note = Note("error", f"task {task.sequence} is a dead letter: {reason}", fields)
        died = dump_error(WorkerDied(task.losses))
        if task.options.chunk:
            # Only the item that was running is given up; the chunk goes on behind it.
            effects = self._note_part(task, 1, dump_part(task.done, 0.0, [None], {0: died}))
            task.apply(TaskEvent.LOST)
            self._ready.take_back(task)
            return [note, *effects]
        self._ready.ended(task)
        self._record(task, TaskEvent.SPENT, "error", died)
        return [note, *self._tell_outcomes(self._sessions[task.session], [task.sequence])]

    def _stop(self, which: Callable[[Task], bool]) -> tuple[list[Task], list[Effect]]:
        """End the leases of these tasks, and have their workers stop them."""
        effects: list[Effect] = []
        tasks: list[Task] = []
        ended = [lease for lease in self._leases if which(lease[2])]
        for worker, leases in groupby(ended, key=lambda lease: lease[0]):
            tokens = []
            for _, token, task in leases:
                self._leases.end(token, worker)
                self._ready.ended(task)
                tokens.append(token)
                tasks.append(task)
            effects.append(Send(worker, ("stop", tokens)))
        return tasks, effects

    def _lose_worker(self, worker: Worker, reason: str) -> list[Effect]:
        del self._workers[worker.connection]
        self._hungry.pop(worker.connection, None)
        effects: list[Effect] = []
        for link, session in list(self._clients.items()):
            if isinstance(link, tuple) and link[0] == worker.connection:
                effects += self._end_session(session)  # the task that opened it died with the worker
        tasks = self._leases.end_all(worker.connection)
        level = "warning" if tasks else "info"
        text = f"worker left: {worker.name}, {len(tasks)} leases ({reason})"
        effects.append(Note(level, text, {"worker": worker.name, "leases": len(tasks)}))
        for task in reversed(tasks):
            effects += self._lose(task, f"worker {worker.name} was lost: {reason}")
        return effects + self._tell_strength()

    def _strength(self) -> dict[str, int]:
        return {"workers": len(self._workers), "slots": sum(worker.slots for worker in self._workers.values())}

    def _tell_strength(self) -> list[Effect]:
        """A worker has come or gone: clients cut their work by the number of slots, and tell a user who has none."""
        strength = self._strength()
        effects: list[Effect] = [Send(link, ("workers", *strength.values())) for link in self._clients]
        return effects + self._tell_lacking(self._sessions.values())

    def _tell_lacking(self, sessions: Iterable[Session]) -> list[Effect]:
        """Tell clients what of theirs waits for labels that no worker has, when that has changed."""
        effects: list[Effect] = []
        for session in sessions:
            wanted = self._ready.labels_wanted(session.session_id)
            lacking = {labels for labels in wanted if not any(labels <= w.labels for w in self._workers.values())}
            if session.link is not None and lacking - session.lacking:
                rows = [sorted(labels) for labels in lacking - session.lacking]
                effects.append(Send(session.link, ("lacking", sorted(rows))))
            session.lacking = lacking
        return effects

    def _end_session(self, session: Session) -> list[Effect]:
        """Cancel what is left of a session and of those that its tasks have opened."""
        effects: list[Effect] = []
        if not session.nested:
            for inner in [s for s in self._sessions.values() if s.family == session.family and s is not session]:
                effects += self._end_session(inner)
        tasks, stops = self._stop(lambda task: task.session == session.session_id)
        del self._sessions[session.session_id]
        if session.link is not None:
            self._clients.pop(session.link, None)
        tasks += self._ready.close(session.session_id) + self._delayed.close(session.session_id)
        for task in tasks:
            task.apply(TaskEvent.DROPPED)
            self._counts["cancelled"] += 1
        # A program's session takes its processes with it, and needs no word for each of their tasks.
        return effects + (stops if session.nested else self._forget(session))

    def _forget(self, session: Session) -> list[Effect]:
        """Have the workers end a program's processes, and drop the code that nobody else uses."""
        unused = self._blobs.release(session.family)
        effects: list[Effect] = []
        for worker in self._workers.values():
            drop = sorted(unused & worker.known)
            worker.known -= unused
            worker.families.discard(session.family)
            effects.append(Send(worker.connection, ("forget", session.family, drop)))
        return effects

    def _session_of(self, link: Link) -> Session:
        if (session := self._clients.get(link)) is None:
            raise ProtocolError("this connection's session has ended")
        return session

    def _worker_of(self, connection: int) -> Worker:
        if (worker := self._workers.get(connection)) is None:
            raise ProtocolError("this connection's worker was given up")
        return worker


_COUNTS = ("submitted", "done", "failed", "dead", "cancelled", "redelivered", "retried", "stale")
# Tasks that are alike in this are granted in one message.
_BATCH = attrgetter("session", "function_id", "options", "done")
# What a worker may say of a task, and what that does to it.
_OUTCOMES = dict(
    zip(OUTCOME_KINDS, (TaskEvent.SUCCEEDED, TaskEvent.RAISED, TaskEvent.RETRIED, TaskEvent.LOST), strict=True)
)
