"""The parent of a child process: it waits for its end, tells how it was, and ends what the child has left behind.

    fork server --> warden --> the child, in a session of its own --> whatever its tasks start
                      ^                                                  |
                      +--- inherits what loses its parent, at any depth -+

Only the parent of a process learns its exit status and its peak memory, and only an ancestor that asked for it inherits
orphans: what a task starts, detached or not, in another session or not, cannot leave the warden's family. It knows
nothing of tasks and reads nothing that they write.
"""

import contextlib
import ctypes
import os
import signal
import struct
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn

from multihost.runner.interrupts import INTERRUPT

END = signal.SIGTERM  # tells the warden to end the child
_PR_SET_PDEATHSIG, _PR_SET_TIMERSLACK, _PR_SET_CHILD_SUBREAPER = 1, 29, 36
_HEARD = {signal.SIGCHLD, END, INTERRUPT}
_LEAST_SLACK_NS = 1  # 0 would be what it was when the process began
# What is killed ends at once, unless the kernel is busy for it, or it belongs to another user.
_CLEANUP_SECONDS = 2.0
_RECORD = struct.Struct("<iq")
# The kernel's OOM killer shall rather take a task than the worker, or another program of this host.
_OOM_SCORE_ADJ = 500


class Ended(NamedTuple):
    """``exit_code`` is as ``subprocess`` has it: below zero, the number of a signal."""

    exit_code: int
    peak_bytes: int


def fork_guarded(report: Connection, release: Callable[[], None]) -> None:
    """Return in a process forked from this one, which stays as its warden and never returns.

    Args:
        report: takes the child's process id at its beginning and an ``Ended`` at its end; closed in the child.
        release: closes what is the child's alone; called in the warden.
    Raises: OSError: there is no room for a process.
    """
    prctl = ctypes.CDLL(None).prctl
    # If the worker is killed, the fork server ends, and with it this process: what it ran is run elsewhere.
    prctl(_PR_SET_PDEATHSIG, END)
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    warden = os.getpid()
    child = os.fork()
    if child:
        release()
        _watch(child, report)
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:
        os._exit(1)  # it was killed before we said so
    # The kernel may end a wait 50 µs late, to save wake-ups: much behind a sleep or a timeout of a millisecond.
    prctl(_PR_SET_TIMERSLACK, _LEAST_SLACK_NS)
    report.close()
    os.setsid()  # what a task signals as its process group is not the worker
    with contextlib.suppress(OSError, ValueError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(max(_OOM_SCORE_ADJ, int(score.read_text()))))
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def read_child(record: bytes) -> int:
    """The process id in the first record of a report."""
    return int(_RECORD.unpack(record)[0])


def read_ended(record: bytes) -> Ended:
    return Ended(*_RECORD.unpack(record))


def _watch(child: int, report: Connection) -> NoReturn:
    _tell(report, child, 0)
    while (ended := _reap(child)) is None:
        match signal.sigwait(_HEARD):
            case signal.SIGCHLD:
                pass
            case number:
                os.kill(child, signal.SIGKILL if number == END else INTERRUPT)
    _tell(report, *ended)
    _end_family()
    os._exit(0)


def _tell(report: Connection, *fields: int) -> None:
    with contextlib.suppress(OSError):  # the worker is gone
        report.send_bytes(_RECORD.pack(*fields))


def _reap(child: int) -> Ended | None:
    """Take leave of those that have ended; how the child has, if it is among them."""
    with contextlib.suppress(ChildProcessError):
        while (reaped := os.wait4(-1, os.WNOHANG))[0]:
            process, status, usage = reaped
            if process == child:
                return Ended(os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024)
    return None


def _end_family() -> None:
    """Kill what has become ours with the child's death, and what becomes ours with theirs."""
    deadline = time.monotonic() + _CLEANUP_SECONDS
    known: set[int] = set()
    while _has_children() and time.monotonic() < deadline:
        if new := _freeze_family() - known:
            known |= new
            deadline = time.monotonic() + _CLEANUP_SECONDS
        _signal_all(descendants(os.getpid()), signal.SIGKILL)
        signal.sigtimedwait({signal.SIGCHLD}, 0.05)


def _freeze_family() -> set[int]:
    """Stop them all, until none is new: where each one forks, those that are killed would make room for others."""
    frozen: set[int] = set()
    while new := _signal_all(set(descendants(os.getpid())) - frozen, signal.SIGSTOP):
        frozen |= new
    return frozen


def _signal_all(processes: Iterable[int], number: int) -> set[int]:
    """Those of these processes that could be signalled."""
    told = set()
    for process in processes:
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            os.kill(process, number)
            told.add(process)
    return told


def _has_children() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def descendants(ancestor: int) -> list[int]:
    """The processes that descend from one, but for those that have ended."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError):
                # The second field is the name in parentheses, which may contain anything; the fourth is the parent.
                stat = Path(f"/proc/{name}/stat").read_bytes()
                state, parent, *_ = stat.rpartition(b")")[2].split()
                if state != b"Z":
                    parents[int(name)] = int(parent)
    found = [ancestor]
    for process in found:
        found += [child for child, parent in parents.items() if parent == process]
    return found[1:]
