"""How far a map has come: a bar for a terminal, lines for a file, and an error that says what to install."""

import io
import sys

import pytest

from multihost import progress
from multihost.progress import Progress, Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "failed", "total", "seconds", "line"),
    [
        (40, 3, 100, 5.0, "square: 40 of 100 done, 3 failed, 8/s, 7.5 s left"),
        (40_000, 0, 100_000, 10.0, "square: 40,000 of 100,000 done, 4,000/s, 15 s left"),
        (1, 0, 1000, 10.0, "square: 1 of 1,000 done, 0.1/s, 2 h 46 min left"),
        (10, 0, 100, 10.0, "square: 10 of 100 done, 1/s, 1 min 30 s left"),
        (100, 1, 100, 50.0, "square: 100 of 100 done, 1 failed, 2/s, after 50 s"),
        (40, 0, -1, 4.0, "square: 40 done, 10/s, after 4 s"),
        (0, 0, 10, 3.0, "square: 0 of 10 done, 0/s, after 3 s"),
    ],
)
def test_a_line_tells_done_failed_rate_and_what_is_left(
    done: int, failed: int, total: int, seconds: float, line: str
) -> None:
    assert Tally("square", total, 100.0, done, failed).line(100.0 + seconds) == line


def test_lines_are_shown_every_few_seconds() -> None:
    tally = Tally("f", 100, 0.0)
    assert tally.advance(1, 0, 4.9) is None
    assert tally.advance(1, 0, 5.0) == "f: 2 of 100 done, 0.4/s, 4 min 5 s left"
    assert tally.advance(1, 0, 9.9) is None
    assert tally.advance(1, 0, 10.0) is not None


def test_where_nobody_sees_a_bar_there_is_a_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("square", 2)
    shown.advance(1, 0)
    shown.advance(1, 1)
    shown.close()
    shown.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("square: 2 of 2 done, 1 failed, ")


def test_a_terminal_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Progress("square", 4)
    shown.advance(2, 1)
    shown.advance(2, 0)
    shown.close()
    last = terminal.getvalue().split("\r")[-1]
    assert "square: 100%" in last
    assert "4/4" in last
    assert "failed=1" in last


def test_a_bar_without_a_total_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = Progress("square", -1)
    shown.advance(7, 0)
    shown.close()
    assert "square: 7task" in terminal.getvalue().split("\r")[-1]


def test_a_notebook_has_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    class Shell:
        kernel = object()

    class Module:
        get_ipython = Shell

    monkeypatch.setitem(sys.modules, "IPython", Module())
    assert progress._is_seen()


def test_without_tqdm_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install multihost\[progress\]"):
        Progress("square", 4)


def test_a_program_without_standard_error_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    shown = Progress("square", 4)
    shown.advance(4, 0)
    shown.close()
