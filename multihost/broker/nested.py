"""Sessions that tasks open. A task has no connection: it speaks through its worker's, on a channel."""

from collections.abc import Callable

from multihost.broker.clients import Clients
from multihost.broker.events import Effect, Send
from multihost.broker.ledger import Ledger
from multihost.broker.letters import is_ours
from multihost.broker.members import Link, Session, Worker
from multihost.broker.workers import Workers
from multihost.errors import ProtocolError
from multihost.wire.messages import Message, check_batch

Say = Callable[[Link, Message], list[Effect]]
End = Callable[[Session], list[Effect]]


class Channels:
    """See the module.

    Args:
        say: applies a client's message.
        end: ends a session.
    """

    def __init__(self, ledger: Ledger, clients: Clients, workers: Workers, say: Say, end: End) -> None:
        self._ledger, self._clients, self._workers = ledger, clients, workers
        self._say, self._end = say, end

    def open(self, connection: int, channel: int, family: str, info: dict[object, object]) -> list[Effect]:
        """A task opens a session; its worker may only do so for a program whose tasks it was granted."""
        worker, link = self._workers.find(connection), (connection, channel)
        if link in self._clients.by_link:
            raise ProtocolError("a channel serves one session")
        match info:
            case {"session": str(session_id), "limit": None | int() as limit, "name": str(name), "depth": int(depth)}:
                pass
            case _:
                return [Send(link, ("refused", "this is not how a task's session introduces itself"))]
        parent, session = self._ledger.sessions.get(family), self._ledger.sessions.get(session_id)
        # After a restart of the master, a task opens its session again.
        known = session is not None
        if session is not None:
            allowed = session.link is None and (session.worker, session.family) == (worker.worker_id, family)
        else:
            allowed = parent is not None and family in worker.families and not is_ours(session_id)
        if not allowed or parent is None:
            return [Send(link, ("refused", "the program whose task this is has ended its session"))]
        if session is None:
            depth = max(1, depth)
            session = self._ledger.begin(session_id, name, limit, parent.lifetime, family, depth, worker.worker_id)
        match info:
            case {"task": int(token)} if token in self._ledger.leases.of(worker.worker_id):
                session.opener = token
        answer = {"known": known, "accepted": session.next_sequence, **self._workers.strength()}
        return [Send(connection, ("relay_open", channel, answer)), *self._clients.join(session, link)]

    def relay(self, connection: int, channel: int, batch: list[Message]) -> list[Effect]:
        """What a task's session says. If that breaks the rules, it is the task's doing, and its worker serves on."""
        link = (connection, channel)
        self._workers.find(connection)
        if link not in self._clients.by_link:
            return []  # it has ended, and the task does not know it yet
        effects: list[Effect] = []
        try:
            for message in check_batch("client", batch):
                effects += self._say(link, message)
        except ProtocolError as error:
            effects.append(Send(link, ("refused", str(error))))
            effects += self._end_at(link)
        return effects

    def close(self, connection: int, channel: int) -> list[Effect]:
        self._workers.find(connection)
        return self._end_at((connection, channel))

    def lose(self, worker: Worker) -> list[Effect]:
        """The tasks that had opened sessions have died with their worker."""
        links = [link for link in self._clients.by_link if isinstance(link, tuple) and link[0] == worker.connection]
        return [effect for link in links for effect in self._end_at(link)]

    def _end_at(self, link: Link) -> list[Effect]:
        session = self._clients.by_link.get(link)
        return [] if session is None else self._end(session)
