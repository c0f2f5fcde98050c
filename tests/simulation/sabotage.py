"""Builds of the master that break a promise, by a patch of its core while they run: the checker must catch each.

They run without the cores' own invariants, so what catches them is what clients were told and what was run.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from multihost.broker.core import BrokerCore
from multihost.broker.events import Close
from multihost.broker.leases import LeaseTable
from multihost.broker.members import Worker


@contextlib.contextmanager
def _replaced(owner: type, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    """``owner.name`` is what ``make`` makes of it."""
    with mock.patch.object(owner, name, make(getattr(owner, name))):
        yield


def drops_outcomes() -> contextlib.AbstractContextManager[None]:
    """Every 20th outcome is recorded and then forgotten before its client hears of it."""
    count = 0

    def make(tell: Any) -> Any:
        def dropping(core: Any, session: Any, sequences: list[int]) -> Any:
            nonlocal count
            kept = []
            for sequence in sequences:
                count += 1
                if count % 20:
                    kept.append(sequence)
                else:
                    del session.outcomes[sequence]
            return tell(core, session, kept) if kept else []

        return dropping

    return _replaced(BrokerCore, "_tell_outcomes", make)


@contextlib.contextmanager
def no_fencing() -> Iterator[None]:
    """An outcome is accepted whatever its token: also when its lease has ended, and of a worker that was given up."""

    def remembering(end: Any) -> Any:
        def ended(table: Any, token: int, worker: int) -> Any:
            task = end(table, token, worker)
            if task is not None:
                _ended_leases(table)[token, worker] = task
            return task

        return ended

    def remembering_all(end_all: Any) -> Any:
        def ended(table: Any, worker: int) -> Any:
            _ended_leases(table).update({(token, who): task for who, token, task in table if who == worker})
            return end_all(table, worker)

        return ended

    def open_still(tick: Any) -> Any:
        """The connections of workers that fell silent."""
        return lambda core, *args: [effect for effect in tick(core, *args) if not isinstance(effect, Close)]

    def whoever(worker_of: Any) -> Any:
        def found(core: Any, connection: int) -> Any:
            return core._workers.get(connection) or Worker(connection, "", "a ghost", 0, "", frozenset(), 0.0)

        return found

    def accepting(settle: Any) -> Any:
        def settled(core: Any, connection: int, outcomes: list[tuple[int, str, bytes]]) -> Any:
            old = _ended_leases(core._leases)
            stale = [(old[row[0], connection], row) for row in outcomes if (row[0], connection) in old]
            fresh = [row for row in outcomes if (row[0], connection) not in old]
            effects = settle(core, connection, fresh)
            for task, (_, kind, content) in stale:
                session = core._sessions.get(task.session)
                if session is not None and kind != "lost":
                    session.outcomes[task.sequence] = ("error" if kind == "retry" else kind, content, "")
                    effects += core._tell_outcomes(session, [task.sequence])
            return effects

        return settled

    with contextlib.ExitStack() as patches:
        patches.enter_context(_replaced(LeaseTable, "end", remembering))
        patches.enter_context(_replaced(LeaseTable, "end_all", remembering_all))
        patches.enter_context(_replaced(BrokerCore, "_tick", open_still))
        patches.enter_context(_replaced(BrokerCore, "_worker_of", whoever))
        patches.enter_context(_replaced(BrokerCore, "_settle", accepting))
        yield


def _ended_leases(table: Any) -> dict[tuple[int, int], Any]:
    if not hasattr(table, "ended_leases"):
        table.ended_leases = {}
    ended: dict[tuple[int, int], Any] = table.ended_leases
    return ended


def never_expires() -> contextlib.AbstractContextManager[None]:
    """Whatever becomes of a worker, its leases stay: nothing is redelivered."""
    return _replaced(LeaseTable, "end_all", lambda end_all: lambda table, worker: [])


def accepts_before_keeping() -> contextlib.AbstractContextManager[None]:
    """Every 10th submit is accepted and then forgotten."""
    count = 0

    def make(submit: Any) -> Any:
        def forgetting(core: Any, link: Any, first: int, function: str, plain: Any, payloads: list[bytes]) -> Any:
            nonlocal count
            count += 1
            effects = submit(core, link, first, function, plain, payloads)
            if count % 10 == 0:
                session = core._session_of(link)
                core._ready.withdraw(session.session_id, set(range(first, first + len(payloads))))
            return effects

        return forgetting

    return _replaced(BrokerCore, "_submit", make)


def repeats_chunks() -> contextlib.AbstractContextManager[None]:
    """A chunk that is delivered again begins with its first item."""

    def make(grant: Any) -> Any:
        def forgetful(core: Any, worker: Any, session: Any, function: str, tasks: list[Any]) -> Any:
            done = tasks[0].done
            tasks[0].done = 0
            try:
                return grant(core, worker, session, function, tasks)
            finally:
                tasks[0].done = done

        return forgetful

    return _replaced(BrokerCore, "_grant", make)


BUILDS: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
    "drops every 20th outcome": drops_outcomes,
    "no fencing": no_fencing,
    "leases never expire": never_expires,
    "accepts before it keeps": accepts_before_keeping,
    "repeats chunks from their first item": repeats_chunks,
}
