"""What Linux tells of processes: who descends from whom, their CPU time, their memory."""

import contextlib
import os
import signal
from collections import defaultdict
from pathlib import Path

PROC = Path("/proc")


def descendants(pid: int) -> list[int]:
    """The processes that ``pid`` has started, and those that they have, and so on."""
    children: dict[int, list[int]] = defaultdict(list)
    for process in _all():
        with contextlib.suppress(OSError):
            children[int(_stat(process)[1])].append(process)
    found, unseen = [], [pid]
    while unseen:
        offspring = children[unseen.pop()]
        found += offspring
        unseen += offspring
    return found


def cpu_seconds(pid: int) -> float:
    """The CPU time it has used, none if it has ended; to the nanosecond, for ticks of 10 ms would be too coarse."""
    with contextlib.suppress(OSError):
        threads = (PROC / str(pid) / "task").iterdir()
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    return 0.0


def private_bytes(pid: int) -> int:
    """The memory that would be free if it ended: what it shares with others is not counted."""
    with contextlib.suppress(OSError):
        lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
    return 0


def resident_bytes(pid: int) -> int:
    """The memory of a process that is in RAM, shared or not."""
    return _field_of_status(pid, "VmRSS:")


def peak_bytes(pid: int) -> int:
    """The most that ``resident_bytes`` has been."""
    return _field_of_status(pid, "VmHWM:")


def command(pid: int) -> str:
    """The command line it was started with; nothing if it has ended."""
    with contextlib.suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def marked(mark: str) -> list[int]:
    """The processes that have ``mark``, as ``NAME=value``, in the environment they were started with."""
    found = []
    for pid in _all():
        with contextlib.suppress(OSError):
            if mark.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def kill_marked(mark: str) -> None:
    """End every process that was started with ``mark``, however far it has removed itself from its parents."""
    for pid in marked(mark):
        if pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def _all() -> list[int]:
    return [int(entry) for entry in os.listdir(PROC) if entry.isdecimal()]


def _stat(pid: int) -> list[str]:
    # The command's name stands in parentheses and may contain anything.
    return (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _field_of_status(pid: int, name: str) -> int:
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
