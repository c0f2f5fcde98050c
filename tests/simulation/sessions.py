"""A session as ``client/session.py`` has it, without its threads: a client core, callbacks, and what is sent when.

How it reaches the master is left to whoever has one: ``client.py`` through the network, ``child.py`` through a worker.
"""

from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from multihost.client.chunk import Chunk, PartCallback
from multihost.client.code import Blob
from multihost.client.core import ClientCore
from multihost.errors import ClusterFull, WorkerDied
from multihost.payload import Outcomes, content_id, load_error
from multihost.wire.messages import CANCELLED, PART, Message
from tests.simulation.records import Cancel, ClientLog, Plan, Submit, Told
from tests.simulation.world import LARGE_BYTES, World

CANCEL_SECONDS = 10.0


def _blob(content: bytes, *needs: Blob) -> Blob:
    ids = tuple(need.blob_id for need in needs)
    return Blob(content_id(content, ids), content, ids)


ARCHIVE = _blob(b"the program's own modules")
FUNCTIONS = [_blob(f"function {number}".encode(), ARCHIVE) for number in range(4)]


class Session:
    """See the module. ``transmit`` sends a batch; ``changed`` is called when something has ended."""

    def __init__(
        self,
        world: World,
        log: ClientLog,
        name: str,
        transmit: Callable[[list[Message]], None],
        changed: Callable[[], None],
        inherited: frozenset[str] = frozenset(),
    ) -> None:
        self.name = name
        self.connected = False
        self.patient = False  # whether it waits for room with everything
        self.sealed = False
        self._world = world
        self._log = log
        self._transmit, self._changed = transmit, changed
        self._core = ClientCore(inherited, LARGE_BYTES, kept_bytes=0)
        self._plans: dict[int, Plan] = {}  # of tasks without an outcome
        self._names: dict[int, str] = {}  # of all tasks
        self._chunks: dict[int, Chunk] = {}
        self._options: dict[tuple[object, ...], dict[str, object]] = {}
        self._cancels: list[tuple[Cancel, set[int]]] = []  # those that wait for the master's word

    @property
    def waiting(self) -> int:
        return 0 if self.sealed else len(self._plans)

    def attached(self, answer: dict[str, Any]) -> None:
        """A connection is there."""
        self._core.reconnected(answer["known"], answer["accepted"])
        if answer.get("sealed"):
            self._seal_answered()
        self.connected = True
        self.send_waiting()

    def detached(self) -> None:
        self.connected = False

    # --- what a program calls ----------------------------------------------------------------------------------

    def submit(self, plan: Plan) -> None:
        blobs = [ARCHIVE, FUNCTIONS[plan.function]]
        patient = self.patient or plan.chunk
        if self._core.full and not patient:
            self._log.submits[plan.name] = Submit(plan, self.name, -1, self._world.now)
            self._log.told[plan.calls[0].name] = [Told("ClusterFull", "", self._world.now)]
            return
        since = self._world.now if plan.delay or plan.expires is not None else 0.0
        sequence = self._core.add(blobs, self._wire_options(plan), plan.name.encode(), since, patient=patient)
        self._plans[sequence], self._names[sequence] = plan, plan.name
        if plan.chunk:
            self._chunks[sequence] = Chunk(len(plan.calls), self._items_ended(plan))
        self._log.submits[plan.name] = Submit(plan, self.name, sequence, self._world.now)
        self.send_waiting()

    def seal(self, items: int, chunksize: int) -> None:
        self._core.seal(items, chunksize)
        self.send_waiting()

    def _seal_answered(self) -> None:
        self._core.seal_answered()
        self.sealed = True

    def _wire_options(self, plan: Plan) -> dict[str, object]:
        options: dict[str, object] = {}
        if plan.retries:
            options |= {"retries": plan.retries, "backoff": plan.backoff}
        if plan.timeout is not None:
            options["timeout"] = plan.timeout
        if plan.priority:
            options["priority"] = plan.priority
        if plan.labels:
            options["labels"] = plan.labels
        if plan.delay:
            options["delay"] = plan.delay
        if plan.expires is not None:
            options["expires"] = plan.expires
        if plan.chunk:
            options["chunk"] = ("map", len(plan.calls))
        return self._options.setdefault(tuple(options.items()), options)  # one object for the same options

    def cancel(self, names: list[str], running: bool) -> None:
        """What a thread of the program asks for, which waits for the answer."""
        cancel = Cancel(self.name, names, running, self._world.now)
        self._log.cancels.append(cancel)
        asked = [sequence for sequence, plan in self._plans.items() if plan.name in names]
        withdrawn = self._core.withdraw(asked)
        rest = set(asked).difference(withdrawn)
        self._core.cancel(sorted(rest), running)
        for sequence in withdrawn:
            cancel.cancelled.add(self._names[sequence])
            self._fail(sequence, CancelledError())
        self._cancels.append((cancel, rest))
        self._settle_cancels()
        self.send_waiting()
        self._world.after(CANCEL_SECONDS, self._world.outside, self._answer, cancel)

    def _answer(self, cancel: Cancel) -> None:
        if cancel.answered is None:
            cancel.answered = self._world.now
        self._cancels = [(other, rest) for other, rest in self._cancels if other is not cancel]
        self._changed()

    def _settle_cancels(self) -> None:
        for cancel, rest in self._cancels:
            if not rest:
                self._answer(cancel)

    def _note_cancelled(self, sequences: list[int], cancelled: bool) -> None:
        self._core.cancel_answered(sequences)
        for cancel, rest in self._cancels:
            for sequence in rest.intersection(sequences):
                rest.discard(sequence)
                if cancelled:
                    cancel.cancelled.add(self._names[sequence])
        self._settle_cancels()

    @property
    def cancelling(self) -> bool:
        return bool(self._cancels)

    # --- what goes out and comes in ----------------------------------------------------------------------------

    def send_waiting(self) -> None:
        while self.connected and (batch := self._core.next_batch(self._world.now)):
            self._transmit(batch)

    def acknowledge(self) -> list[Message]:
        return self._core.acknowledgement()

    def handle(self, batch: list[Any]) -> None:
        for message in batch:
            match message:
                case ("accepted", below):
                    self._core.accepted(below)
                case ("full", below, *args):
                    for sequence in self._core.refused(below):
                        self._fail(sequence, ClusterFull(*args))
                case ("sealed",):
                    self._seal_answered()
                case ("room",):
                    self._core.room()
                case ("outcomes", rows):
                    self._take(rows)
                case ("released", blob_ids):
                    self._core.released(blob_ids)
                case ("too_late", sequences):
                    self._note_cancelled(sequences, False)
                case ("refused", reason):
                    self._log.ended[self.name] = f"refused: {reason}"
        assert set(self._core.pending) == set(self._plans), "a task is forgotten on one side"
        self.send_waiting()
        self._changed()

    def _take(self, rows: list[tuple[int, str, bytes, str]]) -> None:
        for sequence, kind, content, _ in rows:
            if kind == PART:
                if sequence in self._core.pending:
                    self._chunks[sequence].take(content, "")
                continue
            self._log.rows.setdefault(self._names[sequence], set()).add((kind, content))
            if self._core.finished(sequence, len(content)) is not None:
                self._finish(sequence, kind, content)
        self._note_cancelled([sequence for sequence, kind, _, _ in rows if kind == CANCELLED], True)

    def _finish(self, sequence: int, kind: str, content: bytes) -> None:
        if kind == CANCELLED:
            self._fail(sequence, CancelledError())
        elif kind != "result":
            self._fail(sequence, load_error(content))
        elif sequence in self._chunks:
            self._chunks[sequence].take(content, "")
            self._end(sequence, "result")
        else:
            (call,) = self._end(sequence, "result").calls
            self._log.told.setdefault(call.name, []).append(Told("result", content.decode(), self._world.now))

    def _fail(self, sequence: int, error: BaseException) -> None:
        chunk = self._chunks.get(sequence)
        told = told_of(error, self._world.now)
        plan = self._end(sequence, told.verdict)
        if chunk is not None:
            chunk.fail(error)  # those of its items that have no outcome yet
        else:
            self._log.told.setdefault(plan.calls[0].name, []).append(told)

    def _end(self, sequence: int, verdict: str) -> Plan:
        """A task has its outcome."""
        plan = self._plans.pop(sequence)
        self._chunks.pop(sequence, None)
        self._world.note(self.name, "is told", plan.name, verdict)
        return plan

    def _items_ended(self, plan: Plan) -> PartCallback:
        """What the chunk of ``plan`` calls when some of its items have ended."""

        def ended(start: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
            for call, (succeeded, value) in zip(plan.calls[start:], outcomes.pairs(), strict=False):
                now = self._world.now
                told = Told("result", str(value), now) if succeeded else told_of(value, now)
                self._log.told.setdefault(call.name, []).append(told)

        return ended


def told_of(error: object, now: float) -> Told:
    losses = len(error.losses) if isinstance(error, WorkerDied) else 0
    return Told(type(error).__name__, str(error), now, losses)
