"""A chunk as it runs in a child: one item after another, and what has ended can be taken at any time."""

import time
from collections.abc import Callable
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

from multihost import payload
from multihost.errors import ResultTooLarge

Part = tuple[int, bytes]  # how many items, and their outcomes as payload.dump_part gives them


class ChunkRun:
    """The outcomes of a chunk's items, in order; they are added by one thread and taken by any, under one lock.

    Args:
        done: how many items had ended before.
        max_payload: bytes of one part at most, unless it is of one item that raised.
    """

    def __init__(self, done: int, max_payload: int, dump_error: Callable[[BaseException], bytes]) -> None:
        self._done = done
        self._max_payload = max_payload
        self._dump_error = dump_error
        self._values: list[object] = []
        self._errors: dict[int, bytes] = {}  # by place in values
        self._taken = 0
        # The last item goes with the chunk's own outcome: whoever has all results knows that the chunk has ended.
        self._limit = 0
        self._since = time.perf_counter()

    def run(
        self,
        call: Callable[[Any], object],
        items: list[Any],
        hand_over: Callable[[], None],
        gather_seconds: float,
        fatal: Callable[[BaseException], bool],
    ) -> None:
        """Call ``call`` with each item; ``hand_over`` is called now and then, to take what has ended.

        Raises: an exception for which ``fatal`` holds; it ends the chunk, any other one only its item.
        """
        clock, append = time.perf_counter, self._values.append
        self._limit = len(items) - 1
        begin, step, since = 0, 1, clock()
        limit = since + gather_seconds
        while begin < len(items):
            for item in items[begin : begin + step]:
                try:
                    append(call(item))
                except BaseException as error:
                    if fatal(error):
                        raise
                    self._errors[len(self._values)] = self._dump_error(error)
                    append(None)
            begin, now = begin + step, clock()
            # The clock takes as long as a tiny item.
            step = 2 * step if now - since < gather_seconds / 16 else 1
            if now >= limit and begin < len(items):
                hand_over()
                now = clock()
                limit = now + gather_seconds
            since = now

    @property
    def item(self) -> int:
        """The place in the chunk of the item that runs."""
        return self._done + len(self._values)

    def take(self) -> list[Part]:
        """Parts of what has ended since the last one was taken, but for the chunk's last item."""
        begin, end = self._taken, min(len(self._values), self._limit)
        if begin >= end:
            return []
        now = time.perf_counter()
        values = self._values[begin:end]
        errors = {place - begin: self._errors.pop(place) for place in range(begin, end) if place in self._errors}
        parts = self._pack(self._done + begin, now - self._since, values, errors)
        self._values[begin:end] = [None] * (end - begin)  # they are on their way, and may be large
        self._taken, self._since = end, now
        return parts

    def take_last(self) -> tuple[list[Part], bytes]:
        """What is left when the chunk has ended: parts, and the content of its own outcome."""
        self._limit = len(self._values)
        parts = self.take()
        if parts:
            return parts[:-1], parts[-1][1]
        return [], payload.dump_part(self._done + self._taken, 0.0, [], {})

    def _pack(self, start: int, seconds: float, values: list[object], errors: dict[int, bytes]) -> list[Part]:
        try:
            content = payload.dump_part(start, seconds, values, errors)
        except BaseException as error:  # a __reduce__ of the user's may raise anything
            self._expose(values, errors, error)
            content = payload.dump_part(start, seconds, values, errors)
        if len(content) <= self._max_payload or (len(values) == 1 and errors):
            return [(len(values), content)]
        if len(values) == 1:
            errors[0] = self._dump_error(ResultTooLarge(len(content), self._max_payload))
            return self._pack(start, seconds, [None], errors)
        half = len(values) // 2
        first = {place: error for place, error in errors.items() if place < half}
        second = {place - half: error for place, error in errors.items() if place >= half}
        share = seconds * half / len(values)
        return [
            *self._pack(start, share, values[:half], first),
            *self._pack(start + half, seconds - share, values[half:], second),
        ]

    def _expose(self, values: list[object], errors: dict[int, bytes], together: BaseException) -> None:
        """Turn the values that cannot be pickled into their items' errors; all, if they only cannot be ``together``."""
        culprits: dict[int, BaseException] = {}
        for place, value in enumerate(values):
            try:
                payload.dumps(value)
            except BaseException as error:
                culprits[place] = error
        for place, reason in (culprits or dict.fromkeys(range(len(values)), together)).items():
            errors.setdefault(place, self._dump_error(MaybeEncodingError(reason, values[place])))
            values[place] = None
