"""The child's end of the pipe to its worker: whole messages, large ones without more copies than there must be."""

import os
import pickle
import select
import socket
import struct
from collections.abc import Sequence
from typing import Any

from multihost.wire import messages
from multihost.wire.frames import MOST_PARTS, Buffer, frame, rest

# How much of a message lies in the kernel while the other side is busy: with less, a large one wakes both more often.
BUFFER_BYTES = 4096 * 1024
_LONG = -1  # in the place of a length: it follows, in eight bytes


def widen(sock: socket.socket) -> None:
    """Have the kernel hold ``BUFFER_BYTES`` of what is sent, as far as it lets us."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


class Pipe:
    """One thread may send while another one receives. Raises: EOFError, OSError: the worker has closed it, or is gone.

    Its frames are those of ``wire.frames``. Nothing is read ahead, so ``poll`` tells whether a message has come.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock  # closed with us

    def send(self, message: tuple[object, ...]) -> None:
        self._write(frame(messages.encode(message)))

    def send_small(self, message: tuple[object, ...]) -> None:
        """As ``send``, for plain data of few bytes, which are copied: it takes half the time."""
        self._write(frame([pickle.dumps(message, protocol=5)]))

    def receive(self) -> Any:
        """The next message, unpickled: the worker may be trusted."""
        (size,) = struct.unpack("!i", self.read(4))
        if size == _LONG:
            (size,) = struct.unpack("!Q", self.read(8))
        return pickle.loads(self.read(size))

    def read(self, size: int) -> bytes:
        """So many bytes that are no message, into memory that nothing clears or copies before."""
        content = self._socket.recv(size, socket.MSG_WAITALL)
        while len(content) < size:  # a signal came, or it was more than the kernel gives at once
            if not (more := self._socket.recv(size - len(content), socket.MSG_WAITALL)):
                raise EOFError
            content += more
        return content

    def poll(self) -> bool:
        """Whether something has come."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return bool(poller.poll(0))

    def _write(self, parts: Sequence[Buffer]) -> None:
        while parts:
            parts = rest(parts, os.writev(self._socket.fileno(), parts[:MOST_PARTS]))
