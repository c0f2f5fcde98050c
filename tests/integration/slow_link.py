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
        listener.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts


def _accept(listener: socket.socket, to: Address, bytes_per_second: int) -> None:
    with contextlib.suppress(OSError):  # the link is no longer needed
        while True:
            here, _ = listener.accept()
            threading.Thread(target=_join, args=(here, to, bytes_per_second), daemon=True).start()


def _join(here: socket.socket, to: Address, bytes_per_second: int) -> None:
    """Pass on in both directions, until both have ended."""
    with here, socket.create_connection(to.pair) as there:
        for end in (here, there):
            # Small buffers, so that a sender feels how slow the link is.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)
        back = threading.Thread(target=_pass_on, args=(there, here, bytes_per_second), daemon=True)
        back.start()
        _pass_on(here, there, bytes_per_second)
        back.join()


def _pass_on(source: socket.socket, sink: socket.socket, bytes_per_second: int) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(_PIECE_BYTES):
            sink.sendall(piece)
            time.sleep(len(piece) / bytes_per_second)  # the speed of the link, not a wait for a condition
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
