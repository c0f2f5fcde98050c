"""What users are told of where the time goes: counts and times, of a session and of all of them.

Nothing of it is in the journal, but for what the ledger counts of all tasks: after a restart it begins anew.
"""

from collections import Counter
from collections.abc import Callable, Mapping

from multihost.broker.ledger import COUNTS, Ledger
from multihost.broker.members import Session, Worker
from multihost.broker.tasks import Task
from multihost.errors import ProtocolError
from multihost.histogram import Histogram
from multihost.options import MAX_SECONDS

Plain = dict[str, object]
Row = tuple[int, int, float]  # a fencing token, how many tasks ended with that one, the seconds they ran in all


class Figures:
    """See the module.

    Attributes:
        shell: tells what only the shell knows, of the journal and the event loop.
    """

    def __init__(self, ledger: Ledger, workers: Mapping[int, Worker]) -> None:
        self.shell: Callable[[], Plain] = dict
        self._ledger, self._workers = ledger, workers
        self._waits, self._runs = Histogram(), Histogram()  # of the sessions that have ended

    # --- what is noted -----------------------------------------------------------------------------------------

    def granted(self, session: Session, tasks: list[Task], now: float) -> None:
        """Tasks of one session are leased at ``now`` (wall-clock time)."""
        # Those of one submit have waited equally long, and mostly go together: then the first and the last tell of all.
        since = tasks[0].queued_at
        if since and tasks[-1].queued_at == since:
            session.waits.add(max(0.0, now - since), len(tasks))
            return
        for queued_at, count in Counter(task.queued_at for task in tasks).items():
            if queued_at:
                session.waits.add(max(0.0, now - queued_at), count)

    def ran(self, worker: Worker, rows: list[Row]) -> None:
        """Tasks that a worker holds have ended there, and what became of them is about to be said."""
        held = self._ledger.leases.of(worker.worker_id)
        for token, count, seconds in rows:
            if count < 1 or not 0.0 <= seconds <= MAX_SECONDS:
                raise ProtocolError("at least one task ran, and not for less than no time")
            if (task := held.get(token)) is not None:
                self._ledger.sessions[task.session].runs.add(seconds / count, count)
                worker.runs.add(seconds / count, count)

    def session_ended(self, session: Session) -> None:
        """What it had counts in the sums of all."""
        self._waits.merge(session.waits)
        self._runs.merge(session.runs)

    # --- what is told ------------------------------------------------------------------------------------------

    def of_session(self, session: Session) -> Plain:
        """For the session's own program."""
        return {
            "tasks": self._tasks(session.counts, *self._ledger.places(session.session_id)),
            "cluster": self._all_tasks(),
            "queued": session.waits.plain(),
            "run": session.runs.plain(),
        }

    def of_master(self, now: float) -> Plain:
        """For a monitor; ``now`` is on the clock of events."""
        ledger = self._ledger
        return {
            **self.shell(),
            "tasks": self._all_tasks(),
            "queued": self._all(self._waits, [session.waits for session in ledger.sessions.values()]),
            "run": self._all(self._runs, [session.runs for session in ledger.sessions.values()]),
            "memory": {
                "task_bytes": ledger.task_bytes,
                "result_bytes": ledger.result_bytes,
                "blob_bytes": ledger.blobs.size_of_all,
                "dead_letter_bytes": ledger.letters.size_bytes,
            },
            "sessions": [self._session(session) for session in ledger.sessions.values()],
            "workers": [self._worker(worker, now) for worker in self._workers.values()],
        }

    def _session(self, session: Session) -> Plain:
        return {
            "id": session.session_id,
            "name": session.name,
            "job": session.job,
            "depth": session.depth,
            "here": session.link is not None,
            "result_bytes": session.result_bytes,
            **{name: told for name, told in self.of_session(session).items() if name != "cluster"},
        }

    def _worker(self, worker: Worker, now: float) -> Plain:
        here = max(1e-9, now - worker.since)
        return {
            "id": worker.worker_id,
            "name": worker.name,
            "state": "draining" if worker.draining else "ready",
            "slots": worker.slots,
            "here_seconds": here,
            "leases": len(self._ledger.leases.of(worker.worker_id)),
            "ended": worker.settled,
            "run": worker.runs.plain(),
            # Of its slots, since it came; what runs now counts when it has ended.
            "busy_share": min(1.0, worker.runs.sum_seconds / (here * max(1, worker.slots))),
            "load": {**worker.load, "age_seconds": now - worker.load_at} if worker.load else {},
        }

    def _all_tasks(self) -> Plain:
        ledger = self._ledger
        return self._tasks(ledger.counts, len(ledger.ready) + len(ledger.delayed), len(ledger.leases))

    def _tasks(self, counts: Mapping[str, int], waiting: int, running: int) -> Plain:
        told = {name: counts[name] for name in COUNTS if name != "redelivered"}
        # The last delivery of one that is dead was lost, too.
        return {
            **told,
            "lost_deliveries": counts["redelivered"] + counts["dead"],
            "waiting": waiting,
            "running": running,
        }

    def _all(self, ended: Histogram, there: list[Histogram]) -> dict[str, float]:
        total = Histogram()
        for one in (ended, *there):
            total.merge(one)
        return total.plain()
