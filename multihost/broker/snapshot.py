"""The ledger as the records that lead to it: what a compaction of the journal writes in place of its history.

``snapshot`` notes at once what the ledger holds now, and makes records of it as they are asked for: the master goes on
between them. What cannot change (payloads, outcomes) is noted as references; of what can change, a queued task's past,
there is hardly ever any.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, TypeVar

from multihost.broker.ledger import Ledger
from multihost.broker.letters import DeadLetter
from multihost.broker.members import Row, Session
from multihost.broker.records import Record
from multihost.broker.tasks import PLAIN, Task, TaskEvent, TaskOptions

# What one record holds at most, unless it is a single thing: a compaction pauses between records at the soonest.
_MOST_ROWS, _MOST_BYTES = 1000, 1024 * 1024
_ALIKE = attrgetter("function_id", "options")
T = TypeVar("T")
# Of a task: losses, tries, items that have ended, when it expires.
Past = tuple[tuple[str, ...], int, int, float | None]


def snapshot(ledger: Ledger) -> Iterator[Record]:
    """Records that lead an empty ledger to what this one is now; see the module."""
    counts: Record = ("restore_counts", dict(ledger.counts), ledger.leases.next_token)
    blobs: list[Record] = [
        ("keep", session, blob_id, blob.content, blob.needs)
        for blob_id, blob in ledger.blobs.all()
        for session in sorted(blob.sessions)
    ]
    apart: dict[str, list[Task]] = {}
    for task in chain((task for _, _, task in ledger.leases), (task for _, task in ledger.delayed)):
        apart.setdefault(task.session, []).append(task)
    noted = [_Noted.of(session, ledger, apart.get(session.session_id, [])) for session in ledger.sessions.values()]
    leases: list[Record] = [
        ("restore_lease", worker, token, task.session, task.sequence, task.in_process)
        for worker, token, task in ledger.leases
    ]
    delays: list[Record] = [("restore_delay", task.session, task.sequence, due) for due, task in ledger.delayed]
    jobs: list[Record] = [("note_job_ended", name, *ended, 0.0) for name, ended in ledger.ended_jobs.items()]
    letters: list[Record] = [("restore_letters", ledger.letters.next_number)]
    letters += [("restore_letter", *letter.row()) for letter in ledger.letters]
    sessions = (record for one in noted for record in one.records())
    return chain([counts], blobs, sessions, leases, delays, jobs, letters)


def restore(ledger: Ledger, name: str, *args: Any) -> None:
    """Apply a record, be it of a snapshot or of what came after it."""
    if (restorer := _RESTORERS.get(name)) is not None:
        restorer(ledger, *args)
    else:
        ledger.apply(name, *args)


@dataclass(slots=True)
class _Noted:
    """A session as it was when a snapshot was taken."""

    begin: Record
    job: list[Record]  # that it is a detached job, and how far that is
    session_id: str
    next_sequence: int
    outcomes: list[Row]
    parts: list[Row]
    tasks: list[Task]  # in the order of the line; behind them those that are not in it
    pasts: dict[int, Past]  # of the few tasks that have one

    @classmethod
    def of(cls, session: Session, ledger: Ledger, apart: list[Task]) -> "_Noted":
        """``apart`` are those of its tasks that are not in its line."""
        s = session
        begin = ("begin", s.session_id, s.name, s.limit, s.lifetime, s.family, s.depth, s.worker)
        job: list[Record] = [("name_job", s.session_id, s.job)] if s.job else []
        if s.sealed:
            job.append(("seal", s.session_id, s.items, s.chunksize, s.used_at))
            job.append(("take_items", s.session_id, s.taken))
        tasks = ledger.ready.tasks_of(s.session_id) + apart
        pasts: dict[int, Past] = {
            t.sequence: (t.losses, t.tries, t.done, t.expires_at) for t in tasks if t.begun or t.expires_at is not None
        }
        parts = [row for rows in s.parts.values() for row in rows]
        return cls(begin, job, s.session_id, s.next_sequence, [*s.outcomes.values()], parts, tasks, pasts)

    def records(self) -> Iterator[Record]:
        yield self.begin
        yield from self.job
        yield "restore_session", self.session_id, self.next_sequence
        for some in _split(self.outcomes, lambda row: len(row[2])):
            yield "restore_outcomes", self.session_id, some
        for some in _split(self.parts, lambda row: len(row[2])):
            yield "restore_parts", self.session_id, some
        for (function_id, options), alike in groupby(self.tasks, key=_ALIKE):
            for tasks in _split(alike, lambda task: len(task.payload)):
                rows: list[Record] = [
                    (task.sequence, task.payload, *self.pasts.get(task.sequence, ())) for task in tasks
                ]
                yield "restore_tasks", self.session_id, function_id, options.plain, rows


def _split(things: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Lists of some of them that are neither long nor large."""
    some: list[T] = []
    total = 0
    for thing in things:
        total += size(thing)
        if some and (total > _MOST_BYTES or len(some) == _MOST_ROWS):
            yield some
            some, total = [], size(thing)
        some.append(thing)
    if some:
        yield some


