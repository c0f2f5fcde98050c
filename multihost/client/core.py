"""The client's rules: which tasks go into the next batch, and what must be sent again. Knows no socket, lock or clock.

A task has a sequence number, given here; the master drops what it has seen before, so sending again is safe. A new
batch leaves when the last one was accepted: alone, a task leaves at once; under load, batches form by themselves.
But that is heard late where the program's own thread goes on submitting, by 5 ms and more, for which workers would have
nothing to do: so behind a batch another one leaves when it is much larger, and behind a task that left alone, at once.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice

from multihost.client.blobs import KEPT_BYTES, Blobs
from multihost.client.code import Blob
from multihost.client.values import AT_ONCE_BYTES, Values
from multihost.payload import LARGE_BLOB_BYTES, Large, Places
from multihost.wire.messages import Message

_MAX_BATCH_BYTES = 4 * 1024 * 1024
_MAX_BATCH_TASKS = 4096
# A batch leaves behind one that is not accepted if it has so many tasks, and so many times as many; behind one of more
# bytes, none does.
_LEAST_BEHIND, _TIMES_BEHIND, _MOST_BYTES_BEHIND = 16, 4, 64 * 1024
_FIRST_BATCHES = _TIMES_BEHIND * 64  # so many are enough behind the first batches of a loop of calls, of up to 64 tasks
_NEVER = 1 << 62
# Acknowledgements ride on the next submit; so much may gather first, and stays in the master's memory meanwhile.
_MAX_UNACKNOWLEDGED, _MAX_UNACKNOWLEDGED_BYTES = 256, 64 * 1024


@dataclass(slots=True)
class Pending:
    """A task that has no outcome yet; kept whole, so that it can be submitted to a master that has forgotten it."""

    function_id: str
    options: dict[str, object]  # as they travel; one object for all calls that were made with the same
    payload: bytes | Large
    since: float = 0.0  # when the call was made, if its options ask for that
    patient: bool = False  # whether it waits here while the master is full, rather than fail
    called_at: float = 0.0  # on a clock of the caller's
    values: tuple[bytes, ...] = ()  # large ones that it has


@dataclass(slots=True)
class ClientCore:
    """One session's tasks, as this side knows them."""

    inherited: frozenset[str] = (
        frozenset()
    )  # ids of the blobs that the master has from the program, if this is a task's
    large_bytes: int = LARGE_BLOB_BYTES  # this and the next as for ``Blobs``
    kept_bytes: int = KEPT_BYTES
    at_once_bytes: float = AT_ONCE_BYTES  # as for ``Values``
    pending: dict[int, Pending] = field(default_factory=dict)  # by sequence number, rising
    _numbers: Iterator[int] = field(default_factory=count)
    _unsent: dict[int, None] = field(default_factory=dict)  # numbers, those to send first in front
    _blobs: Blobs = field(init=False)
    _values: Values = field(init=False)
    full: bool = False  # whether the master takes no more, until it says otherwise
    _heard: bool = False  # that it is full: it is to be told so
    _awaited: int = -1  # the highest number in the batches that are not accepted yet; -1: none is under way
    _enough: int = 0  # so many unsent tasks make another batch before those are accepted
    _finished: list[int] = field(default_factory=list)  # outcomes that came and are not acknowledged
    _finished_bytes: int = 0
    _part_bytes: dict[int, int] = field(default_factory=dict)  # what has come of chunks that have not ended
    _questions: dict[int, Message] = field(default_factory=dict)  # to be asked until they are answered
    _questions_sent: set[int] = field(default_factory=set)
    _seal: Message | None = None  # to be said behind the last task of a detached job, until it is answered
    _seal_sent: bool = False
    _cancels: dict[int, bool] = field(default_factory=dict)  # to be cancelled (even when running), until answered
    _cancels_sent: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._blobs = Blobs(self.inherited, self.large_bytes, self.kept_bytes)
        self._values = Values(self.at_once_bytes)

    def add(
        self,
        blobs: list[Blob],
        options: dict[str, object],
        payload: bytes | Large,
        since: float = 0.0,
        patient: bool = False,
        called_at: float = 0.0,
        values: tuple[bytes, ...] = (),
        bound: tuple[str, Places] | None = None,
    ) -> int:
        """A new task of the function that is the last of ``blobs``; its sequence number.

        ``since`` is when the call was made, on the clock of ``next_batch``, for options that count from then on;
        ``called_at`` is kept with it, for whoever wants to know. ``values`` are large ones among its arguments;
        ``bound`` is which function the last of ``blobs`` is, with which of them.
        """
        self._blobs.use(blobs)
        if values:
            self._values.use(values)
            if bound is not None and self._values.bind(*bound, blobs):
                self._blobs.use(blobs)
        sequence = next(self._numbers)
        self.pending[sequence] = Pending(blobs[-1].blob_id, options, payload, since, patient, called_at, values)
        self._unsent[sequence] = None
        return sequence

    @property
    def starting(self) -> bool:
        """Whether the last batch was one of the first of a loop of calls, which are small."""
        return self._enough <= _FIRST_BATCHES

    @property
    def unsent(self) -> int:
        return len(self._unsent)

    def withdraw(self, sequences: Iterable[int]) -> list[int]:
        """Forget those of these tasks that the master has not heard of; their numbers are left out."""
        unsent = sorted({sequence for sequence in sequences if sequence in self._unsent})
        for sequence in unsent:
            del self._unsent[sequence]
            self._ended(self.pending.pop(sequence))
        return unsent

    def next_batch(self, now: float) -> list[Message]:
        """What to send at ``now``; empty while the last batch is not accepted and nothing else is to be said."""
        may_send = self._unsent and not self.full and (self._awaited < 0 or len(self._unsent) >= self._enough)
        many = len(self._finished) >= _MAX_UNACKNOWLEDGED or self._finished_bytes >= _MAX_UNACKNOWLEDGED_BYTES
        batch: list[Message] = []  # of a loop of calls, nearly all find nothing, so each look is a comparison
        if self._heard:
            self._heard = False
            batch.append(("waits",))
        if self._blobs.unsaid:
            batch += self._blobs.releases()
        if may_send:
            batch += self._submits(now)
        if len(self._cancels) > len(self._cancels_sent):
            unasked = sorted(self._cancels.keys() - self._cancels_sent)
            self._cancels_sent.update(unasked)
            for running in (False, True):
                if these := [sequence for sequence in unasked if self._cancels[sequence] is running]:
                    batch.append(("cancel", these, running))
        if self._seal is not None and not self._seal_sent and not self._unsent and self._awaited < 0:
            self._seal_sent = True
            batch.append(self._seal)
        if len(self._questions) > len(self._questions_sent):
            unasked = sorted(self._questions.keys() - self._questions_sent)
            self._questions_sent.update(unasked)
            batch += [self._questions[question] for question in unasked]
        return [*self.acknowledgement(), *batch] if batch or many else []

    def cancel(self, sequences: Iterable[int], running: bool) -> None:
        """Ask the master to cancel tasks that it has heard of; with ``running`` even those that a worker has."""
        for sequence in sequences:
            if running and not self._cancels.get(sequence, True):
                self._cancels_sent.discard(sequence)  # asked for less before
            self._cancels[sequence] = running or self._cancels.get(sequence, False)

    def cancel_answered(self, sequences: Iterable[int]) -> None:
        """The master has said whether these are cancelled."""
        for sequence in sequences:
            self._cancels.pop(sequence, None)
        self._cancels_sent.difference_update(sequences)

    def seal(self, items: int, chunksize: int) -> None:
        """Say, when the master has every task, that these are all of a detached job."""
        self._seal = ("seal", items, chunksize)

    @property
    def sealed(self) -> bool:
        return self._seal is None

    def seal_answered(self) -> None:
        self._seal = None

    def ask(self, question: int, sequence: int) -> None:
        """Ask the master why a task is where it is; ``question`` is a number of that question's own."""
        self._questions[question] = ("explain", question, sequence)

    def ask_figures(self, question: int) -> None:
        """Ask the master for the statistics of this session, as ``ask`` does."""
        self._questions[question] = ("figures", question)

    def answered(self, question: int) -> None:
        """It was answered, or its answer is not waited for any more."""
        self._questions.pop(question, None)
        self._questions_sent.discard(question)

    def is_unsent(self, sequence: int) -> bool:
        return sequence in self._unsent

    def acknowledgement(self) -> list[Message]:
        """Acknowledge whatever has gathered."""
        finished, self._finished, self._finished_bytes = self._finished, [], 0
        return [("acknowledge", finished)] if finished else []

    def accepted(self, below: int) -> None:
        """The master has every task below this number."""
        if below > self._awaited:
            self._awaited = -1

    def refused(self, below: int) -> list[int]:
        """The master is full, and has only the tasks below this number; those that fail for it, and are forgotten.

        Whatever is under way is refused, for the master takes nothing until it is told that we know.
        """
        refused = [number for number in range(below, self._awaited + 1) if number in self.pending]
        self._awaited, self.full, self._heard = -1, True, True
        self._unsent = dict.fromkeys(refused) | self._unsent
        return self.withdraw([number for number in self._unsent if not self.pending[number].patient])

    def room(self) -> None:
        """The master takes more."""
        self.full = False

    def finished(self, sequence: int, size_bytes: int) -> Pending | None:
        """An outcome of that size came; the task, or None if its outcome had come before."""
        if 0 <= self._awaited <= sequence:
            self.accepted(sequence + 1)  # as the master takes them in order
        self._finished.append(sequence)
        self._finished_bytes += size_bytes
        if self._part_bytes:
            self._finished_bytes += self._part_bytes.pop(sequence, 0)
        if (task := self.pending.pop(sequence, None)) is not None:
            self._ended(task)
        return task

    def _ended(self, task: Pending) -> None:
        self._blobs.ended(task.function_id)
        if task.values:
            self.let_go(task.values)

    def hold(self, values: Iterable[bytes]) -> None:
        """Share these large values from the next task on that has them, as if one had them already."""
        self._values.use(values)

    def let_go(self, values: Iterable[bytes]) -> None:
        """What was held is not needed any more, or a task has ended that had these."""
        for function_id in self._values.ended(values):
            self._blobs.ended(function_id)

    def shared(self, function_id: str, places: Places) -> Places:
        """Those of a call's large values that are to travel with this function."""
        return self._values.shared(function_id, places)

    def bound(self, function_id: str, places: Places) -> list[Blob] | None:
        """The blobs of a function that is bound to these values, if a task has them so."""
        return self._values.bound(function_id, places)

    def released(self, blob_ids: list[str]) -> None:
        """The master has let go of these blobs, or needs them still for what we know to have ended."""
        self._blobs.released(blob_ids)

    def took_part(self, sequence: int, size_bytes: int) -> Pending | None:
        """Some of a chunk's outcomes came, which the master keeps until the whole is acknowledged; the chunk."""
        self._part_bytes[sequence] = self._part_bytes.get(sequence, 0) + size_bytes
        return self.pending.get(sequence)

    def reconnected(self, known: bool, accepted: int) -> None:
        """A new connection: ``accepted`` as the master says; unless it is ``known`` there, the session starts anew."""
        self._awaited, self.full, self._heard = -1, False, False
        self._blobs.reconnected(known)
        self._cancels = {sequence: how for sequence, how in self._cancels.items() if sequence in self.pending}
        self._cancels_sent.clear()
        self._questions_sent.clear()
        self._seal_sent = False
        if not known:
            accepted = 0
        # What the master may have taken once does not fail because it, or the next one, is full.
        for sequence in self.pending.keys() - self._unsent.keys():
            self.pending[sequence].patient = True
        self._unsent = dict.fromkeys(sequence for sequence in self.pending if sequence >= accepted)

    def _submits(self, now: float) -> list[Message]:
        """Unsent tasks up to the size of a batch, in runs of one function, the same options and consecutive numbers."""
        messages: list[Message] = []
        size = tasks = 0
        first, function_id, since = -1, "", 0.0
        options: dict[str, object] = {}
        payloads: list[object] = []
        for sequence in islice(self._unsent, _MAX_BATCH_TASKS):
            task = self.pending[sequence]
            weight = len(task.payload)
            if task.function_id != function_id:
                weight += self._blobs.large_unsent(task.function_id)
            if tasks and size + weight > _MAX_BATCH_BYTES:
                break
            last = sequence
            continues = task.function_id == function_id and task.options is options and task.since == since
            if not continues or sequence != first + len(payloads):
                messages += self._blobs.messages_of(task.function_id)
                first, function_id, options, since, payloads = (
                    sequence,
                    task.function_id,
                    task.options,
                    task.since,
                    [],
                )
                # The master's clock is another one: what it is told is how long ago the call was made.
                said = {**options, "age": max(0.0, now - since)} if since else options
                messages.append(("submit", first, function_id, said, payloads))
            payload = task.payload
            payloads.append(payload if isinstance(payload, bytes) else payload.stand_in())
            size += weight
            tasks += 1
            if size >= _MAX_BATCH_BYTES:
                break
        self._forget_unsent(tasks)
        if self._awaited < 0 and tasks == 1:
            self._enough = 1
        else:
            self._enough = max(_LEAST_BEHIND, _TIMES_BEHIND * tasks) if size <= _MOST_BYTES_BEHIND else _NEVER
        self._awaited = last
        return messages

    def _forget_unsent(self, tasks: int) -> None:
        """So many are sent now, those in front."""
        if tasks == len(self._unsent):
            self._unsent.clear()  # where a dict loses its first ones, it passes over their places from then on
        else:
            for sequence in list(islice(self._unsent, tasks)):
                del self._unsent[sequence]
