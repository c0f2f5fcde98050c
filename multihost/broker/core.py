"""The broker's rules: ``handle(event, now) -> effects``. Knows no clock, socket or file; ``service.py`` has those.

In here are the connections, the table of messages, and time; what they come to is done in the rooms beside this one.
"""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

from multihost.broker.bounds import Bounds, check_slots
from multihost.broker.clients import Clients
from multihost.broker.dead import DeadLetters
from multihost.broker.events import (
    Called,
    ClientCame,
    Close,
    CollectorCame,
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
from multihost.broker.explaining import Explainer
from multihost.broker.jobs import Jobs
from multihost.broker.ledger import Ledger
from multihost.broker.letters import is_ours
from multihost.broker.members import Link, Session, Worker
from multihost.broker.nested import Channels
from multihost.broker.queues import METHODS, Reply, SharedQueue
from multihost.broker.records import Record
from multihost.broker.snapshot import restore, snapshot
from multihost.broker.workers import Workers
from multihost.errors import ProtocolError
from multihost.wire.messages import Message

TICK_SECONDS = 0.5
# A gap of this many ticks means that the master itself stood still; nobody is blamed for the time it did not see.
_PAUSE_TICKS = 4
_ROUNDING = 1e-6  # seconds that may get lost between the two clocks


class BrokerCore:
    """See the module. ``statistics`` is a plain dict because it crosses the wire."""

    def __init__(
        self,
        lease_timeout: float,
        session_timeout: float,
        queues: list[str],
        queue_size: int = 0,
        epoch: float = 0.0,
        bounds: Bounds | None = None,
        job_ttl: float = float("inf"),
    ) -> None:
        self._lease_timeout = lease_timeout  # seconds of silence after which a worker is lost
        self._session_timeout = session_timeout  # seconds a session waits for its client to come back
        self._epoch = epoch  # wall-clock time, which outlives this process, less the time that events come with
        self._queue_size = queue_size
        self._queues: dict[str, SharedQueue] = {}
        self._ledger = Ledger()
        for name in queues:
            self._add_queue(name)
        self._bounds = bounds or Bounds()
        self._clients = Clients(self._ledger, self._bounds)
        self._jobs = Jobs(self._ledger, self._clients, job_ttl)
        self._workers = Workers(self._ledger, self._clients, lambda: self._wall_clock)
        self._letters = DeadLetters(self._ledger, self._workers, self._bounds, self._end_session)
        self._explainer = Explainer(self._ledger, self._workers)
        self._channels = Channels(self._ledger, self._clients, self._workers, self._say, self._end_session)
        self._now = 0.0  # of the event that is being handled
        self._ticked: float | None = None
        self._awaited_until: float | None = None  # after a restart: when those who are not back are given up
        self._handlers: dict[type, Callable[[Any, float], list[Effect]]] = {
            ClientCame: self._client_came,
            CollectorCame: self._collector_came,
            WorkerCame: self._worker_came,
            Said: self._said,
            Heard: self._heard,
            Called: self._called,
            Gone: self._gone,
            Tick: self._tick,
        }
        self._messages: dict[str, Callable[..., list[Effect]]] = {
            "blob": self._clients.blob,
            "release": self._release,
            "submit": self._submit,
            "waits": self._clients.waits,
            "acknowledge": self._clients.acknowledge,
            "cancel": self._cancel,
            "close": self._close,
            "seal": self._seal,
            "collect": self._jobs.collect,
            "taken": self._taken,
            "count": self._jobs.count,
            "drop": self._drop,
            "want": self._workers.want,
            "settle": self._settle,
            "parts": self._workers.parts,
            "output": self._workers.output,
            "begun": self._workers.begun,
            "rest": self._rest,
            "ran": self._workers.ran,
            "load": self._load,
            "relay_open": self._channels.open,
            "relay": self._channels.relay,
            "relay_close": self._channels.close,
            "give_back": self._workers.give_back,
            "drain": self._workers.drain,
            "ping": self._ping,
            "heartbeat": self._ping,
            "ask": self._ask,
            "status": self._status,
            "figures": self._tell_figures,
            "explain": self._explain,
            "find": self._find,
            "dead_list": self._letters.tell,
            "dead_show": self._letters.show,
            "dead_save": self._letters.save,
            "dead_requeue": self._dead_requeue,
            "dead_drop": self._letters.drop,
        }

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Apply one event; the effects are to be performed in order.

        A message that breaks the rules is not applied, nor what follows it in its batch; its connection is closed.

        Raises: ProtocolError: a client came for a session that it cannot have, or a worker that claims too much;
            ClusterFull: there are too many; JobError: it is not to have that detached job.
        """
        self._now = now
        return self._handlers[type(event)](event, now)

    def take_records(self) -> list[Record]:
        """What has changed since this was asked last, for the journal; ``replay`` does it again."""
        records, self._ledger.records = self._ledger.records, []
        return records

    def snapshot(self) -> Iterator[Record]:
        """Records that lead to what is known now, to be made as they are asked for, while the core goes on."""
        queues = [("queue", name, *record) for name, queue in self._queues.items() for record in queue.items.snapshot()]
        return chain(queues, snapshot(self._ledger))

    def held_bytes(self) -> int:
        """The bytes of payloads, blobs and outcomes that are held, which a snapshot would tell of."""
        return self._ledger.task_bytes + self._ledger.blobs.size_of_all + self._ledger.result_bytes

    def replay(self, name: str, *args: Any) -> None:
        """Do again what a record says, in a core that has handled nothing yet."""
        if name == "queue":
            queue, *record = args
            if queue not in self._queues:  # what is in it is kept, whatever the queues are now
                self._add_queue(queue)
            self._queues[queue].items.apply(*record)
            self._ledger.records.clear()
        else:
            restore(self._ledger, name, *args)

    def resume(self, now: float) -> None:
        """All records are replayed: wait for the clients, and for the workers that had tasks."""
        for session in self._ledger.sessions.values():
            session.left_at = now
        for queue in self._queues.values():
            queue.take_back()
        self._ledger.forget_counts()
        self._awaited_until = now + self._lease_timeout

    def _add_queue(self, name: str) -> None:
        def record(change: tuple[object, ...]) -> None:
            self._ledger.records.append(("queue", name, *change))

        self._queues[name] = SharedQueue(self._queue_size, record)

    def next_deadline(self) -> float | None:
        """When a ``Tick`` is due: for a shared queue, a task that was delayed, or one that expires."""
        dues = self._ledger.delayed.next_due(), self._ledger.expiring.next_due()
        deadlines = [None if due is None else due - self._epoch for due in dues]
        deadlines += [queue.next_deadline() for queue in self._queues.values()]
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def session_state(self, session: str) -> dict[str, object]:
        """What a client is told when its connection begins: up to which number its tasks are here, and who works."""
        if (ended := self._ledger.ended_jobs.get(session)) is not None:
            return {"accepted": ended[0], "sealed": True, **self._workers.strength()}
        known = self._ledger.sessions[session]
        sealed = {"sealed": True} if known.sealed else {}
        return {"accepted": known.next_sequence, **sealed, **self._workers.strength()}

    def job_state(self, name: str) -> dict[str, object]:
        """What the collector of a detached job is told when its connection begins."""
        job = self._ledger.jobs[name]
        return {"items": job.items, "chunksize": job.chunksize, "taken": job.taken, "session": job.session_id}

    def knows(self, session: str) -> bool:
        return session in self._ledger.sessions or session in self._ledger.ended_jobs

    def items_done(self, worker_id: str) -> dict[int, int]:
        """How many items of the chunks that a worker holds are recorded, by token."""
        return {token: task.done for token, task in self._ledger.leases.of(worker_id).items() if task.done}

    def exposed(self, queue: str) -> tuple[str, ...] | None:
        """The methods of a shared queue; None when there is no queue of that name."""
        return METHODS if queue in self._queues else None

    def statistics(self) -> dict[str, object]:
        """What the master knows, in plain data."""
        ledger = self._ledger
        return {
            "queued": len(ledger.ready) + len(ledger.delayed),
            "leased": len(ledger.leases),
            "sessions": len(ledger.sessions),
            "blobs": len(ledger.blobs),
            "dead_letters": len(ledger.letters),
            **ledger.counts,
            "stale": self._workers.stale,
            "queues": {name: len(queue) for name, queue in self._queues.items()},
            "workers": [
                {
                    "id": w.worker_id,
                    "name": w.name,
                    "state": "draining" if w.draining else "ready",
                    "slots": w.slots,
                    "python": w.python,
                    "labels": sorted(w.labels),
                    "leases": len(ledger.leases.of(w.worker_id)),
                    "settled": w.settled,
                }
                for w in self._workers.by_connection.values()
            ],
        }

    def status(self) -> dict[str, object]:
        """What the master has counted and measured, in plain data."""
        return self._workers.figures.of_master(self._now)

    def session_figures(self, link: Link) -> dict[str, object]:
        """The same of the session of a client that is here."""
        return self._workers.figures.of_session(self._clients.find(link))

    def tell_of_shell(self, shell: Callable[[], dict[str, object]]) -> None:
        """``shell`` gives what is to be said in ``status`` besides."""
        self._workers.figures.shell = shell

    # --- connections -------------------------------------------------------------------------------------------

    def _client_came(self, event: ClientCame, now: float) -> list[Effect]:
        connection, session_id, limit, name, lifetime, job = event
        session = self._ledger.sessions.get(session_id)
        if is_ours(session_id):
            raise ProtocolError("the master keeps this session's id for itself")
        if session_id in self._ledger.ended_jobs:
            return []  # all of it was used before its submitter has heard that it is whole
        if session is None:
            programs = sum(not session.nested for session in self._ledger.sessions.values())
            if (full := self._bounds.full_of_sessions(programs)) is not None:
                raise full
            if job:
                self._jobs.check_new(job)
            session = self._ledger.begin(session_id, name, limit, lifetime, session_id, 0, "")
            if job:
                self._jobs.begin(session, job)
            self._clients.join(session, connection)
            return [Note("info", f"session began: {name}", {"session": session_id})]
        if session.nested:
            raise ProtocolError("a task has opened this session, and it speaks through its worker")
        if session.collector:  # its submitter has not heard that it is whole; whoever collects it goes on
            return []
        return self._rejoin(session, connection)

    def _collector_came(self, event: CollectorCame, now: float) -> list[Effect]:
        connection, collector, name = event
        session = self._jobs.find(name, collector)
        effects = self._rejoin(session, connection)
        session.collector = collector
        return effects

    def _rejoin(self, session: Session, connection: int) -> list[Effect]:
        effects: list[Effect] = []
        if session.link is not None:
            effects.append(Close(session.link, "its client came back on another connection"))
            self._clients.leave(session)
        effects += self._clients.join(session, connection)
        return effects + self._match()  # its tasks may have been held while it was away

    def _worker_came(self, event: WorkerCame, now: float) -> list[Effect]:
        connection, worker_id, name, slots, python, labels, holds, families, blobs = event
        check_slots(slots)
        effects: list[Effect] = []
        if (old := self._workers.known_as(worker_id)) is not None:
            effects += self._lose_worker(old, "it came back on another connection")
            effects.append(Close(old.connection, "its worker came back on another connection"))
        worker = Worker(connection, worker_id, name, slots, python, labels, now, keeps=holds is not None, since=now)
        effects += self._workers.add(worker, holds)
        if holds is not None:
            effects += self._workers.go_on(worker, families, blobs)
        fields: dict[str, object] = {"worker": name, "worker_id": worker_id, "slots": slots, "labels": sorted(labels)}
        effects.append(Note("info", f"worker joined: {name}, {slots} slots, Python {python}", fields))
        return [*effects, *self._tell_strength(), *self._match()]

    def _gone(self, event: Gone, now: float) -> list[Effect]:
        if (worker := self._workers.by_connection.get(event.connection)) is not None:
            return [*self._lose_worker(worker, "its connection closed"), *self._match()]
        if (session := self._clients.by_link.get(event.connection)) is not None:
            self._clients.leave(session)
            session.left_at = now
            fields: dict[str, object] = {"session": session.session_id}
            return [Note("info", f"client left without closing its session: {session.name}", fields)]
        return [reply for q in self._queues.values() for reply in q.leave(event.connection, event.delivered)]

    def _heard(self, event: Heard, now: float) -> list[Effect]:
        if (worker := self._workers.by_connection.get(event.connection)) is not None:
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

    # --- time --------------------------------------------------------------------------------------------------

    def _tick(self, event: Tick, now: float) -> list[Effect]:
        effects = self._forgive_own_pause(now)
        for worker in [w for w in self._workers.by_connection.values() if now - w.heard > self._lease_timeout]:
            effects += self._lose_worker(worker, f"no heartbeat for {self._lease_timeout:g} s")
            effects.append(Close(worker.connection, "its heartbeat fell silent"))
        effects += self._expire_jobs()
        for session in [session for session in self._ledger.absent() if not session.sealed]:
            if now - session.left_at > self._session_timeout:
                text = f"session closed: its client stayed away for {self._session_timeout:g} s ({session.name})"
                effects.append(Note("warning", text, {"session": session.session_id}))
                effects += self._end_session(session)
        if self._awaited_until is not None and now > self._awaited_until:
            effects += self._give_up_awaited()
        for queue in self._queues.values():
            effects += queue.expire(now)
        effects += self._clients.hold()
        if due := self._ledger.delayed.due(self._wall_clock + _ROUNDING):
            self._ledger.release(due)
            sessions = [self._ledger.sessions[session_id] for session_id in due]
            effects += self._clients.tell_lacking(sessions, self._workers.labels())
        return effects + self._match()

    @property
    def _wall_clock(self) -> float:
        """The time of the event that is being handled, as the ledger has it."""
        return self._now + self._epoch

    def _match(self) -> list[Effect]:
        """Grant what there is to those who want it, but nothing that has expired."""
        effects = self._clients.expire(self._wall_clock + _ROUNDING) + self._letters.tidy()
        return [*effects, *self._workers.match(self._now), *self._clients.tell_room()]

    def _give_up_awaited(self) -> list[Effect]:
        """Some workers are not back since the master's restart, or without a session that a task of theirs had."""
        self._awaited_until = None
        effects: list[Effect] = []
        for session in [s for s in self._ledger.sessions.values() if s.nested and s.link is None]:
            effects += self._end_session(session)
        return effects + self._workers.give_up_absent("it did not come back after the master's restart")

    def _forgive_own_pause(self, now: float) -> list[Effect]:
        before, self._ticked = self._ticked, now
        if before is None or now - before <= _PAUSE_TICKS * TICK_SECONDS:
            return []
        unseen = now - before
        if self._awaited_until is not None:
            self._awaited_until += unseen
        for worker in self._workers.by_connection.values():
            worker.heard += unseen
        for session in self._ledger.sessions.values():
            session.left_at += unseen
        text = f"the master stood still for {unseen:.1f} s; no lease expires for that time"
        return [Note("warning", text, {"seconds": unseen})]

    # --- what peers say ----------------------------------------------------------------------------------------

    def _said(self, event: Said, now: float) -> list[Effect]:
        connection = event.connection
        if (worker := self._workers.by_connection.get(connection)) is not None:
            worker.heard = now
        said = 0 if worker is None else worker.said
        effects: list[Effect] = []
        try:
            for message in event.batch:
                effects += self._say(connection, message)
            if worker is not None and worker.keeps and worker.said > said:
                effects.append(Send(connection, ("recorded", worker.said)))
        except ProtocolError as error:
            effects += [Send(connection, ("refused", str(error))), Close(connection, str(error), broke_rules=True)]
            if (worker := self._workers.by_connection.get(connection)) is not None:
                # Now, lest it be granted tasks before its connection has ended.
                effects += self._lose_worker(worker, "it broke the rules")
        return effects + self._match()

    def _say(self, link: Link, message: Message) -> list[Effect]:
        name, *fields = message
        return self._messages[name](link, *fields)  # type: ignore[index]

    def _submit(
        self, link: Link, first: int, function_id: str, plain: dict[object, object], payloads: list[bytes]
    ) -> list[Effect]:
        labels = self._workers.labels()
        return self._clients.submit(link, first, function_id, plain, payloads, labels, self._wall_clock)

    def _release(self, link: Link, blob_ids: list[str]) -> list[Effect]:
        effects, unused = self._clients.release(link, blob_ids)
        return [*self._workers.drop_code(unused), *effects]

    def _cancel(self, link: Link, sequences: list[int], running: bool) -> list[Effect]:
        effects, stopped = self._clients.cancel(link, sequences, running)
        return [*self._workers.stop(stopped), *effects]

    def _seal(self, link: Link, items: int, chunksize: int) -> list[Effect]:
        return self._jobs.seal(link, items, chunksize, self._wall_clock)

    def _taken(self, link: Link, items: int) -> list[Effect]:
        effects, over = self._jobs.taken(link, items)
        if over is not None:
            effects += self._end_job(over, "all of it was collected")
        return effects

    def _drop(self, link: Link) -> list[Effect]:
        effects, job = self._jobs.drop(link)
        return effects + self._end_job(job, "it was dropped")

    def _expire_jobs(self) -> list[Effect]:
        over = self._jobs.expired(self._wall_clock)
        return [effect for job in over for effect in self._end_job(job, "its time to live is over")]

    def _end_job(self, job: Session, reason: str) -> list[Effect]:
        self._jobs.note_end(job, self._wall_clock)
        text = f"detached job {job.job} ended: {reason}"
        return [Note("info", text, {"session": job.session_id, "job": job.job}), *self._end_session(job)]

    def _close(self, link: Link) -> list[Effect]:
        if (session := self._clients.by_link.get(link)) is None:
            return [Close(link, "its session has ended")]  # such as that of a job that others have used
        if session.sealed:
            self._clients.leave(session)
            return [Close(link, "its client has left the detached job")]
        effects = self._end_session(session)
        if session.nested:
            return effects
        note = Note("info", f"session ended: {session.name}", {"session": session.session_id})
        return [note, *effects, Close(link, "its session ended")]

    def _settle(self, connection: int, outcomes: list[tuple[int, str, bytes]]) -> list[Effect]:
        return self._workers.settle(connection, outcomes, self._wall_clock)

    def _rest(self, connection: int, seconds: float) -> list[Effect]:
        return self._workers.rest(connection, seconds, self._now)

    def _ping(self, link: Link) -> list[Effect]:
        return [Send(link, ("pong",))]

    def _ask(self, link: Link) -> list[Effect]:
        return [Send(link, ("statistics", self.statistics()))]

    def _status(self, link: Link) -> list[Effect]:
        return [Send(link, ("status", self.status()))]

    def _tell_figures(self, link: Link, number: int) -> list[Effect]:
        return [Send(link, ("figures", number, self.session_figures(link)))]

    def _load(self, connection: int, load: dict[str, float]) -> list[Effect]:
        return self._workers.load(connection, load, self._now)

    def _explain(self, link: Link, number: int, sequence: int) -> list[Effect]:
        session = self._clients.find(link)
        told = self._explainer.explain(session, sequence, self._now, self._wall_clock)
        return [Send(link, ("explained", number, told))]

    def _find(self, link: Link, prefix: str, sequence: int) -> list[Effect]:
        return [Send(link, ("found", self._explainer.find(prefix, sequence, self._now, self._wall_clock)))]

    def _dead_requeue(self, link: Link, numbers: list[int]) -> list[Effect]:
        return self._letters.requeue(link, numbers, self._wall_clock)

    # --- ends --------------------------------------------------------------------------------------------------

    def _lose_worker(self, worker: Worker, reason: str) -> list[Effect]:
        """What it held is queued again, and the sessions that its tasks have opened end."""
        return [*self._channels.lose(worker), *self._workers.lose(worker, reason), *self._tell_strength()]

    def _end_session(self, session: Session) -> list[Effect]:
        """Cancel what is left of a session and of those that its tasks have opened."""
        ended = self._ledger.end(session.session_id)
        for one in ended.sessions:
            self._clients.leave(one)
            self._workers.figures.session_ended(one)
        # A program's session takes its processes with it, and needs no word for each of their tasks.
        if session.nested:
            return [*self._workers.stop(ended.stopped), *self._workers.drop_code(ended.unused)]
        return self._workers.forget(session.session_id, ended.unused)

    def _tell_strength(self) -> list[Effect]:
        return self._clients.tell_strength(self._workers.strength(), self._workers.labels())
