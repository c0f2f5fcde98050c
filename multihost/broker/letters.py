"""Dead letters: the tasks that were given up, each with what is needed to run it again, and the code that it needs.

What is kept here is changed by the ledger's commands alone.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields

from multihost.broker.blobs import BlobStore

# Of these states a letter is in one. Dead, done and failed ones wait for a person.
DEAD, REQUEUED, DONE, FAILED = "dead", "requeued", "done", "failed"
_OURS = "dead-letter"
_HOLDER = f"{_OURS}s"  # whoever uses the code that letters need


def is_ours(session_id: str) -> bool:
    """Whether no program may have a session of that id."""
    return re.fullmatch(rf"{_OURS}(s|-[0-9]+)", session_id) is not None


@dataclass(slots=True, eq=False)
class DeadLetter:
    """A task that was given up, or one item of a chunk."""

    number: int  # its name, from 1; none is given twice
    program: str  # the name of its session
    session: str
    sequence: int
    item: int | None  # which one of a chunk
    function_id: str
    payload: bytes
    options: dict[object, object]  # as its client sent them
    losses: tuple[str, ...]  # why each delivery was lost, those after a requeue included
    died_at: float  # wall-clock time
    state: str = DEAD
    requeues: int = 0
    error: bytes = b""  # failed: what its function raised, as the worker told it

    @property
    def home(self) -> str:
        """The id of the master's own session in which it runs again."""
        return f"{_OURS}-{self.number}"

    @property
    def weight(self) -> int:
        """Its bytes, without code, which several may share."""
        return len(self.payload) + sum(map(len, self.losses)) + len(self.error)

    def row(self) -> tuple[object, ...]:
        """What ``DeadLetter(*row)`` makes it of again."""
        return tuple(getattr(self, each.name) for each in fields(self))


class LetterBox:
    """All dead letters, oldest first; they keep the code that they need in ``blobs``."""

    def __init__(self, blobs: BlobStore) -> None:
        self.next_number = 1
        self.size_bytes = 0  # of the letters and of the code that is kept for them
        self.running: dict[str, DeadLetter] = {}  # those requeued whose outcome was not noted yet, by their home
        self._letters: dict[int, DeadLetter] = {}
        self._blobs = blobs
        self._uses: Counter[str] = Counter()  # of how many letters a blob is needed

    def __len__(self) -> int:
        return len(self._letters)

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self._letters.values())

    def get(self, number: int) -> DeadLetter | None:
        return self._letters.get(number)

    def add(self, letter: DeadLetter) -> None:
        self._letters[letter.number] = letter
        self.next_number = max(self.next_number, letter.number + 1)
        self.size_bytes += letter.weight
        if letter.state == REQUEUED:
            self.running[letter.home] = letter
        needed = self._blobs.reach(letter.function_id)
        self.size_bytes += sum(self._blobs.size(blob_id) for blob_id in needed if not self._uses[blob_id])
        self._blobs.hold(_HOLDER, needed)
        self._uses.update(needed)

    def remove(self, number: int) -> set[str]:
        """The ids of the blobs that nobody uses any more."""
        letter = self._letters.pop(number)
        self.running.pop(letter.home, None)
        self.size_bytes -= letter.weight
        needed = self._blobs.reach(letter.function_id)
        self._uses.subtract(needed)
        free = {blob_id for blob_id in needed if not self._uses[blob_id]}
        for blob_id in free:
            del self._uses[blob_id]
            self.size_bytes -= self._blobs.size(blob_id)
        return self._blobs.let_go(_HOLDER, free)

    def change(
        self, letter: DeadLetter, state: str, losses: tuple[str, ...] | None = None, error: bytes | None = None
    ) -> None:
        """Something has come of a letter; what is None stays."""
        self.size_bytes -= letter.weight
        letter.state = state
        letter.losses = letter.losses if losses is None else losses
        letter.error = letter.error if error is None else error
        self.size_bytes += letter.weight

    def oldest(self) -> DeadLetter | None:
        """Of those that do not run now."""
        return next((letter for letter in self if letter.home not in self.running), None)
