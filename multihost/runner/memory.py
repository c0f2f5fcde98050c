"""What the kernel says of memory: how often its OOM killer struck in this process's cgroup."""

import contextlib
import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


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
