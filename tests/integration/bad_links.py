"""Networks that go wrong between a peer and the master: proxies that reset, delay or are slow, and a namespace."""

import contextlib
import secrets
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from multihost.settings import Address

_PIECE_BYTES = 16 * 1024

Join = Callable[[socket.socket, socket.socket], None]


@contextlib.contextmanager
def _proxy(to: Address, join: Join) -> Iterator[Address]:
    """Yields an address behind which ``to`` is found; ``join`` passes on, in a thread for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, to, join), daemon=True).start()
        host, port = listener.getsockname()
        yield Address(host, port)
        listener.shutdown(socket.SHUT_RDWR)  # closing alone would not wake the thread that accepts


def _accept(listener: socket.socket, to: Address, join: Join) -> None:
    with contextlib.suppress(OSError):  # the link is no longer needed
        while True:
            here, _ = listener.accept()
            threading.Thread(target=_connect, args=(here, to, join), daemon=True).start()


def _connect(here: socket.socket, to: Address, join: Join) -> None:
    with contextlib.suppress(OSError), here, socket.create_connection(to.pair) as there:
        for end in (here, there):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        join(here, there)


def _both_ways(here: socket.socket, there: socket.socket, pass_on: Join) -> None:
    """Pass on in both directions, until both have ended."""
    back = threading.Thread(target=pass_on, args=(there, here), daemon=True)
    back.start()
    pass_on(here, there)
    back.join()


# --- resets ----------------------------------------------------------------------------------------------------


@dataclass
class CutLink:
    """A link that is reset. ``cuts``: for each connection, after how many bytes towards and from the master."""

    cuts: Iterator[tuple[float, float]]
    address: Address = field(init=False)
    passed: list[tuple[int, int]] = field(default_factory=list)  # bytes of each connection that ended or was cut
    resets: int = 0

    def join(self, here: socket.socket, there: socket.socket) -> None:
        """Pass on what comes until one side closes or a limit is reached; then reset both sides."""
        limits = dict(zip((here, there), next(self.cuts, (float("inf"), float("inf"))), strict=True))
        counts = {here: 0, there: 0}
        sinks = {here: there, there: here}
        with contextlib.suppress(ConnectionError):
            while all(counts[end] < limits[end] for end in counts):
                for source in select.select([here, there], [], [])[0]:
                    piece = source.recv(int(min(_PIECE_BYTES, limits[source] - counts[source])))
                    if not piece:
                        self.passed.append((counts[here], counts[there]))
                        return
                    sinks[source].sendall(piece)
                    counts[source] += len(piece)
                    if counts[source] >= limits[source]:
                        break
        self.resets += 1
        self.passed.append((counts[here], counts[there]))
        for end in (here, there):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@contextlib.contextmanager
def cut_link(to: Address, cuts: Iterable[tuple[float, float]]) -> Iterator[CutLink]:
    """Yields a link to ``to`` whose connections are reset as ``cuts`` say; when these are used up, none is."""
    link = CutLink(iter(cuts))
    with _proxy(to, link.join) as link.address:
        yield link


# --- slow links ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def slow_link(to: Address, bytes_per_second: int) -> Iterator[Address]:
    """Yields an address behind which ``to`` is found, at so many bytes a second in each direction."""

    def join(here: socket.socket, there: socket.socket) -> None:
        for end in (here, there):
            # Small buffers, so that a sender feels how slow the link is.
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _PIECE_BYTES)
        _both_ways(here, there, pass_on)

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(_PIECE_BYTES):
                sink.sendall(piece)
                time.sleep(len(piece) / bytes_per_second)  # the speed of the link, not a wait for a condition
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    with _proxy(to, join) as address:
        yield address


# --- latency ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def late_link(to: Address, seconds: float) -> Iterator[Address]:
    """Yields an address behind which ``to`` is found, so many seconds away in each direction."""

    def pass_on(source: socket.socket, sink: socket.socket) -> None:
        _pass_on_late(source, sink, seconds)

    with _proxy(to, lambda here, there: _both_ways(here, there, pass_on)) as address:
        yield address


def _pass_on_late(source: socket.socket, sink: socket.socket, seconds: float) -> None:
    under_way: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
    threading.Thread(target=_arrive, args=(under_way, sink), daemon=True).start()
    piece = b"some"
    while piece:
        try:
            piece = source.recv(_PIECE_BYTES)
        except OSError:
            piece = b""
        under_way.put((time.monotonic() + seconds, piece))


def _arrive(under_way: "SimpleQueue[tuple[float, bytes]]", sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, piece = under_way.get()
            time.sleep(max(0.0, due - time.monotonic()))  # the length of the way, not a wait for a condition
            if not piece:
                sink.shutdown(socket.SHUT_RDWR)
                return
            sink.sendall(piece)


# --- a host of its own -----------------------------------------------------------------------------------------


class Namespace:
    """A network namespace, as a host of its own one cable away; needs root, ``ip`` and ``iptables``.

    ``here`` is this machine's address as seen from there. ``inside`` begins a command that is to run there.
    """

    def __init__(self) -> None:
        token = secrets.token_hex(3)
        self.name, self._cable = f"mh-{token}", f"mh{token}"
        net = f"10.{231 + secrets.randbelow(20)}.{secrets.randbelow(256)}"
        self.here, self.there = f"{net}.1", f"{net}.2"
        self.inside = ("ip", "netns", "exec", self.name)

    def __enter__(self) -> "Namespace":
        _run("ip", "netns", "add", self.name)
        try:
            peer = f"{self._cable}p"
            _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", peer, "netns", self.name)
            _run("ip", "address", "add", f"{self.here}/24", "dev", self._cable)
            _run("ip", "link", "set", self._cable, "up")
            _run(*self.inside, "ip", "address", "add", f"{self.there}/24", "dev", peer)
            _run(*self.inside, "ip", "link", "set", peer, "up")
            _run(*self.inside, "ip", "link", "set", "lo", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        subprocess.run(["ip", "link", "delete", self._cable], check=False, capture_output=True)
        _run("ip", "netns", "delete", self.name)

    def drop(self, *which: str) -> None:
        """Let packets vanish in both directions: all, or those for which these arguments of iptables hold."""
        for chain in ("INPUT", "OUTPUT"):
            _run(*self.inside, "iptables", "-A", chain, *which, "-j", "DROP")

    def heal(self) -> None:
        _run(*self.inside, "iptables", "-F")


def namespaces_work() -> bool:
    """Whether this machine lets us make one and filter what goes through it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        with Namespace() as host:
            host.drop("-m", "statistic", "--mode", "random", "--probability", "0.05")
        return True
    return False


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True)
