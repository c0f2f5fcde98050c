"""multihost/wire/frames.py: any bytes cut anywhere come out as the frames that went in."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from multihost.errors import ProtocolError
from multihost.wire.frames import Buffer, FrameReader, Spares, frame, header

KIB = 1024
LIMIT = 1024 * KIB
# Lengths where something changes: the header's own, the shared buffer's, and beyond it.
SIZES = st.one_of(
    st.integers(0, 300),
    st.integers(64 * KIB - 20, 64 * KIB + 20),
    st.integers(64 * KIB, 300 * KIB),
)
CUTS = st.lists(st.one_of(st.integers(0, 30), st.integers(0, 1 << 21)), max_size=10)


def content(number: int, size: int) -> bytes:
    """Bytes that show when one of them is missing or out of place."""
    return (bytes([number & 0xFF, 1, 2, 3, 5, 7, 11]) * (size // 7 + 1))[:size]


def wire(parts: list[Buffer]) -> bytes:
    return b"".join(parts)


def feed(reader: FrameReader, stream: bytes, cuts: Iterable[int] = ()) -> list[bytes]:
    """What ``reader`` makes of ``stream``, given in pieces that end at the positions ``cuts``."""
    frames: list[bytes] = []
    begin = 0
    for end in sorted({cut % (len(stream) + 1) for cut in cuts} | {len(stream)}):
        while begin < end:
            space = reader.space()
            assert len(space) > 0
            size = min(len(space), end - begin)
            space[:size] = stream[begin : begin + size]
            frames += [bytes(view) for view in reader.received(size)]
            begin += size
    return frames


# --- reading ---------------------------------------------------------------------------------------------------------


@given(st.lists(SIZES, max_size=6), CUTS)
@example([64 * KIB + 8, 64 * KIB + 9, 64 * KIB + 12, 0], list(range(0, 1 << 18, 1021)))
@example([0, 0, 0], list(range(12)))
def test_frames_cut_anywhere_come_out_as_they_went_in(sizes: list[int], cuts: list[int]) -> None:
    contents = [content(number, size) for number, size in enumerate(sizes)]
    reader = FrameReader(LIMIT)
    assert feed(reader, b"".join(wire(frame([each])) for each in contents), cuts) == contents
    assert not reader.pending


@given(st.lists(SIZES, max_size=4), CUTS)
def test_long_form_of_the_length_is_read_for_frames_of_any_size(sizes: list[int], cuts: list[int]) -> None:
    contents = [content(number, size) for number, size in enumerate(sizes)]
    stream = b"".join(struct.pack("!iQ", -1, len(each)) + each for each in contents)
    assert feed(FrameReader(LIMIT), stream, cuts) == contents


def test_every_single_cut_of_a_short_stream_is_harmless() -> None:
    contents = [b"", b"a", b"bc" * 9]
    stream = b"".join(wire(frame([each])) for each in contents)
    for at in range(1, len(stream)):
        reader = FrameReader(LIMIT)
        assert feed(reader, stream[:at]) + feed(reader, stream[at:]) == contents


def test_small_frames_that_came_together_are_views_of_one_buffer() -> None:
    reader = FrameReader(LIMIT)
    stream = wire(frame([b"one"])) + wire(frame([b"two"]))
    reader.space()[: len(stream)] = stream
    views = list(reader.received(len(stream)))
    assert [bytes(view) for view in views] == [b"one", b"two"]  # both are valid until the next space()


def test_large_frame_is_received_into_a_buffer_of_its_own_without_a_copy() -> None:
    reader = FrameReader(LIMIT)
    whole = content(1, 500 * KIB)
    feed(reader, header(len(whole)) + whole[:10])
    space = reader.space()
    assert len(space) == len(whole) - 10
    space[:] = whole[10:]
    (view,) = reader.received(len(space))
    assert view == whole
    assert view.obj is space.obj


def test_buffer_of_a_large_frame_grows_with_what_has_come_of_it() -> None:
    reader = FrameReader(256 * LIMIT)
    whole = content(1, 9 * LIMIT + 5)
    feed(reader, header(200 * LIMIT) + whole[:10])
    assert len(reader.space()) < LIMIT
    feed(reader, whole[10:])
    assert len(reader.space()) < 16 * len(whole)


def test_frame_larger_than_its_first_buffer_comes_out_as_it_went_in() -> None:
    whole = content(1, 5 * LIMIT + 3)
    stream = wire(frame([whole])) + wire(frame([b"next"]))
    assert feed(FrameReader(8 * LIMIT), stream, [7, LIMIT + 3, 2 * LIMIT + 4]) == [whole, b"next"]


def _large(reader: FrameReader, number: int, size: int) -> object:
    """The buffer in which a frame of that size was received."""
    whole = content(number, size)
    stream = wire(frame([whole]))
    (seen,) = [(bytes(view), view.obj) for piece in (stream[:1000], stream[1000:]) for view in _views(reader, piece)]
    assert seen[0] == whole
    return seen[1]


def test_buffer_of_a_large_frame_is_used_again_by_any_reader_that_shares_it() -> None:
    spares = Spares(1000 * KIB)
    one, other = FrameReader(LIMIT, spares), FrameReader(LIMIT, spares)
    first = _large(one, 1, 500 * KIB)
    assert _large(other, 2, 300 * KIB) is first
    assert _large(one, 3, 520 * KIB) is first, "the next one may be a little larger"
    second = _large(one, 4, 800 * KIB)
    assert second is not first
    assert _large(one, 5, 500 * KIB) is second, "together they are more than is kept, so the larger one was"
    assert _large(other, 6, 1000 * KIB) is not second
    assert _large(other, 7, 700 * KIB) is second, "what is too large by itself is not kept, and drives nothing out"


def test_buffer_is_nobody_elses_while_a_frame_is_received_into_it_or_looked_at() -> None:
    spares = Spares()
    one, other = FrameReader(LIMIT, spares), FrameReader(LIMIT, spares)
    first = _large(one, 1, 500 * KIB)
    whole = content(2, 500 * KIB)
    stream = wire(frame([whole]))
    _views(one, stream[:1000])
    assert _large(other, 3, 400 * KIB) is not first
    one.space()[:] = stream[1000:]
    views = one.received(len(stream) - 1000)
    view = next(views)
    assert view.obj is first
    assert _large(other, 4, 450 * KIB) is not first
    assert view == whole
    assert not list(views)


def test_large_frame_stays_intact_while_the_next_ones_are_read() -> None:
    reader = FrameReader(LIMIT)
    whole = content(1, 500 * KIB)
    (view,) = [view for piece in (header(len(whole)) + whole[:10], whole[10:]) for view in _views(reader, piece)]
    feed(reader, wire(frame([b"x" * 60 * KIB])))
    assert view == whole


def _views(reader: FrameReader, piece: bytes) -> list[memoryview]:
    reader.space()[: len(piece)] = piece
    return list(reader.received(len(piece)))


@pytest.mark.parametrize("size", [100, 64 * KIB, 500 * KIB])
def test_pending_tells_whether_part_of_a_frame_has_come(size: int) -> None:
    reader = FrameReader(LIMIT)
    stream = wire(frame([content(1, size)]))
    assert not reader.pending
    for piece in (stream[:2], stream[2:4], stream[4:50]):
        feed(reader, piece)
        assert reader.pending
    feed(reader, stream[50:])
    assert not reader.pending


# --- the limit -------------------------------------------------------------------------------------------------------


def test_frame_of_exactly_the_limit_is_taken() -> None:
    assert feed(FrameReader(100), wire(frame([b"x" * 100]))) == [b"x" * 100]


@pytest.mark.parametrize(
    "prefix",
    [
        struct.pack("!i", 101),
        struct.pack("!i", 0x7FFFFFFF),
        struct.pack("!i", -2),
        struct.pack("!i", -0x80000000),
        struct.pack("!iQ", -1, 101),
        struct.pack("!iQ", -1, 0xFFFFFFFFFFFFFFFF),
    ],
)
def test_frame_above_the_limit_is_refused_by_its_header_before_any_of_it_is_stored(prefix: bytes) -> None:
    reader = FrameReader(100)
    with pytest.raises(ProtocolError, match="at most 100 are accepted here"):
        feed(reader, prefix)
    assert len(reader.space()) < 65 * KIB


def test_frames_before_one_that_is_refused_are_handed_out() -> None:
    reader = FrameReader(100)
    stream = wire(frame([b"good"])) + struct.pack("!i", 101)
    reader.space()[: len(stream)] = stream
    frames = reader.received(len(stream))
    assert bytes(next(frames)) == b"good"
    with pytest.raises(ProtocolError):
        next(frames)


def test_limit_may_rise_between_two_frames_that_come_together() -> None:
    reader = FrameReader(10)
    stream = wire(frame([b"last word"])) + wire(frame([b"x" * 1000]))
    reader.space()[: len(stream)] = stream
    frames = reader.received(len(stream))
    assert bytes(next(frames)) == b"last word"
    reader.limit = 1000
    assert bytes(next(frames)) == b"x" * 1000


def test_prefix_alone_of_the_long_form_waits_for_its_eight_bytes() -> None:
    reader = FrameReader(100)
    stream = struct.pack("!iQ", -1, 3) + b"abc"
    assert feed(reader, stream[:11]) == []
    assert feed(reader, stream[11:]) == [b"abc"]


# --- writing ---------------------------------------------------------------------------------------------------------


def stdlib_prefix(size: int) -> bytes:
    """The prefix as ``Connection._send_bytes`` of the standard library builds it."""
    if size > 0x7FFFFFFF:
        return struct.pack("!i", -1) + struct.pack("!Q", size)
    return struct.pack("!i", size)


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 0x7FFFFFFF, 0x80000000, 1 << 40])
def test_prefix_is_that_of_the_standard_library(size: int) -> None:
    assert header(size) == stdlib_prefix(size)


@given(st.lists(SIZES, max_size=4))
def test_written_frame_is_the_prefix_and_the_parts_one_after_another(sizes: list[int]) -> None:
    parts: list[Buffer] = [content(number, size) for number, size in enumerate(sizes)]
    whole = wire(parts)
    assert wire(frame(parts)) == stdlib_prefix(len(whole)) + whole


def test_large_parts_are_not_copied_and_small_frames_are_one_write() -> None:
    large = bytes(200 * KIB)
    parts = frame([b"small", large])
    assert any(part is large for part in parts)
    assert len(frame([b"a", b"b", b"c"])) == 1
