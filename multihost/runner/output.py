"""What tasks print: it goes to the worker's own output as ever, and by lines to the client whose task printed it."""

import io
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TextIO

from multihost.deaths import MAX_OUTPUT_CHARACTERS

MAX_TASK_CHARACTERS = 64 * 1024  # of one task; a client who wants to see more has it write a file
MAX_SECOND_CHARACTERS = 256 * 1024  # of a child, each second
LEFT_OUT = "[... more output left out]\n"
_MAX_LINE = 4 * 1024  # a line that is longer goes in pieces
_TAIL_LINES = 20


@dataclass(slots=True, eq=False)
class Printed:
    """Of one task."""

    lines: list[str] = field(default_factory=list)  # whole ones that were not taken yet
    begun: dict[str, str] = field(default_factory=dict)  # stream -> the beginning of a line
    sent: int = 0  # characters
    left_out: bool = False  # whether the last of them say that there was more
    tail: str = ""


class Output:
    """Gathers what tasks print until ``take``; any thread may print.

    Args:
        whose: the token of the task that runs in the calling thread, or None.
        guard: held while the state is changed, so that nothing is raised meanwhile.
        forward: False: nothing waits, only the last lines of each task are kept.
        testament: is given the token and the last characters of each task that prints.
    """

    def __init__(
        self,
        whose: Callable[[], int | None],
        forward: bool,
        guard: AbstractContextManager[None] | None = None,
        testament: Callable[[int, str], None] = lambda token, tail: None,
    ) -> None:
        self._whose = whose
        self._guard = guard or nullcontext()
        self.wake: Callable[[], None] = lambda: None  # called when something waits to be taken
        self._forward = forward
        self._testament = testament
        self._lock = threading.Lock()
        self._tasks: dict[int, Printed] = {}
        self._ready: list[tuple[int, str]] = []  # of tasks that have ended
        self._second, self._spent = 0, 0
        self.some = False  # whether something waits

    def write(self, stream: str, text: str) -> None:
        """A task, or something else, has printed ``text``."""
        if (token := self._whose()) is None or not text:
            return
        with self._guard, self._lock:
            printed = self._tasks.setdefault(token, Printed())
            printed.tail = (printed.tail + text)[-MAX_OUTPUT_CHARACTERS:]
            self._testament(token, printed.tail)
            if self._forward:
                begun = printed.begun.pop(stream, "") + text
                whole, newline, rest = begun.rpartition("\n")
                if len(rest) > _MAX_LINE:
                    whole, newline, rest = begun, "\n", ""
                if rest:
                    printed.begun[stream] = rest
                if newline:
                    self._add(printed, whole + newline)
                    self.some = True
        if self.some:
            self.wake()

    def take(self) -> list[tuple[int, str]]:
        """Remove and return what waits: (token, lines)."""
        if not self.some:
            return []
        with self._lock:
            rows, self._ready = self._ready, []
            for token, printed in self._tasks.items():
                if printed.lines:
                    rows.append((token, "".join(printed.lines)))
                    printed.lines = []
            self.some = False
        return rows

    def tail(self, token: int) -> str:
        """The last lines that a task has printed."""
        printed = self._tasks.get(token)
        return "" if printed is None else last_lines(printed.tail)

    def end(self, token: int) -> None:
        """A task has ended; what it printed and was not taken yet still waits."""
        if not self._tasks:
            return
        with self._guard, self._lock:
            printed = self._tasks.pop(token, None)
            if printed is None:
                return
            for rest in printed.begun.values():
                self._add(printed, rest + "\n")
            if printed.lines:
                self._ready.append((token, "".join(printed.lines)))
                self.some = True

    def forget(self) -> None:
        """This process was forked from a child's: what it prints is nobody's."""
        self._whose = lambda: None
        self._lock = threading.Lock()

    def _add(self, printed: Printed, text: str) -> None:
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._spent = second, 0
        room = min(MAX_TASK_CHARACTERS - printed.sent, MAX_SECOND_CHARACTERS - self._spent)
        fits = len(text) <= room
        text = text if fits else text[: max(0, room)].rpartition("\n")[0]
        printed.sent += len(text)
        self._spent += len(text)
        if not fits and not printed.left_out:
            text = f"{text}\n{LEFT_OUT}" if text else LEFT_OUT
        printed.left_out = not fits
        if text:
            printed.lines.append(text)


def last_lines(text: str) -> str:
    return "\n".join(text.splitlines()[-_TAIL_LINES:])


class TaskStream(io.TextIOWrapper):
    """``sys.stdout`` or ``sys.stderr`` of a child: what it was, and a witness of what is written."""

    def __init__(self, stream: io.TextIOWrapper, name: str, witness: Callable[[str, str], None]) -> None:
        # Whole lines at once, else those of two slots mix.
        super().__init__(stream.buffer, stream.encoding, stream.errors, line_buffering=True, write_through=False)
        self._replaced: TextIO = stream  # which would close the buffer if it went
        self._name, self._witness = name, witness

    def write(self, text: str) -> int:
        count = super().write(text)
        self._witness(self._name, text)
        return count
