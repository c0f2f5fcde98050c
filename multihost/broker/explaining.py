"""Why a task has not started or not ended, as far as the master knows: what ``multihost.explain`` puts into words."""

from multihost.broker.ledger import Ledger
from multihost.broker.members import Session, Worker
from multihost.broker.tasks import Task
from multihost.broker.workers import Workers

_MOST_FOUND = 100
_MOST_CHILDREN = 10  # that are named


class Explainer:
    """Looks, and changes nothing."""

    def __init__(self, ledger: Ledger, workers: Workers) -> None:
        self._ledger, self._workers = ledger, workers

    def find(self, prefix: str, sequence: int, now: float, wall: float) -> list[dict[str, object]]:
        """The tasks of that number in the sessions whose ids begin so, a hundred at most."""
        sessions = [
            session
            for session in self._ledger.sessions.values()
            if session.session_id.startswith(prefix) and 0 <= sequence < session.next_sequence
        ]
        return [self.explain(session, sequence, now, wall) for session in sessions[:_MOST_FOUND]]

    def explain(self, session: Session, sequence: int, now: float, wall: float) -> dict[str, object]:
        """The fields of an ``Explanation``; ``wall`` is the wall-clock time."""
        who: dict[str, object] = {"task": sequence, "session": session.session_id, "program": session.name}
        return who | self._where(session, sequence, now, wall)

    def _where(self, session: Session, sequence: int, now: float, wall: float) -> dict[str, object]:
        session_id, ledger = session.session_id, self._ledger
        if (row := session.outcomes.get(sequence)) is not None:
            return {"state": "ended", "reason": row[1]}
        if (delayed := ledger.delayed.find(session_id, sequence)) is not None:
            due, task = delayed
            reason = "retry" if task.tries else "delay"
            return _state("delayed", reason, task) | {"seconds": max(0.0, due - wall)}
        if (queued := ledger.ready.find(session_id, sequence)) is not None:
            position, task = queued
            return self._queued(session, task, now) | {"position": position}
        for worker_id, token, task in ledger.leases:
            if (task.session, task.sequence) == (session_id, sequence):
                return self._leased(worker_id, token, task, now)
        known = 0 <= sequence < session.next_sequence
        return {"state": "ended", "reason": "acknowledged"} if known else {"state": "unknown", "reason": "no task"}

    def _queued(self, session: Session, task: Task, now: float) -> dict[str, object]:
        reason = self._why_queued(session, task)
        seconds = min((w.rests_until - now for w in self._able(task) if not w.draining), default=0.0)
        if reason == "turn" and seconds > 0:
            return _state("queued", "resting", task) | {"seconds": seconds}
        return _state("queued", reason, task)

    def _able(self, task: Task) -> list[Worker]:
        """The workers that have its labels."""
        return [worker for worker in self._workers.by_connection.values() if task.options.labels <= worker.labels]

    def _why_queued(self, session: Session, task: Task) -> str:
        if not self._workers.by_connection:
            return "no worker"
        if not (able := self._able(task)):
            return "labels"
        if all(worker.draining for worker in able):
            return "draining"
        if self._ledger.ready.is_held(session.session_id):
            return "results"
        return "limit" if self._ledger.ready.at_limit(session.session_id) else "turn"

    def _leased(self, worker_id: str, token: int, task: Task, now: float) -> dict[str, object]:
        worker = self._workers.known_as(worker_id)
        if worker is None:
            return _state("leased", "absent", task) | {"worker": worker_id}
        children = self._children(worker)
        # A worker begins its tasks in the order in which it got them; those that wait for others take no slot.
        before = sum(o < token and o not in children for o in self._ledger.leases.of(worker_id)) - worker.slots + 1
        known: dict[str, object] = {"worker": worker.name}
        if task.leased_at is not None:
            known["seconds"] = max(0.0, now - task.leased_at)
        if token in children:
            names = tuple(f"{other.session}/{other.sequence}" for other in children[token][:_MOST_CHILDREN])
            return _state("leased", "children", task) | known | {"waits_for": len(children[token]), "children": names}
        if before <= 0:
            return _state("leased", "running", task) | known
        return _state("leased", "backlog", task) | known | {"position": before}

    def _children(self, worker: Worker) -> dict[int, list[Task]]:
        """Of each of the worker's tasks that has submitted tasks, by its token: those that have not ended, in order."""
        opened = {
            session.session_id: session.opener
            for session in self._ledger.sessions.values()
            if session.opener is not None and session.worker == worker.worker_id
        }
        children: dict[int, list[Task]] = {}
        if not opened:
            return children
        ledger = self._ledger
        tasks = [task for _, task in ledger.delayed] + [task for _, _, task in ledger.leases]
        tasks += [task for session_id in opened for task in ledger.ready.tasks_of(session_id)]
        for task in sorted(tasks, key=lambda task: (task.session, task.sequence)):
            if task.session in opened:
                children.setdefault(opened[task.session], []).append(task)
        return children


def _state(state: str, reason: str, task: Task) -> dict[str, object]:
    said: dict[str, object] = {"state": state, "reason": reason, "delivery": task.delivery}
    return said | {"losses": task.losses, "labels": tuple(sorted(task.options.labels))}
