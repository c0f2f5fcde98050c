"""multihost/runner/unrecorded.py: what is said again to a master that may not have recorded it."""

from multihost.runner.unrecorded import Unrecorded

FIRST = [(1, "result", b"first")]
SECOND = [(2, "error", b"second")]
PARTS = [(3, 2, b"items 0 and 1"), (3, 1, b"item 2")]


def test_what_is_recorded_is_not_said_again() -> None:
    said = Unrecorded()
    said.add("settle", FIRST, [])
    said.add("settle", SECOND, [])
    said.recorded(1)
    assert said.tokens() == {2}
    assert said.again({}) == [("settle", SECOND)]


def test_each_connection_counts_anew_and_begins_with_what_is_said_again() -> None:
    said = Unrecorded()
    said.add("settle", FIRST, [])
    said.recorded(1)
    said.add("settle", SECOND, [])
    assert said.again({}) == [("settle", SECOND)]
    said.recorded(1)
    assert said.again({}) == []


def test_items_that_are_recorded_are_not_said_again() -> None:
    said = Unrecorded()
    said.add("parts", PARTS, [0, 2])
    assert said.again({3: 2}) == [("parts", [PARTS[1]])]
    assert said.again({3: 3}) == []


def test_nothing_is_said_again_after_it_was_cleared() -> None:
    said = Unrecorded()
    said.add("settle", FIRST, [])
    said.clear()
    assert (said.tokens(), said.again({})) == (set(), [])
