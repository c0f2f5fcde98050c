"""Detached jobs: sessions that outlive the program that submitted them, until another one has collected all of it.

One collector at a time asks for what it will use next, and is sent no more than that: what waits stays here. What it
has used is one number, since it uses the items in their order.
"""

from multihost.broker.clients import Clients
from multihost.broker.events import Effect, Send
from multihost.broker.ledger import Ledger
from multihost.broker.members import Link, Session
from multihost.errors import JobBusy, JobExists, JobIncomplete, JobUnknown, ProtocolError

# A job in use is recorded as such when so much of its time to live is over, and not at each tick.
_PART_OF_TTL = 0.1
# For how long it is at least known which jobs have ended: longer than any client tries to come back.
REMEMBERED_SECONDS = 3600.0


class Jobs:
    """See the module. ``ttl`` is how long a job is kept that neither runs nor has a client, in seconds."""

    def __init__(self, ledger: Ledger, clients: Clients, ttl: float) -> None:
        self._ledger, self._clients, self._ttl = ledger, clients, ttl

    def begin(self, session: Session, name: str) -> None:
        """A new session is the job of that name."""
        self._ledger.name_job(session.session_id, name)

    def check_new(self, name: str) -> None:
        """Raises: JobExists."""
        if name in self._ledger.jobs:
            raise JobExists(name)

    # --- what clients say --------------------------------------------------------------------------------------

    def seal(self, link: Link, items: int, chunksize: int, now: float) -> list[Effect]:
        session = self._clients.find(link)
        tasks = -(-items // chunksize) if chunksize > 0 else -1
        if not session.job or session.collector or items < 1 or tasks != session.next_sequence:
            raise ProtocolError("this is no detached job, or not all of it was submitted")
        if not session.sealed:  # its answer may have been lost
            self._ledger.seal(session.session_id, items, chunksize, now)
        return [Send(link, ("sealed",))]

    def find(self, name: str, collector: str) -> Session:
        """The job that this collector may have.

        Raises: JobUnknown; JobIncomplete; JobBusy.
        """
        if (session := self._ledger.jobs.get(name)) is None:
            raise JobUnknown(name)
        if not session.sealed:
            raise JobIncomplete(name)
        if session.link is not None and session.collector not in ("", collector):
            raise JobBusy(name)
        return session

    def collect(self, link: Link, first: int) -> list[Effect]:
        session = self._collected(link)
        if not session.dropped <= first < session.next_sequence:
            raise ProtocolError("a collector asks for a chunk that its job does not have any more, or never had")
        session.wanted = first
        return [*self._clients.tell_collector(session), *self._clients.let_go(session)]

    def taken(self, link: Link, items: int) -> tuple[list[Effect], Session | None]:
        """Also the job, if all of it is taken."""
        session = self._collected(link)
        if items > session.items or any(
            chunk not in session.outcomes for chunk in range(session.dropped, -(-items // session.chunksize))
        ):
            raise ProtocolError("a collector has taken more than there is")
        if items > session.taken:
            self._ledger.take_items(session.session_id, items)
        effects = [Send(link, ("taken", items)), *self._clients.let_go(session)]
        return effects, session if items == session.items else None

    def count(self, link: Link) -> list[Effect]:
        return [Send(link, ("counted", self._collected(link).items_ended()))]

    def drop(self, link: Link) -> tuple[list[Effect], Session]:
        return [Send(link, ("dropped",))], self._collected(link)

    def _collected(self, link: Link) -> Session:
        session = self._clients.find(link)
        if not session.collector:
            raise ProtocolError("this connection does not collect a detached job")
        return session

    def note_end(self, job: Session, now: float) -> None:
        """It is about to end. Its submitter may not have heard yet that it was whole, and must not submit it again."""
        self._ledger.note_job_ended(job.session_id, job.next_sequence, now, now - max(self._ttl, REMEMBERED_SECONDS))

    # --- time --------------------------------------------------------------------------------------------------

    def expired(self, now: float) -> list[Session]:
        """Jobs whose time to live is over at ``now``, by the wall clock."""
        over = []
        for session in self._ledger.jobs.values():
            if not session.sealed:
                continue
            in_use = session.link is not None or session.dropped + len(session.outcomes) < session.next_sequence
            age = now - session.used_at
            if in_use and age > self._ttl * _PART_OF_TTL:
                self._ledger.use_job(session.session_id, now)
            elif not in_use and age > self._ttl:
                over.append(session)
        return over
