"""Length-prefixed frames, as ``multiprocessing.connection`` writes them: cutting a byte stream, and building it.

A frame is four bytes of length (signed, big-endian) and the content; a content above 2 GiB has -1 there and
eight bytes of length behind it. Pure: bytes in, bytes out.
"""

import struct
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from multihost.errors import ProtocolError

_SMALL = 64 * 1024  # frames up to this size share one buffer; a larger one gets a buffer of its own
_FIRST_LARGE = 1024 * 1024  # what a larger one gets at first, whatever size it claims
_GROWTH = 16  # so many times as much as has come is what it gets next: each time, that is to be copied
_LARGEST_SHORT = 0x7FFFFFFF
MOST_PARTS = 1024  # of one writev: IOV_MAX
Buffer = bytes | bytearray | memoryview


def header(size_bytes: int) -> bytes:
    """The prefix of a frame whose content has ``size_bytes``."""
    if size_bytes <= _LARGEST_SHORT:
        return struct.pack("!i", size_bytes)
    return struct.pack("!iQ", -1, size_bytes)


def frame(parts: list[Buffer]) -> list[Buffer]:
    """The frame whose content is ``parts`` one after another, without joining what is large."""
    size = sum(map(len, parts))
    if size <= _SMALL:
        return [b"".join([header(size), *parts])]
    return [header(size), *parts]


def rest(parts: Sequence[Buffer], written: int) -> Sequence[Buffer]:
    """``parts`` without the first ``written`` bytes."""
    for number, part in enumerate(parts):
        if written < len(part):
            return [memoryview(part)[written:], *parts[number + 1 :]]
        written -= len(part)
    return []


class Spares:
    """Buffers that large frames have left, up to ``most_bytes`` in all, for the next ones of all that share them.

    A new one has pages that the kernel must find and clear first, which takes longer than to fill them.
    """

    def __init__(self, most_bytes: int = 32 * 1024 * 1024) -> None:
        self._most_bytes, self._bytes = most_bytes, 0
        self._buffers: list[bytearray] = []  # the smallest first

    def take(self, size: int) -> bytearray | None:
        """The smallest one of at least ``size`` bytes; None if there is none."""
        place = bisect_left(self._buffers, size, key=len)
        if place == len(self._buffers):
            return None
        buffer = self._buffers.pop(place)
        self._bytes -= len(buffer)
        return buffer

    def new(self, size: int) -> bytearray:
        """A buffer for ``size`` bytes. The next frame, for which it may be used again, is hardly ever just as large."""
        return bytearray(size + size // 8 if self._most_bytes else size)

    def give(self, buffer: bytearray) -> None:
        """Nobody uses ``buffer`` any more. Where that is too much, the largest ones stay."""
        if len(buffer) > self._most_bytes:
            return
        insort(self._buffers, buffer, key=len)
        self._bytes += len(buffer)
        while self._bytes > self._most_bytes:
            self._bytes -= len(self._buffers.pop(0))


class FrameReader:
    """Cuts what a socket delivers into frames. A large one has a buffer of its own, which grows as its bytes come.

    Usage: read from the socket into ``space()``, then iterate over ``received(n)``. Each frame is a view that is
    valid until the next one is asked for, or ``space()``; that of a large one for good, if there are no ``spares``.

    Raises: ProtocolError from ``received`` when a frame claims more than ``limit`` bytes, before any of it is stored.
    """

    def __init__(self, limit: int, spares: Spares | None = None) -> None:
        self.limit = limit
        self._spares = spares or Spares(0)
        self._shared = bytearray(_SMALL + 12)
        self._buffer = self._shared  # what is being filled: the shared buffer, or the one of a large frame
        self._start = self._end = 0  # the bytes received and not yet handed out
        self._large = 0  # the size of the large frame that is being received

    @property
    def pending(self) -> bool:
        """Whether part of a frame has come."""
        return self._large > 0 or self._end > self._start

    def space(self) -> memoryview:
        """Where to put the next bytes from the socket; never empty."""
        if self._large and self._end == len(self._buffer):
            self._grow()
        elif not self._large and self._start:
            rest = self._end - self._start
            self._buffer[:rest] = self._buffer[self._start : self._end]
            self._start, self._end = 0, rest
        return memoryview(self._buffer)[self._end : self._large or None]

    def received(self, size: int) -> Iterator[memoryview]:
        """The frames that ``size`` more bytes complete."""
        self._end += size
        if self._large:
            if self._end == self._large:
                buffer, size = self._buffer, self._large
                self._buffer, self._large, self._start, self._end = self._shared, 0, 0, 0
                yield memoryview(buffer)[:size]
                self._spares.give(buffer)
            return
        view = memoryview(self._buffer)
        while (found := self._header()) is not None:
            prefix, length = found
            begin = self._start + prefix
            if begin + length <= self._end:
                self._start = begin + length
                yield view[begin : begin + length]
            elif prefix + length > len(self._buffer):
                self._go_large(view[begin : self._end], length)
                return
            else:
                return
        return

    def _header(self) -> tuple[int, int] | None:
        """The size of the next frame's prefix and of its content, once the prefix is there."""
        have = self._end - self._start
        if have < 4:
            return None
        (length,) = struct.unpack_from("!i", self._buffer, self._start)
        prefix = 4
        if length == -1:
            if have < 12:
                return None
            (length,) = struct.unpack_from("!Q", self._buffer, self._start + 4)
            prefix = 12
        if not 0 <= length <= self.limit:
            raise ProtocolError(f"a frame claims {length:,} bytes; at most {self.limit:,} are accepted here")
        return prefix, length

    def _go_large(self, begun: memoryview, length: int) -> None:
        self._buffer = self._spares.take(length) or self._spares.new(min(length, _FIRST_LARGE))
        self._buffer[: len(begun)] = begun
        self._large, self._start, self._end = length, 0, len(begun)

    def _grow(self) -> None:
        """More room for a large frame: a peer that claims much and sends little has taken little."""
        larger = self._spares.new(min(self._large, _GROWTH * len(self._buffer)))
        larger[: self._end] = self._buffer
        self._buffer = larger
