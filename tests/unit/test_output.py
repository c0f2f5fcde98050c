"""What tasks print is shown at the client once, and its repeats are counted."""

import pytest

from multihost.client import output
from multihost.client.output import Folder, Output, on_standard_error


def test_a_line_is_shown_at_once_with_whose_it_is() -> None:
    assert Folder().add("w1/square[task 12]", "hello\n", 0.0) == ["w1/square[task 12] | hello"]


def test_each_line_of_a_text_is_shown_and_empty_ones_are_not() -> None:
    assert Folder().add("w", "one\n\n  \n two\n", 0.0) == ["w | one", "w |  two"]


def test_repeats_are_shown_as_one_line_when_their_time_is_over() -> None:
    folder = Folder()
    folder.add("w1/f[task 0]", "loading", 0.0)
    for number in range(1, 42):
        assert folder.add(f"w2/f[task {number}]", "loading", 1.0) == []
    assert folder.due(4.9) == []
    assert (folder.next_due, folder.due(5.0)) == (5.0, ["w2/f[task 41] | loading [repeated 41 times]"])
    assert folder.next_due is None
    assert folder.add("w1/f[task 50]", "loading", 5.1) == ["w1/f[task 50] | loading"], "it is news again"


def test_a_single_repeat_is_shown_as_it_was() -> None:
    folder = Folder()
    folder.add("w1", "x", 0.0)
    folder.add("w2", "x", 0.0)
    assert folder.due(9.0) == ["w2 | x"]


def test_repeats_come_before_what_is_printed_after_their_time() -> None:
    folder = Folder()
    folder.add("w", "x", 0.0)
    folder.add("w", "x", 0.0)
    folder.add("w", "x", 0.0)
    assert folder.add("w", "y", 6.0) == ["w | x [repeated 2 times]", "w | y"]


def test_other_lines_between_do_not_keep_repeats_from_being_folded() -> None:
    folder = Folder()
    shown = [line for _ in range(10) for text in ("a", "b") for line in folder.add("w", text, 1.0)]
    assert shown == ["w | a", "w | b"]
    assert folder.rest() == ["w | a [repeated 9 times]", "w | b [repeated 9 times]"]
    assert folder.rest() == []


def test_however_many_different_lines_there_are_few_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "_MAX_TEXTS", 2)
    folder = Folder()
    for text in ("a", "a", "a", "b"):
        folder.add("w", text, 0.0)
    assert folder.add("w", "c", 0.0) == ["w | a [repeated 2 times]", "w | c"]
    assert len(folder._seen) == 2


def test_an_output_shows_lines_and_at_the_end_what_it_held_back() -> None:
    lines: list[str] = []
    shown = Output(lines.extend)
    for number in range(4):
        shown.show("square", number, "w1", "hello\n")
    assert lines == ["w1/square[task 0] | hello"]
    shown.flush()
    assert lines[1:] == ["w1/square[task 3] | hello [repeated 3 times]"]


def test_lines_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    on_standard_error(["one", "two"])
    on_standard_error([])
    assert capsys.readouterr().err == "one\ntwo\n"
