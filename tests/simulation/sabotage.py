"""Builds of the master that break a promise, by a patch of its core while they run: the checker must catch each.

They run without the cores' own invariants, so what catches them is what clients were told and what was run.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

from multihost.broker.clients import Clients
from multihost.broker.core import BrokerCore
from multihost.broker.dead import DeadLetters
from multihost.broker.events import Close
from multihost.broker.jobs import Jobs
from multihost.broker.leases import LeaseTable
from multihost.broker.ledger import Ledger
from multihost.broker.members import Row, Worker
from multihost.broker.records import encode
from multihost.broker.workers import Workers
from multihost.wire.messages import PART
from tests.simulation.master import Journal


@contextlib.contextmanager
def _replaced(owner: type, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """``owner.name`` is what ``make`` makes of it."""
    with mock.patch.object(owner, name, make(getattr(owner, name))):
        yield


_outcomes = itertools.count(1)  # of all histories: few of them have a thousand


def drops_outcomes(one_in: int) -> contextlib.AbstractContextManager[None]:
    """One in so many outcomes is recorded and then forgotten before its client hears of it."""

    def make(tell: Any) -> Any:
        def dropping(clients: Any, rows: dict[str, list[Row]]) -> Any:
            kept: dict[str, list[Row]] = {}
            for session, some in rows.items():
                for row in some:
                    if row[1] == PART or next(_outcomes) % one_in:
                        kept.setdefault(session, []).append(row)
                    else:
                        del clients._ledger.sessions[session].outcomes[row[0]]
            return tell(clients, kept)

        return dropping

    return _replaced(Clients, "tell", make)


@contextlib.contextmanager
def no_fencing() -> Iterator[None]:
    """An outcome is accepted whatever its token: also when its lease has ended, and of a worker that was given up."""

    def remembering(end: Any) -> Any:
        def ended(table: Any, token: int, worker: str) -> Any:
            task = end(table, token, worker)
            if task is not None:
                _ended_leases(table)[token] = task
            return task

        return ended

    def open_still(tick: Any) -> Any:
        """The connections of workers that fell silent."""
        return lambda core, *args: [effect for effect in tick(core, *args) if not isinstance(effect, Close)]

    def whoever(find: Any) -> Any:
        def found(workers: Any, connection: int) -> Any:
            ghost = Worker(connection, "", "a ghost", 0, "", frozenset(), 0.0)
            return workers.by_connection.get(connection) or ghost

        return found

    def accepting(settle: Any) -> Any:
        def settled(workers: Any, connection: int, outcomes: list[tuple[int, str, bytes]], now: float) -> Any:
            ledger = workers._ledger
            old = _ended_leases(ledger.leases)
            stale = [(old[row[0]], row) for row in outcomes if row[0] in old]
            effects = settle(workers, connection, [row for row in outcomes if row[0] not in old], now)
            for task, (_, kind, content) in stale:
                session = ledger.sessions.get(task.session)
                if session is not None and kind != "lost":
                    row = (task.sequence, "error" if kind == "retry" else kind, content, "")
                    session.outcomes[task.sequence] = row
                    effects += workers._clients.tell({task.session: [row]})
            return effects

        return settled

    with contextlib.ExitStack() as patches:
        patches.enter_context(_replaced(LeaseTable, "end", remembering))
        patches.enter_context(_replaced(BrokerCore, "_tick", open_still))
        patches.enter_context(_replaced(Workers, "find", whoever))
        patches.enter_context(_replaced(Workers, "settle", accepting))
        yield


def _ended_leases(table: Any) -> dict[int, Any]:
    """Those that were in force once, by token."""
    if not hasattr(table, "ended_leases"):
        table.ended_leases = {}
    ended: dict[int, Any] = table.ended_leases
    return ended


def never_expires() -> contextlib.AbstractContextManager[None]:
    """Whatever becomes of a worker, its leases stay: nothing is redelivered."""
    return _replaced(Workers, "lose_leases", lambda lose: lambda workers, worker_id, reason: [])


def blames_bystanders() -> contextlib.AbstractContextManager[None]:
    """Each lease of a worker that is lost counts, also of tasks that had not begun there."""

    def make(lose: Any) -> Any:
        def losing(workers: Any, worker_id: str, reason: str) -> Any:
            for task in workers._ledger.leases.of(worker_id).values():
                task.in_process = True
            return lose(workers, worker_id, reason)

        return losing

    return _replaced(Workers, "lose_leases", make)


def accepts_before_keeping() -> contextlib.AbstractContextManager[None]:
    """Every 10th submit is accepted and then forgotten."""
    count = 0

    def make(submit: Any) -> Any:
        def forgetting(clients: Any, link: Any, first: int, *rest: Any) -> Any:
            nonlocal count
            count += 1
            effects = submit(clients, link, first, *rest)
            if count % 10 == 0:
                payloads = rest[2]
                session = clients.find(link)
                clients._ledger.ready.withdraw(session.session_id, set(range(first, first + len(payloads))))
            return effects

        return forgetting

    return _replaced(Clients, "submit", make)


@contextlib.contextmanager
def acknowledges_before_it_commits() -> Iterator[None]:
    """What a turn has changed is written down when the next one ends, and its replies are sent at once."""

    def late(commit: Any) -> Any:
        def committing(journal: Any, core: Any) -> None:
            waiting = getattr(journal, "waiting", None)
            journal.waiting = (core, core.take_records())
            if waiting is not None and waiting[0] is core:  # those of a master that has died are gone
                journal.rows.append(b"".join(encode(waiting[1])))

        return committing

    with _replaced(Journal, "commit", late):
        yield


def takes_one_more() -> contextlib.AbstractContextManager[None]:
    """Of a detached job, the item behind those that were used is taken for used, too."""

    def make(take: Any) -> Any:
        def taking(ledger: Any, session_id: str, taken: int) -> Any:
            return take(ledger, session_id, min(taken + 1, ledger.sessions[session_id].items))

        return taking

    return _replaced(Ledger, "take_items", make)


def forgets_ended_jobs() -> contextlib.AbstractContextManager[None]:
    """A submitter that has not heard that its job is whole comes back when it is over, and is a new one."""
    return _replaced(Jobs, "note_end", lambda note: lambda jobs, job, now: None)


def keeps_no_letters() -> contextlib.AbstractContextManager[None]:
    """What is given up is dropped at once."""
    return _replaced(DeadLetters, "_too_many", lambda few: property(lambda letters: True))


def repeats_chunks() -> contextlib.AbstractContextManager[None]:
    """A chunk that is delivered again begins with its first item."""

    def make(grant: Any) -> Any:
        def forgetful(workers: Any, worker: Any, tasks: list[Any], *rest: Any) -> Any:
            done = tasks[0].done
            tasks[0].done = 0
            try:
                return grant(workers, worker, tasks, *rest)
            finally:
                tasks[0].done = done

        return forgetful

    return _replaced(Workers, "_grant", make)


BUILDS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "acknowledges before it commits": acknowledges_before_it_commits,
    "drops every 20th outcome": partial(drops_outcomes, 20),
    "drops every 1,000th outcome": partial(drops_outcomes, 1000),
    "no fencing": no_fencing,
    "blames bystanders": blames_bystanders,
    "leases never expire": never_expires,
    "accepts before it keeps": accepts_before_keeping,
    "takes one item more than was used": takes_one_more,
    "forgets jobs that have ended": forgets_ended_jobs,
    "keeps no dead letters": keeps_no_letters,
    "repeats chunks from their first item": repeats_chunks,
}
