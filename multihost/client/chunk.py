"""A chunk: several calls of one function that travel as one task. Each item has an outcome of its own nevertheless."""

from collections.abc import Callable
from functools import lru_cache

from multihost.options import Options
from multihost.payload import Outcomes, load_part

# Where in the chunk the items begin, their outcomes, the seconds they took on the worker in all, and the bytes they
# came in. Called until each item has had its outcome.
PartCallback = Callable[[int, Outcomes, float, int], None]


class Chunk:
    """A chunk under way: which of its items have their outcome, and whom to tell of the others."""

    def __init__(self, count: int, callback: PartCallback) -> None:
        self._count = count
        self._done = 0
        self._callback = callback

    def __len__(self) -> int:
        return self._count

    def take(self, content: bytes, note: str) -> None:
        """Part of the outcomes has come; items whose outcome came before, over another connection, are passed over.

        A master that forgot the chunk has had all of it run again, and its parts then end at other items.
        """
        start, seconds, outcomes = load_part(content)
        outcomes = outcomes.behind(self._done - start)
        if not outcomes:
            return
        for error in outcomes.errors.values():
            error.add_note(note)
        start = max(start, self._done)
        self._done = start + len(outcomes)
        self._callback(start, outcomes, seconds, len(content))

    def fail(self, error: BaseException) -> None:
        """The chunk as a whole has ended: so do all of its items that have no outcome yet."""
        start, self._done = self._done, self._count
        if start < self._count:
            self._callback(start, Outcomes.failed(error, self._count - start), 0.0, 0)


@lru_cache(256)
def wire_options(options: Options, star: bool, count: int) -> dict[str, object]:
    """How the options of a chunk of so many items travel; the same object for the same options."""
    return {**options.wire, "chunk": ("starmap" if star else "map", count)}
