"""A TCP proxy in a process of its own, which counts what passes: how many bytes a program really sends."""

import contextlib
import multiprocessing
import socket
import threading
from typing import Any

from multihost.settings import Address

_CHUNK = 1 << 20


class CountingProxy:
    """Listens on loopback and connects everyone to ``target``; ``forth`` and ``back`` are bytes."""

    def __init__(self, target: Address) -> None:
        self._counts: Any = multiprocessing.Array("Q", 2)
        listener = socket.create_server(("127.0.0.1", 0))
        self.address = Address(*listener.getsockname())
        self._process = multiprocessing.Process(target=_serve, args=(listener, target, self._counts), daemon=True)
        self._process.start()
        listener.close()

    @property
    def forth(self) -> int:
        """From those who connected to the target."""
        return int(self._counts[0])

    @property
    def back(self) -> int:
        """From the target to those who connected."""
        return int(self._counts[1])

    def close(self) -> None:
        self._process.terminate()
        self._process.join()


def _serve(listener: socket.socket, target: Address, counts: Any) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(target.pair)
        for source, sink, place in ((near, far, 0), (far, near, 1)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pump, args=(source, sink, counts, place), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, counts: Any, place: int) -> None:
    with contextlib.suppress(OSError):
        while content := source.recv(_CHUNK):
            with counts.get_lock():
                counts[place] += len(content)
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
