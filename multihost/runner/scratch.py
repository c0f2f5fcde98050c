"""The scratch directories: those of the tasks in a child process, and what workers that were killed have left."""

import contextlib
import fcntl
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

PREFIX = "multihost-"
_LOCK = "worker"
# What a killed worker has started ends soon after it, and may be about to begin even.
_LEFT_SECONDS = 10.0
_to_remove: deque[Path] = deque()


class Scratch:
    """Those of the tasks that run in this process.

    Args:
        directory: what they lie in, made with the first one; the worker removes it when this process has ended.
        running: the token of the task that asks, and which item of a chunk it is at; None: none runs.
    """

    def __init__(self, directory: Path, running: Callable[[], tuple[int, int] | None]) -> None:
        self.made: dict[int, Path] = {}  # by token
        self._directory, self._running = directory, running

    def path(self) -> Path | None:
        """That of the task that asks. Raises: OSError."""
        if (running := self._running()) is None:
            return None
        token, item = running
        path = self._directory / f"{token}-{item}"
        if self.made.get(token) != path:
            self.remove(token)
            path.mkdir(parents=True, exist_ok=True)
            self.made[token] = path
        return path

    def remove(self, token: int) -> None:
        """The task has ended, or one item of it."""
        if (path := self.made.pop(token, None)) is not None:
            shutil.rmtree(path, ignore_errors=True)


def make_directory() -> tuple[Path, IO[str]]:
    """A directory for a worker, and what it holds open as long as it lives: a lock, by which others see that it does.

    Raises: OSError.
    """
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = open(directory / f"{_LOCK}.new", "w")  # noqa: SIM115  it is open as long as the worker lives
    fcntl.flock(lock, fcntl.LOCK_EX)
    (directory / f"{_LOCK}.new").rename(directory / _LOCK)
    return directory, lock


def remove_later(directory: Path) -> None:
    """Remove what may be large, without waiting for it."""
    if directory.exists():
        _to_remove.append(directory)
    with contextlib.suppress(RuntimeError):  # there is no room for a thread: with the next one, or with the worker's
        while _to_remove:
            threading.Thread(target=shutil.rmtree, args=(_to_remove[0], True), daemon=True).start()
            _to_remove.popleft()


def remove_left() -> None:
    """Remove the directories of workers of ours that were killed."""
    for lock in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{_LOCK}"):
        with contextlib.suppress(OSError), open(lock) as file:  # another user's, or its worker lives
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            timer = threading.Timer(_LEFT_SECONDS, shutil.rmtree, (lock.parent, True))
            timer.daemon = True
            timer.start()
