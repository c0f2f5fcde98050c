"""wire/peer.py: how much of what is written it has the transport hold. The transport is a fake."""

import asyncio
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from multihost.wire import messages
from multihost.wire import peer as peer_module
from multihost.wire.frames import FrameReader, frame
from multihost.wire.peer import Peer
from multihost.wire.server import Server

_HIGH_WATER = 64 * 1024


class FakeTransport:
    """As asyncio's: holds what the kernel does not take, and tells when that is much, and when it is little again.

    While it tells that, asyncio's own must neither be written to nor closed: it may end the connection twice then.
    """

    def __init__(self) -> None:
        self.held, self.sent, self.closing = bytearray(), bytearray(), False
        self.room = 0  # how much the kernel takes
        self.most = 0
        self.telling = False
        self.peer: Peer

    def write(self, data: memoryview) -> None:
        assert not self.closing
        assert not self.telling
        if not self.held:
            self.sent += data[: self.room]
            data, self.room = data[self.room :], max(0, self.room - len(data))
        self.held += data
        self.most = max(self.most, len(self.held))
        if len(self.held) > _HIGH_WATER:
            self.peer.pause_writing()

    def take(self, size: int) -> None:
        """The kernel takes so much more."""
        self.room = size
        taken = self.held[:size]
        self.sent += taken
        del self.held[:size]
        self.room -= len(taken)
        if len(self.held) < _HIGH_WATER // 4 and not self.peer.writable:
            self.telling = True
            self.peer.resume_writing()
            self.telling = False

    def close(self) -> None:
        assert not self.telling
        self.closing = True

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        pass


@pytest.fixture
def written() -> list[int]:
    return []


@pytest.fixture
def transport(written: list[int]) -> FakeTransport:
    handler = SimpleNamespace(writable=written.append)
    peer = Peer(cast(Server, SimpleNamespace(authkeys=[b"key"], handler=handler, spares=None)), 7)
    transport = FakeTransport()
    cast(Any, peer)._transport = transport
    transport.peer = peer
    return transport


def contents(sent: bytearray) -> list[bytes]:
    reader, found, position = FrameReader(1 << 30), list[bytes](), 0
    while position < len(sent):
        space = reader.space()
        piece = sent[position : position + len(space)]
        space[: len(piece)] = piece
        found += [bytes(view) for view in reader.received(len(piece))]
        position += len(piece)
    return found


def drain(transport: FakeTransport, until: Callable[[], bool]) -> None:
    async def turns() -> None:
        while not until():
            transport.take(300_000)
            await asyncio.sleep(0)

    asyncio.run(turns())


def test_large_frame_to_a_slow_reader_arrives_whole_before_the_next_and_is_not_copied_as_a_whole(
    transport: FakeTransport, written: list[int]
) -> None:
    large, small = os.urandom(3_000_000), b"small"
    transport.room = 100_000
    transport.peer.write_frame([large])
    transport.peer.write_frame([small])
    assert not transport.peer.writable
    drain(transport, lambda: bool(written))
    drain(transport, lambda: not transport.held)
    assert contents(transport.sent) == [large, small]
    assert transport.most < 1_000_000
    assert written == [7], "it is told once, when all has left"
    assert transport.peer.writable


def test_large_frame_leaves_at_once_where_the_kernel_takes_it(transport: FakeTransport, written: list[int]) -> None:
    large = os.urandom(3_000_000)
    transport.room = 4_000_000
    transport.peer.write_frame([large])
    assert contents(transport.sent) == [large]
    assert transport.peer.writable
    assert not written


def test_others_have_their_turn_while_much_leaves_for_a_fast_reader(
    transport: FakeTransport, written: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_module, "_TURN_BYTES", 1_000_000)
    large = os.urandom(3_000_000)

    async def turns() -> int:
        transport.room = 4_000_000
        transport.peer.write_frame([large])
        transport.peer.write_frame([b"next"])
        count = 0
        while not written:
            assert not transport.peer.writable
            assert len(transport.sent) < (count + 1) * 1_300_000
            await asyncio.sleep(0)
            count += 1
        return count

    assert asyncio.run(turns()) > 1
    assert contents(transport.sent) == [large, b"next"]
    assert written == [7]


def test_connection_that_is_closed_while_a_large_frame_leaves_closes_behind_it(transport: FakeTransport) -> None:
    large = os.urandom(3_000_000)
    transport.peer.write_frame([large])
    transport.peer.close()
    transport.peer.close()
    transport.peer.write_frame([b"too late"])
    assert not transport.closing
    drain(transport, lambda: transport.closing)
    drain(transport, lambda: not transport.held)
    assert contents(transport.sent) == [large]
    assert frame([large])[0] == transport.sent[:4]


def test_several_large_payloads_in_a_batch_leave_in_as_many_frames(transport: FakeTransport) -> None:
    large = [("outcomes", [(number, "result", os.urandom(3_000_000), "")]) for number in range(3)]
    transport.room = 10_000_000
    transport.peer.send([("room",), *large, ("workers", 1, 2)])
    first, second, third = map(messages.decode, contents(transport.sent))
    assert (first, second, third) == ([("room",), large[0]], [large[1]], [large[2], ("workers", 1, 2)])
