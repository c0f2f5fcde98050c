"""The server: listens, lets strangers in as far as there is room, and keeps the peers that have proved themselves.

Source: replaces ``multiprocessing.managers.Server``, which has a thread for each connection and serves ``shutdown``,
``create`` of any type and ``#GETVALUE`` to every key holder.
"""

import asyncio
import itertools
import logging
import selectors
import socket
from dataclasses import dataclass
from typing import Any

from multihost.errors import ClusterFull
from multihost.logs import Seldom
from multihost.settings import Address
from multihost.wire.doorway import Doorway, WrongKeys
from multihost.wire.frames import Spares
from multihost.wire.peer import Handler, Peer

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_SELDOM_SECONDS = 10.0  # a flood of strangers must not fill the disk with lines about it


class _Selector(selectors.DefaultSelector):
    """Knows how many of the event loop's connections had something in this turn."""

    found = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events: list[tuple[selectors.SelectorKey, int]] = super().select(timeout)
        self.found = len(events)
        return events


@dataclass(frozen=True, slots=True)
class Limits:
    """What strangers, and key holders, may take of the master. Seconds and bytes."""

    pending: int = 512  # handshakes under way
    pending_per_address: int = 128
    handshake_seconds: float = 10.0
    max_payload: int = 256 * 1024 * 1024
    connections: int = 10_000  # of clients, ours and the standard library's; workers and watchers may always come


class Server:
    """Listens from construction on; ``serve_forever`` runs one event loop until ``stop``."""

    def __init__(self, address: Address, authkey: bytes, handler: Handler, limits: Limits | None = None) -> None:
        if not authkey:
            raise ValueError("the authkey must not be empty")
        self.authkeys = [authkey]
        self.handler = handler
        self.limits = Limits() if limits is None else limits
        self.peers: dict[int, Peer] = {}
        self.spares = Spares()
        self._numbers = itertools.count(1)
        self._doorway: Doorway[Peer] = Doorway(self.limits.pending, self.limits.pending_per_address)
        self._wrong_keys = WrongKeys()
        # Those that are not greeted yet, since wrong keys came from their address; then they come to the doorway.
        self._late: Doorway[Peer] = Doorway(self.limits.pending, self.limits.pending_per_address)
        self._refusals, self._exhaustions = Seldom(_SELDOM_SECONDS), Seldom(_SELDOM_SECONDS)
        self._previous = Seldom(_SELDOM_SECONDS)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        self._socket = socket.create_server(address.pair, family=family, backlog=_BACKLOG)
        host, port = self._socket.getsockname()[:2]
        self.address = (host, port)
        self._selector = _Selector()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped: asyncio.Event | None = None
        self._stop_asked = False

    def accept_previous(self, authkey: bytes) -> None:
        """Let in those, too, who have not got the new key yet; before ``serve_forever``."""
        self.authkeys.append(authkey)

    def serve_forever(self) -> None:
        """Serve until ``stop`` is called; then close every connection and return."""
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self._selector)) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        """End ``serve_forever``; may be called from a signal handler or another thread."""
        self._stop_asked = True
        if self._loop is not None and self._stopped is not None:
            self._loop.call_soon_threadsafe(self._stopped.set)

    async def _serve(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._failed)
        self.handler.started(self)
        listener = await self._loop.create_server(
            lambda: Peer(self, next(self._numbers)), sock=self._socket, backlog=_BACKLOG
        )
        try:
            if not self._stop_asked:
                await self._stopped.wait()
        finally:
            self.handler.stopped()
            listener.close()
            for peer in [*self._late, *self._doorway, *self.peers.values()]:
                peer.close()
            await asyncio.sleep(0)  # lets the transports close their sockets

    # --- what peers report -------------------------------------------------------------------------------------

    def began(self, peer: Peer) -> None:
        """A stranger connected: greet him, at once or soon."""
        loop = asyncio.get_running_loop()
        if not (seconds := self._wrong_keys.wait(peer.origin, loop.time())):
            self._greet(peer)
            return
        if (oldest := self._late.arrive(peer, peer.origin)) is not None:
            self._greet(oldest)  # early, so that nobody is made to leave ungreeted
        loop.call_later(seconds, self._greet_late, peer)

    def _greet_late(self, peer: Peer) -> None:
        if peer in self._late:
            self._late.leave(peer)
            self._greet(peer)

    def _greet(self, peer: Peer) -> None:
        if (evicted := self._doorway.arrive(peer, peer.origin)) is not None:
            self.refused(evicted, "too many connections without a finished handshake")
            evicted.abort()
        peer.greet()

    def authenticated(self, peer: Peer, key: int) -> None:
        """A stranger has proved that he knows the key of that number."""
        self._doorway.leave(peer)
        self._wrong_keys.forget(peer.origin)
        self.peers[peer.number] = peer
        if key and (count := self._previous.let_through(asyncio.get_running_loop().time())):
            fields = {"event": "previous_key", "peer": peer.address, "count": count}
            text = "%s has the previous key; give it the new one (%d connections with it since the last such line)"
            logger.warning(text, peer.address, count, extra=fields)

    @property
    def one_speaks(self) -> bool:
        """Whether in this turn of the event loop a single connection had something."""
        return self._selector.found == 1

    @property
    def full(self) -> ClusterFull | None:
        """Why no client is let in any more; who asks is among the peers already."""
        if len(self.peers) <= self.limits.connections:
            return None
        return ClusterFull("connections", self.limits.connections, "MULTIHOST_MAX_CONNECTIONS")

    def note_wrong_key(self, peer: Peer) -> None:
        """A stranger tried another key than ours: the next ones from there wait."""
        self._wrong_keys.note(peer.origin, asyncio.get_running_loop().time())

    def refused(self, peer: Peer, reason: str) -> None:
        """A stranger was turned away."""
        if count := self._refusals.let_through(asyncio.get_running_loop().time()):
            fields = {"event": "connection_refused", "peer": peer.address, "count": count}
            text = "refused a connection from %s: %s (%d refused since the last such line)"
            logger.warning(text, peer.address, reason, count, extra=fields)

    def ended(self, peer: Peer, delivered: bool) -> None:
        """A connection is gone."""
        self._doorway.leave(peer)
        self._late.leave(peer)
        if self.peers.pop(peer.number, None) is not None:
            self.handler.closed(peer.number, delivered)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio met an error. It tells of each connection that it has no file descriptor for; we do so seldom."""
        if "out of system resource" not in str(context.get("message")):
            loop.default_exception_handler(context)
        elif count := self._exhaustions.let_through(loop.time()):
            fields = {"event": "descriptors_exhausted", "count": count}
            text = "no file descriptor is left for new connections; raise the master's limit of open files (ulimit -n)"
            logger.error(text, extra=fields)
