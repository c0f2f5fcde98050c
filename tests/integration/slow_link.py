"""A TCP proxy that passes bytes on no faster than it is told: a slow network between a peer and the master."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from multihost.settings import Address

_PIECE_BYTES = 16 * 1024


@contextlib.contextmanager
def slow_link(to: Address, bytes_per_second: int) -> Iterator[Address]:
    """Yields an address behind which ``to`` is found, at so many bytes a second in each direction."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, to, bytes_per_second), daemon=True).start()
        host, port = listener.getsockname()
        yield Address(host, port)


def _accept(listener: socket.socket, to: Address, bytes_per_second: int) -> None:
    with contextlib.suppress(OSError):  # the listener was closed: the link is no longer needed
        while True:
            here, _ = listener.accept()
            there = socket.create_connection(to.pair)
            for source, sink in ((here, there), (there, here)):
                # Small buffers, so that a sender feels how slow the link is.
                source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)
                threading.Thread(target=_pass_on, args=(source, sink, bytes_per_second), daemon=True).start()


def _pass_on(source: socket.socket, sink: socket.socket, bytes_per_second: int) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
            time.sleep(len(piece) / bytes_per_second)  # the speed of the link, not a wait for a condition
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
