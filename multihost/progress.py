"""How far a map has come, shown on standard error: a tqdm bar, or plain lines where nobody sees a bar.

tqdm chooses between the terminal's bar and the notebook's. Where standard error is a file or a pipe, a bar would be one
endless line, so there it is a line every few seconds.
"""

import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

_LINE_SECONDS = 5.0


@dataclass(slots=True)
class Tally:
    """The figures, and when the next line is due. Knows no clock.

    Args:
        total: how many items there are; below zero: that is not known.
        begun: when the first was submitted.
    """

    name: str
    total: int
    begun: float
    done: int = 0
    failed: int = 0
    _shown: float | None = None

    def advance(self, done: int, failed: int, now: float) -> str | None:
        """So many more items have ended, so many of them failed; the line to be shown, if one is due."""
        self.done += done
        self.failed += failed
        if now - (self.begun if self._shown is None else self._shown) < _LINE_SECONDS:
            return None
        self._shown = now
        return self.line(now)

    def line(self, now: float) -> str:
        """``square: 40 of 100 done, 3 failed, 8.0/s, 7 s left``."""
        passed = max(now - self.begun, 1e-9)
        rate = self.done / passed
        parts = [f"{self.done:,} of {self.total:,} done" if self.total >= 0 else f"{self.done:,} done"]
        if self.failed:
            parts.append(f"{self.failed:,} failed")
        parts.append(f"{rate:,.0f}/s" if rate >= 100 else f"{rate:.2g}/s")
        if self.total > self.done and rate:
            parts.append(f"{_duration((self.total - self.done) / rate)} left")
        else:
            parts.append(f"after {_duration(passed)}")
        return f"{self.name}: {', '.join(parts)}"


class Progress:
    """The progress of one map on standard error; any thread may report it.

    Raises: ImportError: tqdm is not installed.
    """

    def __init__(self, name: str, total: int) -> None:
        try:
            from tqdm.auto import tqdm  # only here: most programs never show a bar
        except ImportError as error:
            raise ImportError("progress=True needs tqdm: pip install multihost[progress]") from error
        self._lock = threading.Lock()
        self._tally = Tally(name, total, time.monotonic())
        self._bar: Any = None
        if _is_seen():
            self._bar = tqdm(desc=name, total=total if total >= 0 else None, unit="task", file=sys.stderr)

    def advance(self, done: int, failed: int) -> None:
        """So many more items have ended, so many of them failed."""
        with self._lock:
            line = self._tally.advance(done, failed, time.monotonic())
            if self._bar is None:
                if line is not None:
                    _show(line)
                return
            if failed:
                self._bar.set_postfix(failed=self._tally.failed, refresh=False)
            self._bar.update(done)

    def close(self) -> None:
        """Nothing more is to come; may be called twice."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            elif self._tally.total != 0 or self._tally.done:
                _show(self._tally.line(time.monotonic()))
                self._tally.total = self._tally.done = 0


def _is_seen() -> bool:
    """Whether someone looks at standard error as it is written: a terminal, or a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    in_notebook = shell is not None and hasattr(shell, "kernel")
    return in_notebook or (sys.stderr is not None and sys.stderr.isatty())


def _show(line: str) -> None:
    if sys.stderr is not None:
        print(line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"
