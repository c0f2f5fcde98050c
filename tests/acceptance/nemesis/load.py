"""The load: a program that submits tasks at an even pace, and notes what it is told."""

import threading
import time
from functools import partial
from typing import Any

import multihost
from tests.acceptance.nemesis.checker import History, Sent, Told
from tests.acceptance.nemesis.tasks import work

# Submitted at once, so that workers find several to take ahead.
_BURST = 50


class Load:
    """Submits through a pool that nothing else uses, and writes into a history."""

    def __init__(self, pool: multihost.Pool, history: History) -> None:
        self._pool, self._history = pool, history
        self._left = threading.Semaphore(0)
        _tap(pool, history)

    def submit(self, count: int, seconds: float) -> None:
        """Submit tasks 0 to ``count`` spread over so many seconds; later ones at once if it is behind."""
        began = time.monotonic()
        for number in range(count):
            due = began + number // _BURST * _BURST * seconds / count
            time.sleep(max(0.0, due - time.monotonic()))
            self._history.attempted[number] = time.monotonic()
            self._pool.apply_async(work, (number,), None, partial(self._told, number), partial(self._failed, number))
            self._history.acknowledged[number] = time.monotonic()

    def drain(self, timeout: float) -> None:
        """Wait until each task has an outcome, or so many seconds are over."""
        deadline = time.monotonic() + timeout
        for _ in self._history.attempted:
            if not self._left.acquire(timeout=max(0.0, deadline - time.monotonic())):
                return

    def _told(self, number: int, value: object) -> None:
        self._history.told.append(Told(number, time.monotonic(), value))
        self._left.release()

    def _failed(self, number: int, error: BaseException) -> None:
        self._history.told.append(Told(number, time.monotonic(), None, f"{type(error).__name__}: {error}"))
        self._left.release()


def _tap(pool: multihost.Pool, history: History) -> None:
    """Note what the master sends before the client drops what it has had: the only place where an outcome that was
    recorded twice would show. Each call is a task of its own, submitted by one thread: sequence numbers are ours."""
    session: Any = pool._member.session
    take = session._take

    def noted(outcomes: list[tuple[int, str, bytes, str]]) -> None:
        history.sent += [Sent(sequence, bytes(content)) for sequence, _, content, _ in outcomes]
        take(outcomes)

    session._take = noted
