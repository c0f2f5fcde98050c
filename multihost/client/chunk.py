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

    def take(self, content: bytes, note: str) -> None:
        """Part of the outcomes has come; one that came before, over a connection that broke, is passed over."""
        start, seconds, outcomes = load_part(content)
        if start < self._done or not outcomes:
            return
        for error in outcomes.errors.values():
            error.add_note(note)
        self._done += len(outcomes)
        self._callback(start, outcomes, seconds, len(content))

    def fail(self, error: BaseException) -> None:
        """The chunk as a whole has ended: so do all of its items that have no outcome yet."""
        start, self._done = self._done, self._count
        if start < self._count:
            self._callback(start, Outcomes.failed(error, self._count - start), 0.0, 0)


@lru_cache(256)
def wire_options(options: Options, star: bool) -> dict[str, object]:
    """How a chunk's options travel; the same object for the same options."""
    return {**options.wire, "chunk": "starmap" if star else "map"}
