"""Pickles that would take memory by a number in them, told before anything is unpickled.

CPython's unpickler makes room for as many bytes as BINBYTES, BINBYTES8 and BYTEARRAY8 announce, before it looks whether
they are there, and a memo as long as PUT and LONG_BINPUT say, which it also fills: nine bytes take many gigabytes.
"""

import re

from multihost.errors import ProtocolError
from multihost.wire.frames import Buffer

# The length of a short string, and its bytes. Not all 256 lengths: the more, the longer it takes to find the right one.
_SHORT = b"|".join(re.escape(bytes([size])) + b".{%d}" % size for size in range(65))
# Opcodes that make nothing of a size that they name, with their arguments; most of a pickle.
_HARMLESS = re.compile(
    rb"(?:[(012NRabd}el\]ost)uQ\x81\x85-\x89\x8f-\x94\x97\x98]|[Khq\x80\x82].|[M\x83]..|[Jj\x84].{4}|G.{8}"
    rb"|[C\x8c](?:" + _SHORT + rb"))++",
    re.DOTALL,
)
# A pickle without one of these bytes has none of the opcodes that this is about.
_HARMFUL = re.compile(rb"[Brp\x8e\x96]")
_LINE = re.compile(rb"[^\n]*\n")
_LINES = frozenset(b"ILFSVgp")  # their argument is a line
# How many bytes hold the length of what follows.
_LENGTHS = {**dict.fromkeys(b"UC\x8c\x8a", 1), **dict.fromkeys(b"TBX\x8b", 4), **dict.fromkeys(b"\x8e\x8d\x96", 8)}
_FRAME, _LONG_PUT, _PUT = 0x95, ord("r"), ord("p")


def check_sizes(content: Buffer) -> None:
    """Read over the opcodes of a pickle, but not over the contents of its strings.

    A frame must end where an opcode ends: of one that does not, the unpickler drops the rest, and would see others
    than we do.
    Raises: ProtocolError: it names a size that it does not have.
    """
    if _HARMFUL.search(content) is None:
        return
    position, size = 0, len(content)
    end = size  # of the frame; outside of frames, of everything
    while position < size:
        if (run := _HARMLESS.match(content, position, end)) is not None:
            position = run.end()
        if position == end:
            end = size
            continue
        code = content[position]
        position += 1
        if code in b"C\x8c" and position < size:  # a short string: most of what is no run
            position += 1 + content[position]
        elif (width := _LENGTHS.get(code)) is not None:
            position += width + _number(content, position, width)
        elif code == _FRAME:
            length = _number(content, position, 8)
            position += 8
            if end != size or length > size - position:
                raise _refusal()
            end = position + length
        elif code == _LONG_PUT:
            if _number(content, position, 4) > size:
                raise _refusal()
            position += 4
        elif code in _LINES:
            if (line := _LINE.match(content, position, end)) is None:
                raise _refusal()
            if code == _PUT and _index(line[0]) > size:
                raise _refusal()
            position = line.end()
        elif _HARMLESS.match(content, position - 1) is not None:
            raise _refusal()  # its argument lies beyond the end of the frame
        else:
            return  # the end; or what the unpickler refuses when it comes there
        if position > end:
            raise _refusal()


def _number(content: Buffer, position: int, width: int) -> int:
    return int.from_bytes(content[position : position + width], "little")


def _index(line: bytes) -> int:
    try:
        return int(line)
    except ValueError:
        raise _refusal() from None


def _refusal() -> ProtocolError:
    return ProtocolError("a frame names a size or a place that it does not have")
