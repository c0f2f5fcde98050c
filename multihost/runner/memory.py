"""Memory: the limit of what tasks may take, what a process has taken, and how often the kernel's OOM killer struck.

Two limits are one number. The kernel refuses a process more *data* than that (``RLIMIT_DATA``: private memory that can
be written), so that a task meets a MemoryError where it asks for too much, and can clean up. What is not counted there,
such as shared memory, the worker measures, and ends the process.
"""

import contextlib
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from multihost.errors import TaskOutOfMemory

MEMORY = "memory"  # the option of a task
_ROOT = Path("/sys/fs/cgroup")
_AS_IT_IS = contextlib.nullcontext()


def limit_of(options: dict[str, object], worker_limit: int) -> int:
    """What the process of a task with these options may take, in bytes; 0: any number."""
    limit = options.get(MEMORY, 0)
    assert isinstance(limit, int)
    return min(limit, worker_limit) if limit and worker_limit else limit or worker_limit


def measure(process: int) -> int:
    """How many bytes a process has in memory, without what it could read again from files; 0: it is gone."""
    total = 0
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                total += int(line.split()[1]) * 1024
    return total


class MemoryLimit:
    """That of this process, while tasks run; of several at a time, the highest of theirs counts."""

    def __init__(self, worker_limit: int, worker: str) -> None:
        self._worker_limit, self._worker = worker_limit, worker
        self._tasks: dict[int, int] = {}
        self._lifts = 0
        self._lock = threading.RLock()  # reentrant: a signal handler may lift it at any line
        _, self._hard = resource.getrlimit(resource.RLIMIT_DATA)

    def of(self, options: dict[str, object]) -> int:
        """The limit of a task; 0: none."""
        return limit_of(options, self._worker_limit) if self._worker_limit or MEMORY in options else 0

    def enter(self, token: int, limit: int) -> None:
        """A task with a limit begins."""
        with self._lock:
            self._tasks[token] = limit
            self._set()

    def leave(self, token: int) -> None:
        """A task has ended, if it ever began."""
        if token in self._tasks:
            with self._lock:
                del self._tasks[token]
                self._set()

    def lifted(self) -> AbstractContextManager[None]:
        """For what is ours, and must not fail."""
        return self._lifted() if self._tasks else _AS_IT_IS

    @contextlib.contextmanager
    def _lifted(self) -> Iterator[None]:
        with self._lock:
            self._lifts += 1
            self._set()
        try:
            yield
        finally:
            with self._lock:
                self._lifts -= 1
                self._set()

    def explain(self, error: BaseException, token: int) -> BaseException:
        """What a task raised, or in the place of a MemoryError what says under which limit."""
        if not isinstance(error, MemoryError) or isinstance(error, TaskOutOfMemory) or token not in self._tasks:
            return error
        told = TaskOutOfMemory(self._tasks[token], self._worker, reason=str(error))
        return told.with_traceback(error.__traceback__)

    def _set(self) -> None:
        limit = max(self._tasks.values(), default=0)
        if self._lifts or not limit or (self._hard != resource.RLIM_INFINITY and limit > self._hard):
            limit = self._hard
        resource.setrlimit(resource.RLIMIT_DATA, (limit, self._hard))


class OomKills:
    """The counter ``oom_kill`` of a cgroup: the deaths that were told are subtracted from it.

    Args:
        file: with a line ``oom_kill N``; None: there is none, and nothing is known.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or _counter_file()
        self._told = self._recent = self._count() or 0

    def one_more(self) -> bool | None:
        """Whether there is a kill that was not told of yet, which then is; None: unknown."""
        count = self._count()
        if count is None:
            return None
        if count <= self._told:
            return False
        self._told += 1
        return True

    def forget_old(self) -> None:
        """Kills that were there when this was called last were of no child: its death would have been told by now."""
        self._told, self._recent = max(self._told, self._recent), self._count() or 0

    def _count(self) -> int | None:
        if self._file is None:
            return None
        with contextlib.suppress(OSError, ValueError):
            for line in self._file.read_text().splitlines():
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
        return None


def _counter_file(root: Path = _ROOT, cgroups: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Where the counter of this process's cgroup is: of version 2, or where that has no memory, of version 1."""
    try:
        lines = cgroups.read_text().splitlines()
    except OSError:
        return None
    paths = {kinds: path.lstrip("/") for _, kinds, path in (line.split(":", 2) for line in lines)}
    places = [(paths.get("", ""), root, "memory.events")]
    places.append((paths.get("memory", ""), root / "memory", "memory.oom_control"))
    for path, at, name in places:
        # In a container the path may be the host's, and the mounted directory the container's own.
        for file in (at / path / name, at / name):
            if os.path.exists(file):
                return file
    return None
