"""Shows what tasks print at the client, on standard error: ``w1/square[task 12] | text``.

A hundred tasks say the same hundred times: a line is shown at once, and its repeats within some seconds as one line,
``... | text [repeated 41 times]``.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_FOLD_SECONDS = 5.0
# Texts whose repeats are looked for; the oldest makes room.
_MAX_TEXTS = 1000


@dataclass(slots=True)
class _Seen:
    until: float  # repeats up to then are folded
    last: str = ""  # the last repeat, as it would have been shown
    repeats: int = 0


@dataclass(slots=True)
class Folder:
    """Which lines to show. Knows no clock and no stream."""

    _seen: dict[str, _Seen] = field(default_factory=dict)  # text -> the line that was shown, oldest first

    def add(self, prefix: str, text: str, now: float) -> list[str]:
        """Someone has printed ``text``, which may be several lines; what to show now."""
        shown = self.due(now)
        for line in text.splitlines():
            if not line.strip():
                continue
            seen = self._seen.get(line)
            if seen is None:
                shown += self._make_room()
                self._seen[line] = _Seen(now + _FOLD_SECONDS)
                shown.append(f"{prefix} | {line}")
            else:
                seen.last, seen.repeats = f"{prefix} | {line}", seen.repeats + 1
        return shown

    def due(self, now: float) -> list[str]:
        """The repeats whose time is over."""
        over = []
        for line, seen in self._seen.items():
            if seen.until > now:
                break
            over.append(line)
        return [text for line in over for text in _told(self._seen.pop(line))]

    def rest(self) -> list[str]:
        """The repeats that were not shown yet, at the end."""
        seen, self._seen = self._seen, {}
        return [text for one in seen.values() for text in _told(one)]

    @property
    def next_due(self) -> float | None:
        """When the next repeats are to be shown; None: there are none."""
        return next((seen.until for seen in self._seen.values() if seen.repeats), None)

    def _make_room(self) -> list[str]:
        if len(self._seen) < _MAX_TEXTS:
            return []
        return _told(self._seen.pop(next(iter(self._seen))))


def _told(seen: _Seen) -> list[str]:
    if not seen.repeats:
        return []
    return [seen.last if seen.repeats == 1 else f"{seen.last} [repeated {seen.repeats} times]"]


class Output:
    """Shows what the tasks of this program print; any thread may call it.

    Args:
        write: shows some lines.
    """

    def __init__(self, write: Callable[[list[str]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._folder = Folder()
        self._timer: threading.Timer | None = None
        self._process = os.getpid()
        atexit.register(self.flush)

    def show(self, name: str, sequence: int, worker: str, text: str) -> None:
        """A task has printed ``text``; as the ``show`` of ``Session``."""
        with self._lock:
            self._write(self._folder.add(f"{worker}/{name}[task {sequence}]", text, time.monotonic()))
            self._set_timer()

    def flush(self) -> None:
        """Show what is held back."""
        if os.getpid() != self._process:
            return  # a process forked from ours ends; it is ours to show
        with self._lock:
            self._write(self._folder.rest())

    def _tell_repeats(self) -> None:
        with self._lock:
            self._timer = None
            self._write(self._folder.due(time.monotonic()))
            self._set_timer()

    def _set_timer(self) -> None:
        due = self._folder.next_due
        if due is None or self._timer is not None:
            return
        self._timer = threading.Timer(max(0.0, due - time.monotonic()), self._tell_repeats)
        self._timer.daemon = True
        with contextlib.suppress(RuntimeError):  # no more threads at the interpreter's exit, which shows the rest
            self._timer.start()


def on_standard_error(lines: list[str]) -> None:
    """Show lines where this program's errors go, as one piece."""
    if lines and sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads them any more; the tasks go on
            sys.stderr.write("".join(f"{line}\n" for line in lines))
            sys.stderr.flush()


_output: Output | None = None


def standard() -> Output:
    """The one ``Output`` of this program on standard error, so that its sessions fold their lines together."""
    global _output
    if _output is None:
        _output = Output(on_standard_error)
    return _output
