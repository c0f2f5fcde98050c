"""The checksum of the journal's rows is CRC-32, whichever library computes it."""

import sys
import zlib
from collections.abc import Iterator

import pytest

from multihost.broker import checksum
from multihost.wire.frames import Buffer

SIZES = [0, 1, 400, checksum._LARGE_BYTES - 1, checksum._LARGE_BYTES, 1_000_003]


@pytest.fixture(params=["zlib-ng", "zlib alone"])
def _library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "zlib alone":
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
    checksum._of_large.cache_clear()
    assert (checksum._of_large() is zlib.crc32) == (request.param == "zlib alone")
    yield
    checksum._of_large.cache_clear()


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("start", [0, 0xFFFFFFFF, 12345])
def test_checksum_is_that_of_zlib(size: int, start: int) -> None:
    content = bytes(number * 7 % 251 for number in range(size))
    assert checksum.crc32(content, start) == zlib.crc32(content, start)
    assert checksum.crc32(memoryview(content), start) == zlib.crc32(content, start)


@pytest.mark.usefixtures("_library")
def test_checksum_goes_on_from_part_to_part() -> None:
    parts: list[Buffer] = [b"head", bytes(100_000), bytearray(b"\1" * 70_000), b"tail"]
    value = 0
    for part in parts:
        value = checksum.crc32(part, value)
    assert value == zlib.crc32(b"".join(parts))
