"""The workers: what they want, what they are granted, and what they say of it."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import groupby
from operator import attrgetter

from multihost.broker.bounds import LEASES_PER_SLOT, MAX_SLOTS
from multihost.broker.clients import Clients
from multihost.broker.events import Effect, Note, Send
from multihost.broker.figures import Figures, Row
from multihost.broker.ledger import Ledger
from multihost.broker.letters import DEAD
from multihost.broker.members import Worker
from multihost.broker.tasks import MAX_DELIVERIES, Task, retry_delay
from multihost.deaths import is_certificate, words
from multihost.errors import ProtocolError, WorkerDied
from multihost.payload import dump_error, dump_part
from multihost.wire.messages import OUTCOME_KINDS

_MOST_REST_SECONDS = 3600.0  # that a worker may claim
# Tasks that are alike in this are granted in one message.
_BATCH = attrgetter("session", "function_id", "options", "done", "losses")


class Workers:
    """See the module. ``by_connection`` are those that are here."""

    def __init__(self, ledger: Ledger, clients: Clients, wall_clock: Callable[[], float]) -> None:
        self.by_connection: dict[int, Worker] = {}
        self.stale = 0  # how many outcomes came with a token that was not in force
        self._by_id: dict[str, Worker] = {}
        self._hungry: OrderedDict[int, Worker] = OrderedDict()  # those that want tasks, longest waiting first
        self._ledger = ledger
        self._clients = clients
        self._wall_clock = wall_clock  # the time of the event that is being handled
        self.figures = Figures(ledger, self.by_connection)

    def find(self, connection: int) -> Worker:
        """Raises: ProtocolError: that worker is not here any more."""
        if (worker := self.by_connection.get(connection)) is None:
            raise ProtocolError("this connection's worker was given up")
        return worker

    def add(self, worker: Worker, holds: frozenset[int] | None) -> list[Effect]:
        """A worker is here; of the leases that it had before a restart of the master, it says which it still holds."""
        self.by_connection[worker.connection] = self._by_id[worker.worker_id] = worker
        if holds is None:
            return self.lose_leases(worker.worker_id, f"worker {worker.name} has not kept it over the master's restart")
        leases = self._ledger.leases.of(worker.worker_id)
        # What it was granted and does not hold has not reached it.
        if missing := [token for token in leases if token not in holds]:
            self._give_back(worker.worker_id, missing)
        worker.families = {self._ledger.sessions[task.session].family for task in leases.values()}
        ended = sorted(token for token in holds if token not in leases)
        return [Send(worker.connection, ("stop", ended))] if ended else []

    def go_on(self, worker: Worker, families: frozenset[str], blobs: frozenset[str]) -> list[Effect]:
        """It has kept processes for these programs, and code: have it end and drop what is of no use any more."""
        worker.known = {blob_id for blob_id in blobs if self._ledger.blobs.holds(blob_id)}
        drops: list[tuple[str, list[str]]] = [
            (family, []) for family in sorted(families - self._ledger.sessions.keys())
        ]
        if unused := sorted(blobs - worker.known):
            drops.append(("", unused))
        return [Send(worker.connection, ("forget", family, drop)) for family, drop in drops]

    def known_as(self, worker_id: str) -> Worker | None:
        return self._by_id.get(worker_id)

    def strength(self) -> dict[str, int]:
        return {
            "workers": len(self.by_connection),
            "slots": sum(worker.slots for worker in self.by_connection.values()),
        }

    def labels(self) -> Iterator[frozenset[str]]:
        """Those of each worker."""
        return (worker.labels for worker in self.by_connection.values())

    # --- what they say -----------------------------------------------------------------------------------------

    def want(self, connection: int, limit: int) -> list[Effect]:
        """It would take tasks until it has been granted ``limit`` of them on its connection."""
        worker = self.find(connection)
        if not 0 <= limit <= worker.granted + MAX_SLOTS * LEASES_PER_SLOT:
            raise ProtocolError(f"a worker may want up to {MAX_SLOTS * LEASES_PER_SLOT:,} tasks")
        # Whatever it says, all tasks are not for one: with those that it holds, it gets so many at most.
        room = worker.slots * LEASES_PER_SLOT - len(self._ledger.leases.of(worker.worker_id))
        worker.limit = 0 if worker.draining else min(limit, worker.granted + room)
        self._note_hunger(worker)
        return []

    def rest(self, connection: int, seconds: float, now: float) -> list[Effect]:
        """Its host has no room for a process; it asks for nothing until it tries again."""
        worker = self.find(connection)
        worker.rests_until = now + min(max(seconds, 0.0), _MOST_REST_SECONDS)
        return []

    def settle(self, connection: int, outcomes: list[tuple[int, str, bytes]], now: float) -> list[Effect]:
        """``now`` is wall-clock time, in which the next try of a task is due."""
        worker = self.find(connection)
        worker.said += 1
        if not {kind for _, kind, _ in outcomes}.issubset(OUTCOME_KINDS):
            raise ProtocolError(f"a task ends with one of {', '.join(OUTCOME_KINDS)}")
        first = {row[0]: row for row in reversed(outcomes)}
        self.stale += len(outcomes) - len(first)
        effects: list[Effect] = []
        ended: list[tuple[int, str, bytes, str]] = []
        held = self._ledger.leases.of(worker.worker_id)
        for token, kind, content in reversed(first.values()):
            task = held.get(token)
            if task is None:
                self.stale += 1
            elif kind == "lost":
                reason = content.decode("utf-8", "replace")
                if not is_certificate(reason):
                    reason = f"{reason} on worker {worker.name}"
                effects += self._lose(worker.worker_id, token, task, reason)
            elif kind == "retry" and task.tries < task.options.retries:
                self._ledger.retry(worker.worker_id, token, now + retry_delay(task.options.backoff, task.tries))
            else:
                plain = kind == "result" and not task.options.chunk  # these come by the hundred thousand
                whence = "" if plain else f"on worker {worker.name}, delivery {task.delivery}"
                ended.append((token, "error" if kind == "retry" else kind, content, whence))
        if ended:
            worker.settled += len(ended)
            effects += self._clients.tell(self._ledger.settle(worker.worker_id, ended))
        return effects

    def parts(self, connection: int, rows: list[tuple[int, int, bytes]]) -> list[Effect]:
        """Some items of chunks have ended: whatever happens to the rest, these are not run again."""
        worker = self.find(connection)
        worker.said += 1
        held = self._ledger.leases.of(worker.worker_id)
        ended = []
        for token, count, content in rows:
            task = held.get(token)
            if task is None:
                self.stale += 1
            elif not 0 < count <= task.options.chunk - task.done:
                raise ProtocolError("parts are of chunks, and of as many items as are left of them")
            else:
                ended.append((token, count, content, f"on worker {worker.name}, delivery {task.delivery}"))
        return self._note_parts(worker.worker_id, ended) if ended else []

    def begun(self, connection: int, tokens: list[int]) -> list[Effect]:
        """Suspects that a process has now; see ``lose_leases``."""
        worker = self.find(connection)
        held = self._ledger.leases.of(worker.worker_id)
        if new := [token for token in tokens if token in held and not held[token].in_process]:
            self._ledger.note_begun(worker.worker_id, new)
        return []

    def ran(self, connection: int, rows: list[Row]) -> list[Effect]:
        """How long tasks ran whose outcomes follow; for statistics alone."""
        self.figures.ran(self.find(connection), rows)
        return []

    def load(self, connection: int, load: dict[str, float], now: float) -> list[Effect]:
        """What a worker counts itself; ``now`` is on the clock of events."""
        worker = self.find(connection)
        worker.load, worker.load_at = load, now
        return []

    def output(self, connection: int, rows: list[tuple[int, str]]) -> list[Effect]:
        """What tasks print, for their clients; nothing of it is kept."""
        worker = self.find(connection)
        held = self._ledger.leases.of(worker.worker_id)
        effects: list[Effect] = []
        for token, text in rows:
            task = held.get(token)
            link = None if task is None else self._ledger.sessions[task.session].link
            if task is not None and link is not None:
                effects.append(Send(link, ("output", task.sequence, worker.name, text)))
        return effects

    def give_back(self, connection: int, tokens: list[int]) -> list[Effect]:
        worker = self.find(connection)
        count = self._give_back(worker.worker_id, tokens)
        return [Note("debug", f"worker {worker.name} gave back {count} tasks", {"worker": worker.name})]

    def drain(self, connection: int) -> list[Effect]:
        worker = self.find(connection)
        worker.draining, worker.limit = True, 0
        self._note_hunger(worker)
        # What was granted before this answer reaches the worker before it, so it can give that back and then leave.
        note = Note("info", f"worker drains: {worker.name}", {"worker": worker.name})
        return [note, Send(connection, ("draining",))]

    # --- what they are told ------------------------------------------------------------------------------------

    def match(self, now: float) -> list[Effect]:
        """Grant ready tasks to the workers that want some, evenly, the one that has waited longest first."""
        effects: list[Effect] = []
        ready = self._ledger.ready
        sharers = 0  # how many of the hungry ones have not had their share in this round
        passed = 0  # how many workers in a row found nothing that they may have
        while passed < len(self._hungry) and ready.able:
            sharers = sharers or len(self._hungry)
            _, worker = self._hungry.popitem(last=False)
            share = -(-ready.available(worker.labels) // sharers)
            sharers -= 1
            tasks = ready.take(min(share, worker.wanted), worker.labels)
            worker.granted += len(tasks)
            self._note_hunger(worker)
            passed = 0 if tasks else passed + 1
            for _, run in groupby(tasks, key=_BATCH):
                effects += self._grant(worker, list(run), now)
        return effects

    def stop(self, tokens: dict[str, list[int]]) -> list[Effect]:
        """Have the workers stop what is not leased to them any more."""
        return [
            Send(worker.connection, ("stop", stopped))
            for worker_id, stopped in tokens.items()
            if (worker := self._by_id.get(worker_id)) is not None
        ]

    def forget(self, family: str, unused: set[str]) -> list[Effect]:
        """Have the workers end a program's processes, and drop the code that nobody else uses."""
        effects: list[Effect] = []
        for worker in self.by_connection.values():
            drop = sorted(unused & worker.known)
            worker.known -= unused
            worker.families.discard(family)
            effects.append(Send(worker.connection, ("forget", family, drop)))
        return effects

    def drop_code(self, unused: set[str]) -> list[Effect]:
        """Have the workers drop code that nobody uses any more."""
        effects: list[Effect] = []
        for worker in self.by_connection.values():
            if drop := sorted(unused & worker.known):
                worker.known -= unused
                effects.append(Send(worker.connection, ("forget", "", drop)))
        return effects

    def lose(self, worker: Worker, reason: str) -> list[Effect]:
        """A worker is gone, and with it the deliveries that it held."""
        del self.by_connection[worker.connection]
        del self._by_id[worker.worker_id]
        self._hungry.pop(worker.connection, None)
        leases = len(self._ledger.leases.of(worker.worker_id))
        text = f"worker left: {worker.name}, {leases} leases ({reason})"
        level = "warning" if leases else "info"
        note = Note(level, text, {"worker": worker.name, "leases": leases})
        return [note, *self.lose_leases(worker.worker_id, f"worker {worker.name} was lost: {reason}")]

    def lose_leases(self, worker_id: str, reason: str) -> list[Effect]:
        """End every delivery that a worker holds as lost; those of suspects that had not begun do not count."""
        effects: list[Effect] = []
        for token, task in reversed([*self._ledger.leases.of(worker_id).items()]):
            if task.suspect and not task.in_process:
                self._give_back(worker_id, [token])
                fields: dict[str, object] = {"session": task.session, "task": task.sequence}
                effects.append(Note("info", f"task {task.sequence} queued again, it had not begun: {reason}", fields))
            else:
                effects += self._lose(worker_id, token, task, reason)
        return effects

    def give_up_absent(self, reason: str) -> list[Effect]:
        """Count as lost what workers hold that are not here."""
        effects: list[Effect] = []
        for worker_id in self._ledger.leases.holders():
            if worker_id not in self._by_id:
                effects += self.lose_leases(worker_id, f"its worker was lost: {reason}")
        return effects

    # --- the rules ---------------------------------------------------------------------------------------------

    def _grant(self, worker: Worker, tasks: list[Task], now: float) -> list[Effect]:
        """Tasks that are alike."""
        effects: list[Effect] = []
        task = tasks[0]
        session = self._ledger.sessions[task.session]
        worker.families.add(session.family)
        for blob_id, content in self._ledger.blobs.missing(task.function_id, worker.known):
            worker.known.add(blob_id)
            effects.append(Send(worker.connection, ("blob", blob_id, content)))
        first = self._ledger.grant(worker.worker_id, tasks)
        granted = [(token, task.payload) for token, task in enumerate(tasks, first)]
        for task in tasks:
            task.leased_at = now
        self.figures.granted(session, tasks, self._wall_clock())
        options = dict(task.options.for_worker)
        if task.done:
            options["done"] = task.done
        if task.suspect:
            options["careful"] = True
        if session.lifetime is not None:
            options["lifetime"] = session.lifetime
        if session.nested:
            options["depth"] = session.depth
        needs = self._ledger.blobs.needs(task.function_id)
        effects.append(Send(worker.connection, ("grant", session.family, task.function_id, needs, options, granted)))
        return effects

    def _note_hunger(self, worker: Worker) -> None:
        if worker.wanted > 0 and not worker.draining:
            self._hungry.setdefault(worker.connection, worker)
        else:
            self._hungry.pop(worker.connection, None)

    def _lose(self, worker_id: str, token: int, task: Task, reason: str) -> list[Effect]:
        """A leased task's process or worker is gone: queue it again, or give it up."""
        if task.is_whole():
            return self._end_chunk(worker_id, token, task)
        losses = (*task.losses, reason)
        fields: dict[str, object] = {"session": task.session, "task": task.sequence, "delivery": len(losses)}
        if len(losses) < MAX_DELIVERIES:
            self._ledger.lose(worker_id, token, reason)
            task.queued_at = self._wall_clock()
            return [Note("warning", f"task {task.sequence} queued again: {words(reason)}", fields)]
        letter = self._ledger.bury(worker_id, token, reason, self._wall_clock())
        fields["letter"] = letter.number
        note = Note("error", f"task {task.sequence} is dead letter {letter.number}: {words(reason)}", fields)
        died = dump_error(WorkerDied(losses))
        if task.options.chunk:
            # Only the item that was running is given up; the chunk goes on behind it.
            effects = self._note_parts(worker_id, [(token, 1, dump_part(task.done, 0.0, [None], {0: died}), "")])
            if task.is_whole():
                return [note, *effects, *self._end_chunk(worker_id, token, task)]
            self._give_back(worker_id, [token])
            return [note, *effects]
        return [note, *self._clients.tell(self._ledger.settle(worker_id, [(token, DEAD, died, "")]))]

    def _end_chunk(self, worker_id: str, token: int, task: Task) -> list[Effect]:
        """All of its items have ended, some of them without a worker that could say so of the whole."""
        nothing = dump_part(task.done, 0.0, [], {})
        return self._clients.tell(self._ledger.settle(worker_id, [(token, "result", nothing, "")]))

    def _give_back(self, worker_id: str, tokens: list[int]) -> int:
        held, now = self._ledger.leases.of(worker_id), self._wall_clock()
        for token in tokens:
            if (task := held.get(token)) is not None:
                task.queued_at = now
        return self._ledger.give_back(worker_id, tokens)

    def _note_parts(self, worker_id: str, rows: list[tuple[int, int, bytes, str]]) -> list[Effect]:
        told = self._ledger.note_parts(worker_id, rows)
        return [effect for session_id, row in told for effect in self._clients.tell({session_id: [row]})]
