"""How the items of a map are cut into chunks, so that nobody has to choose a size. Knows no session, lock or clock.

Single items come first. Once it is known how long they take, a chunk is a few milliseconds of work: large enough to
hide what a task costs, small enough that all slots end at the same time and that a new worker finds something to do.

A map that is expected, by what a map of the same function came to before, to be over in some milliseconds, is cut into
two chunks for each slot at once, for to find out how long its items take would last as long.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

# More hides more of what a chunk costs (some 0.3 ms in client, master and worker); less balances better.
_CHUNK_SECONDS = 0.005
# At the end chunks get smaller, but not below this: that all slots end together is worth no more than what they cost.
_LEAST_SECONDS = 0.001
# An item by itself takes about so much longer than one of many.
_COLD_SECONDS = 0.00002
_MAX_ITEMS = 16384
_MAX_BYTES = 1024 * 1024
# While nothing is measured: enough to see how long an item takes, few enough that most are left to go in chunks.
_PROBES = 2
# Chunks under way for each slot: one runs, the others hide the way from client to worker and back.
_AHEAD = 4
# Single items under way, when they are so long that chunks are of no use: a worker that joins finds work. Not at once:
# the first items of a short function take long, too, while processes start for them.
_FEW_SINGLES, _SINGLES = 16, 256
_MAX_BYTES_AHEAD = 64 * 1024 * 1024
# A map is brief that should take each slot less than this.
_BRIEF_SECONDS = 0.01
_MAX_FUNCTIONS = 1000  # of which it is known how long their items take


@dataclass(slots=True)
class Pace:
    """How long an item of a function took in a map, seconds; None: not known."""

    seconds: float | None = None


class Paces:
    """Those of functions by their ids."""

    def __init__(self) -> None:
        self._paces: dict[str, Pace] = {}

    def of(self, function_id: str) -> Pace:
        """Kept up to date by the plans of its maps."""
        if len(self._paces) >= _MAX_FUNCTIONS:
            self._paces.clear()
        return self._paces.setdefault(function_id, Pace())


@dataclass(slots=True)
class Plan:
    """What of a map of ``length`` items is still to be submitted, and in which pieces.

    Args:
        chunksize: the size that the user chose; such a map is submitted without waiting. None: find it out.
        pace: what is known of the function, and is to be known of it behind this map.
    """

    length: int
    chunksize: int | None = None
    pace: Pace = field(default_factory=Pace)
    outstanding: int = 0  # chunks that were taken and have not ended
    _next: int = 0
    _singles: int = 0  # how many may be under way one by one, beyond those that measure
    _seconds: float | None = None  # that an item takes on a worker
    _bytes: float = 0.0  # of an item, or of its result if that is larger

    @property
    def left(self) -> int:
        """How many items were not taken yet."""
        return self.length - self._next

    @property
    def short(self) -> bool:
        """Whether the items are known to be so short that several travel together."""
        return self._seconds is not None and 2 * self._seconds <= _CHUNK_SECONDS

    def take(self, slots: int, size_of: Callable[[int], int]) -> range | None:
        """The indices of the next chunk; None: none is left, or enough are under way.

        Args:
            slots: how many calls can run at once.
            size_of: about how many bytes the item at an index has; asked once for a chunk of several.
        """
        slots = max(1, slots)
        size = self._size(slots)
        if not self.left or self.outstanding >= self._window(size, slots):
            return None
        if self.chunksize is None and (size > 1 or (not self._bytes and self.outstanding >= _AHEAD * slots)):
            self._bytes = max(self._bytes, size_of(self._next + size - 1))
            size = min(size, self._within_bytes())
        chunk = range(self._next, self._next + size)
        self._next, self.outstanding = chunk.stop, self.outstanding + 1
        return chunk

    def part(self, items: int, seconds: float, size_bytes: int) -> None:
        """So many items took so long; their results have so many bytes. 0 seconds: they did not run."""
        if not items or seconds <= 0:
            return
        last = seconds / items if items > 1 else max(seconds / 10, seconds - _COLD_SECONDS)
        known = last if self._seconds is None else self._seconds
        # That items are long is believed sooner than that they are short, unless many of them say so.
        self._seconds = self.pace.seconds = last + (known - last) / (2 if last > known else 1 + items)
        self._bytes = max(size_bytes / items, self._bytes)

    def widen(self) -> bool:
        """The items have not turned out to be short: more of them may be under way. Whether to ask this again."""
        self._singles = min(_SINGLES, max(_FEW_SINGLES, 2 * self._singles))
        return self.left > 0 and self._singles < _SINGLES

    def ended(self) -> None:
        """All items of a chunk have their outcome."""
        self.outstanding -= 1

    def stop(self) -> range:
        """Take no more; the indices of the items that are left."""
        rest = range(self._next, self.length)
        self._next = self.length
        return rest

    def _size(self, slots: int) -> int:
        if self.chunksize is not None:
            return min(self.chunksize, self.left)
        if self._seconds is None:
            few = -(-self.length // (2 * slots)) if self._is_brief(slots) else 1
            return min(self.left, max(1, min(few, _MAX_ITEMS, self._within_bytes())))
        by_time = int(_CHUNK_SECONDS / self._seconds)
        shares = self.left // (2 * slots)  # smaller and smaller pieces at the end: all slots end together
        least = int(_LEAST_SECONDS / self._seconds)
        return min(self.left, max(1, min(by_time, max(least, shares), _MAX_ITEMS, self._within_bytes())))

    def _is_brief(self, slots: int) -> bool:
        each = self.pace.seconds
        return each is not None and each * self.length < _BRIEF_SECONDS * slots

    def _within_bytes(self) -> int:
        return max(1, int(_MAX_BYTES / self._bytes)) if self._bytes else _MAX_ITEMS

    def _window(self, size: int, slots: int) -> float:
        if self.chunksize is not None:
            return float("inf")
        few = (_PROBES if self._seconds is None and not self._is_brief(slots) else _AHEAD) * slots
        if size > 1:
            return few
        return max(few, min(self._singles, _MAX_BYTES_AHEAD / self._bytes if self._bytes else _SINGLES))
