"""The load: a program that submits tasks at an even pace, each alone or in chunks, and notes what it is told."""

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import multihost
from tests.acceptance.nemesis.checker import History, Sent, Told
from tests.acceptance.nemesis.tasks import work

# Submitted at once, so that workers find several to take ahead: in turns as so many tasks, and as chunks of some items.
_BURST = 50
_CHUNK = 10


class Load:
    """Submits through two pools that nothing else uses, and writes into a history."""

    def __init__(self, singles: multihost.Pool, chunks: multihost.Pool, history: History) -> None:
        self._singles, self._chunks, self._history = singles, chunks, history
        self._numbers: list[int] = []  # by the sequence number that each has in the session of the first pool
        self._ended = threading.Semaphore(0)
        self._tap()

    def submit(self, count: int, seconds: float) -> None:
        """Submit tasks 0 to ``count`` spread over so many seconds; later ones at once if it is behind."""
        began = time.monotonic()
        for first in range(0, count, _BURST):
            time.sleep(max(0.0, began + first * seconds / count - time.monotonic()))
            numbers = range(first, min(first + _BURST, count))
            if first // _BURST % 2:
                self._submit_chunks(numbers)
            else:
                self._submit_each(numbers)

    def drain(self, timeout: float) -> None:
        """Wait until each task has an outcome, or so many seconds are over."""
        deadline = time.monotonic() + timeout
        for _ in self._history.attempted:
            if not self._ended.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return

    # --- submits -----------------------------------------------------------------------------------------------

    def _submit_each(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self._history.attempted[number] = time.monotonic()
            self._numbers.append(number)
            told, failed = partial(self._one_told, number), partial(self._failed, [number])
            self._singles.apply_async(work, (number,), None, told, failed)
            self._history.acknowledged[number] = time.monotonic()

    def _submit_chunks(self, numbers: Sequence[int]) -> None:
        self._history.attempted |= dict.fromkeys(numbers, time.monotonic())
        told, failed = partial(self._told, numbers), partial(self._failed, numbers)
        self._chunks.map_async(work, numbers, _CHUNK, told, failed)
        self._history.acknowledged |= dict.fromkeys(numbers, time.monotonic())

    # --- outcomes ----------------------------------------------------------------------------------------------

    def _one_told(self, number: int, value: object) -> None:
        self._told([number], [value])

    def _told(self, numbers: Sequence[int], values: Sequence[object]) -> None:
        now = time.monotonic()
        self._history.told += [Told(number, now, value) for number, value in zip(numbers, values, strict=True)]
        self._ended.release(len(numbers))

    def _failed(self, numbers: Sequence[int], error: BaseException) -> None:
        """Of a map, one item's error stands for all: what became of the others is not told."""
        now, text = time.monotonic(), f"{type(error).__name__}: {error}"
        losses = len(error.losses) if isinstance(error, multihost.WorkerDied) else 0
        self._history.told += [Told(number, now, None, text, losses) for number in numbers]
        self._ended.release(len(numbers))

    def _tap(self) -> None:
        """Note what the master sends, before the client drops what it has had: there alone it shows if another outcome
        was recorded for a task that had one."""
        session: Any = self._singles._member.session
        take = session._take

        def noted(outcomes: list[tuple[int, str, bytes, str]]) -> None:
            for sequence, _, content, _ in outcomes:
                known = sequence < len(self._numbers)
                self._history.sent.append(Sent(self._numbers[sequence] if known else -1, bytes(content)))
            take(outcomes)

        session._take = noted
