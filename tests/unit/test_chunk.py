"""multihost/client/chunk.py: each item of a chunk has one outcome, however its parts come."""

from multihost.client.chunk import Chunk
from multihost.payload import Outcomes, dump_error, dump_part


def part(start: int, *values: object, errors: dict[int, BaseException] | None = None) -> bytes:
    return dump_part(start, 1.0, list(values), {place: dump_error(error) for place, error in (errors or {}).items()})


class Told:
    """What the items of a chunk were told, by their place."""

    def __init__(self, count: int) -> None:
        self.pairs: dict[int, tuple[bool, object]] = {}
        self.chunk = Chunk(count, self.take)

    def take(self, start: int, outcomes: Outcomes, seconds: float, size_bytes: int) -> None:
        for place, pair in enumerate(outcomes.pairs(), start):
            assert place not in self.pairs, "an item is told twice"
            self.pairs[place] = pair


def test_a_part_that_comes_again_is_passed_over() -> None:
    told = Told(2)
    for content in (part(0, "a"), part(0, "a"), part(1, "b")):
        told.chunk.take(content, "")
    assert told.pairs == {0: (True, "a"), 1: (True, "b")}


def test_of_a_part_that_repeats_some_items_the_others_are_told() -> None:
    # The master was started anew and has had the chunk run again; this time more items ended together.
    told = Told(4)
    told.chunk.take(part(0, "a"), "")
    told.chunk.take(part(0, "again", "b", None, errors={2: ValueError("c")}), "")
    told.chunk.take(part(3, "d"), "")
    assert [told.pairs[place][0] for place in range(4)] == [True, True, False, True]
    assert [told.pairs[place][1] for place in (0, 1, 3)] == ["a", "b", "d"]
    assert str(told.pairs[2][1]) == "c"


def test_a_chunk_that_fails_fails_the_items_without_an_outcome() -> None:
    told = Told(3)
    told.chunk.take(part(0, "a"), "")
    error = RuntimeError()
    told.chunk.fail(error)
    assert told.pairs == {0: (True, "a"), 1: (False, error), 2: (False, error)}
