"""The sessions' clients: what they say, and what they are told. A task that has opened a session is a client, too."""

from collections.abc import Iterable

from multihost.broker.bounds import Bounds
from multihost.broker.events import Effect, Note, Send
from multihost.broker.ledger import Ledger
from multihost.broker.members import Link, Row, Session
from multihost.errors import ClusterFull, ProtocolError, TaskExpired
from multihost.payload import content_id, dump_error

# What a collector is sent at once, unless it is a single chunk.
_MOST_BYTES, _MOST_ROWS = 1024 * 1024, 1000
# Of what waits for a client that is here: a client that reads acknowledges four times as early as that, so that one
# with less than this is never held for what waits for others.
_LITTLE_BYTES = 256 * 1024


class Clients:
    """See the module. ``by_link`` are those that are here."""

    def __init__(self, ledger: Ledger, bounds: Bounds) -> None:
        self.by_link: dict[Link, Session] = {}
        self._ledger, self._bounds = ledger, bounds
        # Those of which a submit was refused, and whether they know: then they wait to hear of room, and until then
        # nothing is taken. What they had sent meanwhile must not overtake what was refused.
        self._refused: dict[Link, bool] = {}

    def find(self, link: Link) -> Session:
        """Raises: ProtocolError: its session is not here any more."""
        if (session := self.by_link.get(link)) is None:
            raise ProtocolError("this connection's session has ended")
        return session

    def join(self, session: Session, link: Link) -> list[Effect]:
        """A client is here, for the first time or again; what it has not acknowledged."""
        session.link, self.by_link[link] = link, session
        self._ledger.ready.hold(session.session_id, False)
        rows = [] if session.job else session.all_rows()  # a detached job's collector asks for them
        return [Send(link, ("outcomes", rows))] if rows else []

    def leave(self, session: Session) -> None:
        if session.link is not None:
            del self.by_link[session.link]
            self._refused.pop(session.link, None)
            session.link = session.wanted = None
            session.collector = ""

    # --- what they say -----------------------------------------------------------------------------------------

    def blob(self, link: Link, blob_id: str, content: bytes, needs: tuple[str, ...]) -> list[Effect]:
        session = self.find(link)
        if blob_id != content_id(content, needs):
            raise ProtocolError("a blob's content does not match its id")
        if not all(self._has(session, need) for need in needs):
            raise ProtocolError("a blob needs another one that was not sent before it")
        # What is small, a program keeps for all the sessions that its tasks open, one after another.
        holder = session.session_id if len(content) >= self._ledger.large_bytes else session.family
        self._ledger.keep(holder, blob_id, content, needs)
        return []

    def _has(self, session: Session, blob_id: str) -> bool:
        """Whether it has sent a blob, or its program has."""
        blobs = self._ledger.blobs
        return blobs.has(session.session_id, blob_id) or blobs.has(session.family, blob_id)

    def release(self, link: Link, blob_ids: list[str]) -> tuple[list[Effect], set[str]]:
        """None of its tasks needs these blobs any more, as it says; also the ids of those that nobody uses.

        After a restart of the master, there may be tasks whose outcomes it knows, and which are to be run again: what
        these need stays until the session ends.
        """
        session, blobs = self.find(link), self._ledger.blobs
        unused: set[str] = set()
        if held := {blob_id for blob_id in blob_ids if blobs.has(session.session_id, blob_id)}:
            held -= blobs.needed(session.session_id) | self._ledger.functions_used(session.family)
        if held:
            unused = self._ledger.let_go(session.session_id, sorted(held))
        return [Send(link, ("released", blob_ids))], unused

    def submit(
        self,
        link: Link,
        first: int,
        function_id: str,
        plain: dict[object, object],
        payloads: list[bytes],
        workers: Iterable[frozenset[str]],
        now: float,
    ) -> list[Effect]:
        """``workers`` are the labels of those that are here; ``now`` is wall-clock time."""
        session = self.find(link)
        if first < 0:
            raise ProtocolError("a submit numbers its tasks from 0")
        if not self._has(session, function_id):
            raise ProtocolError("a submit names a function that was not sent before it")
        # A client numbers its tasks in order, so what it repeats after a lost answer is below next_sequence.
        if (known := session.next_sequence - first) > 0:
            first, payloads = first + known, payloads[known:]
        if self._refused.get(link) is False:
            return []
        payloads, full = self._taken(session, function_id, payloads)
        effects: list[Effect] = []
        if payloads and self._ledger.submit(session.session_id, first, function_id, plain, payloads, now).labels:
            effects = self.tell_lacking([session], workers)
        if full is not None:
            self._refused[link] = False
            return [Send(link, ("full", session.next_sequence, *full.args)), *effects]
        return [Send(link, ("accepted", session.next_sequence)), *effects]

    def waits(self, link: Link) -> list[Effect]:
        """A client knows that a submit of it was refused."""
        if link in self._refused:
            self._refused[link] = True
        return []

    def _taken(
        self, session: Session, function_id: str, payloads: list[bytes]
    ) -> tuple[list[bytes], ClusterFull | None]:
        """Those of a submit's tasks for which there is room, and why the others are not taken."""
        if session.nested:
            return payloads, None
        # Its function is here, with its shared values, whether they are taken or not.
        tasks, task_bytes = self._ledger.unfinished, self._ledger.bytes_beside(function_id)
        if self._bounds.full(tasks + len(payloads) - 1, task_bytes + sum(map(len, payloads)) - 1) is None:
            return payloads, None  # nearly always; a submit may have thousands
        for number, payload in enumerate(payloads):
            if (full := self._bounds.full(tasks, task_bytes)) is not None:
                return payloads[:number], full
            tasks, task_bytes = tasks + 1, task_bytes + len(payload)
        return payloads, None

    def tell_room(self) -> list[Effect]:
        """Tell those of which something was refused that there is room again."""
        if not self._refused or not self._bounds.roomy(self._ledger.unfinished, self._ledger.bytes_beside("")):
            return []
        waiting = [link for link, knows in self._refused.items() if knows]
        for link in waiting:
            del self._refused[link]
        return [Send(link, ("room",)) for link in waiting]

    def acknowledge(self, link: Link, sequences: list[int]) -> list[Effect]:
        session = self.find(link)
        if sequences:
            self._ledger.acknowledge(session.session_id, sequences)
        return self.let_go(session)

    def expire(self, now: float) -> list[Effect]:
        """End the tasks that nobody has begun in time; ``now`` is wall-clock time."""
        alike: dict[float, dict[str, list[int]]] = {}
        for task in self._ledger.expiring.due(now):
            assert task.options.expires is not None
            alike.setdefault(task.options.expires, {}).setdefault(task.session, []).append(task.sequence)
        effects: list[Effect] = []
        for seconds, sequences in alike.items():
            effects += self.tell(self._ledger.expire(sequences, dump_error(TaskExpired(seconds))))
        return effects

    def cancel(self, link: Link, sequences: list[int], running: bool) -> tuple[list[Effect], dict[str, list[int]]]:
        """Also the tokens, by worker id, of what is to be stopped."""
        session = self.find(link)
        rows, stopped = self._ledger.cancel(session.session_id, sequences, running)
        effects: list[Effect] = [Send(link, ("outcomes", rows))] if rows else []
        if late := sorted(set(sequences).difference(row[0] for row in rows)):
            effects.append(Send(link, ("too_late", late)))
        return effects, stopped

    # --- what they are told ------------------------------------------------------------------------------------

    def tell(self, rows: dict[str, list[Row]]) -> list[Effect]:
        """Outcomes, by session."""
        effects: list[Effect] = []
        for session_id, some in rows.items():
            session = self._ledger.sessions[session_id]
            if session.job:
                effects += self.tell_collector(session)
            elif session.link is not None:
                effects.append(Send(session.link, ("outcomes", some)))
            if session.result_bytes > self._bounds.result_bytes and not self._ledger.ready.is_held(session_id):
                effects += self._hold_behind()  # by the next tick, it could have much more
        return effects

    def tell_collector(self, session: Session) -> list[Effect]:
        """What it has asked for, if that is there now."""
        if session.wanted is None or session.wanted not in session.outcomes or session.link is None:
            return []
        sequence, session.wanted = session.wanted, None
        rows: list[Row] = []
        size = 0
        while (end := session.outcomes.get(sequence)) is not None:
            chunk = [*session.parts.get(sequence, ()), end]
            size += sum(len(row[2]) for row in chunk)
            if rows and (size > _MOST_BYTES or len(rows) >= _MOST_ROWS):
                break
            rows += chunk
            sequence += 1
        # One message each: a frame has place for a single large one.
        return [Send(session.link, ("outcomes", [row])) for row in rows]

    def tell_strength(self, strength: dict[str, int], workers: Iterable[frozenset[str]]) -> list[Effect]:
        """A worker has come or gone: clients cut their work by the number of slots, and tell a user who has none."""
        effects: list[Effect] = [Send(link, ("workers", *strength.values())) for link in self.by_link]
        return effects + self.tell_lacking(self._ledger.sessions.values(), workers)

    def hold(self) -> list[Effect]:
        """Let the tasks of programs wait for which too much waits, be they away or here."""
        return [*self._hold_absent(), *self._hold_behind()]

    def let_go(self, session: Session) -> list[Effect]:
        """It has taken something, or waits for a task: its tasks need not wait for the next tick."""
        return self._hold_behind() if self._ledger.ready.is_held(session.session_id) else []

    def _hold_behind(self) -> list[Effect]:
        """The same for programs that are here and do not read, or do not read fast enough.

        When too much waits for them in all, those are held that have more than their share of it; and then until they
        have read half of that share, lest they be held and let go with each result.
        """
        here = [session for session in self.by_link.values() if not session.nested]
        sizes = [session.result_bytes for session in here if session.result_bytes]
        waiting = sum(sizes)
        share = max(self._bounds.result_bytes // max(1, len(sizes)), _LITTLE_BYTES)
        effects: list[Effect] = []
        for session in here:
            before = self._ledger.ready.is_held(session.session_id)
            full = waiting > self._bounds.result_bytes and session.result_bytes > share
            # Held is only who can change it, by an acknowledgement: who waits for a task that is to run yet cannot.
            able = session.wanted is None if session.job else bool(session.outcomes)
            held = able and (full or (before and session.result_bytes > share // 2))
            if self._ledger.ready.hold(session.session_id, held) and held:
                text = (
                    f"{session.result_bytes:,} bytes of results wait to be read by {session.name}; its tasks wait, too"
                )
                fields: dict[str, object] = {"session": session.session_id, "bytes": session.result_bytes}
                effects.append(Note("warning", text, fields))
        return effects

    def _hold_absent(self) -> list[Effect]:
        absent = self._ledger.absent()
        waiting = sum(session.result_bytes for session in absent)
        held = waiting > self._bounds.result_bytes
        effects: list[Effect] = []
        for session in absent:
            if self._ledger.ready.hold(session.session_id, held) and held:
                text = f"{waiting:,} bytes of results wait for absent programs; the tasks of {session.name} wait, too"
                effects.append(Note("warning", text, {"session": session.session_id, "bytes": waiting}))
        return effects

    def tell_lacking(self, sessions: Iterable[Session], workers: Iterable[frozenset[str]]) -> list[Effect]:
        """Tell clients what of theirs waits for labels that no worker has, when that has changed."""
        there = [*workers]
        effects: list[Effect] = []
        for session in sessions:
            wanted = self._ledger.ready.labels_wanted(session.session_id)
            lacking = {labels for labels in wanted if not any(labels <= labels_there for labels_there in there)}
            if session.link is not None and lacking - session.lacking:
                rows = [sorted(labels) for labels in lacking - session.lacking]
                effects.append(Send(session.link, ("lacking", sorted(rows))))
            session.lacking = lacking
        return effects