# --- what the records of a snapshot do -------------------------------------------------------------------------------


def _counts(ledger: Ledger, counts: dict[str, int], next_token: int) -> None:
    ledger.counts.update(counts)
    ledger.leases.next_token = next_token


def _session(ledger: Ledger, session_id: str, next_sequence: int) -> None:
    ledger.sessions[session_id].next_sequence = next_sequence


def _outcomes(ledger: Ledger, session_id: str, rows: list[Row]) -> None:
    session = ledger.sessions[session_id]
    session.outcomes.update({row[0]: row for row in rows})
    session.result_bytes += sum(len(row[2]) for row in rows)


def _parts(ledger: Ledger, session_id: str, rows: list[Row]) -> None:
    session = ledger.sessions[session_id]
    for row in rows:
        session.parts.setdefault(row[0], []).append(row)
        session.result_bytes += len(row[2])


def _tasks(
    ledger: Ledger, session_id: str, function_id: str, plain: dict[object, object], rows: list[tuple[Any, ...]]
) -> None:
    options = TaskOptions.parse(plain) if plain else PLAIN
    tasks = []
    for sequence, payload, *past in rows:
        task = Task(session_id, sequence, function_id, payload, options)
        if past:
            task.losses, task.tries, task.done, task.expires_at = past
            if task.expires_at is not None and not task.begun:
                ledger.expiring.add(task)
        tasks.append(task)
    ledger.ready.extend(session_id, tasks)
    ledger.weigh(function_id, [task.payload for task in tasks])


def _lease(ledger: Ledger, worker: str, token: int, session_id: str, sequence: int, in_process: bool) -> None:
    (task,) = ledger.ready.take_these(session_id, [sequence])
    task.apply(TaskEvent.GRANTED)
    task.in_process = in_process
    ledger.expiring.discard(task)
    ledger.leases.restore(token, task, worker)


def _delay(ledger: Ledger, session_id: str, sequence: int, due: float) -> None:
    (task,) = ledger.ready.withdraw(session_id, {sequence})
    ledger.delayed.add(task, due)


def _letters(ledger: Ledger, next_number: int) -> None:
    ledger.letters.next_number = next_number


def _letter(ledger: Ledger, *row: Any) -> None:
    ledger.letters.add(DeadLetter(*row))


_RESTORERS: dict[str, Callable[..., None]] = {
    "restore_counts": _counts,
    "restore_session": _session,
    "restore_outcomes": _outcomes,
    "restore_parts": _parts,
    "restore_tasks": _tasks,
    "restore_lease": _lease,
    "restore_delay": _delay,
    "restore_letters": _letters,
    "restore_letter": _letter,
}
