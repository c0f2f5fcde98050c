"""Connections between hosts and the master, as TCP gives them: in order, late, and cut at any moment.

A cut loses a suffix of what was under way, on either side; who notices it, and when, is a matter of chance. A
partition loses nothing by itself: what was sent is sent again when it is over, if the connection still exists then.
"""

from collections import deque
from typing import Protocol

from multihost.wire.messages import decode, encode
from tests.simulation.world import Host, Process, World

# A connection whose peer vanished without a word is given up by the kernel after so long.
KEEPALIVE_SECONDS = (10.0, 20.0)
_RETRANSMIT_SECONDS = 1.0
_FIN = None


class Owner(Protocol):
    """Whose connection it is."""

    def received(self, end: "End", value: object) -> None: ...

    def lost(self, end: "End") -> None: ...


class End:
    """One end of a connection."""

    peer: "End"

    def __init__(self, host: Host, process: Process, owner: Owner) -> None:
        self.host, self.process, self.owner = host, process, owner
        self.open = True
        self.broken = False  # what is said here goes nowhere, although nobody has noticed yet
        self.under_way: deque[bytes | None] = deque()  # on its way to here
        self.last = 0.0  # when the last of it arrives
        self.stuck = 0  # how much of it has met a partition


class Network:
    """Every host has a way to the master's; ``master`` accepts what they dial."""

    def __init__(self, world: World, master: Host) -> None:
        self._world = world
        self._master = master
        self.ends: list[End] = []  # of the hosts that dialled

    def dial(self, process: Process, owner: Owner, acceptor: Owner, hello: object) -> End:
        """A new connection; the first thing said on it is ``hello``."""
        ours, theirs = End(process.host, process, owner), End(self._master, self._master.kernel, acceptor)
        ours.peer, theirs.peer = theirs, ours
        self.ends = [end for end in self.ends if end.open or end.peer.open]
        self.ends.append(ours)
        self.send(ours, hello)
        return ours

    def send(self, end: End, value: object) -> None:
        if end.open:
            self._put(end.peer, b"".join(encode(value)))

    def close(self, end: End) -> None:
        """What was sent before still arrives, and then the news."""
        if end.open:
            end.open = False
            end.under_way.clear()
            self._put(end.peer, _FIN)

    def refuse(self, end: End) -> None:
        """Answer what arrives here with a reset."""
        end.open = False
        self._world.after(self._latency(end.peer), end.peer.host.kernel, self._notice, end.peer)

    def vanish(self, end: End, tell: bool) -> None:
        """An end's process is dead. Without ``tell``, so is its host: nobody hears of it until the kernel asks."""
        if not end.open:
            return
        end.open = False
        self._lose_suffix(end.peer)
        if tell:
            self._put(end.peer, _FIN)
        else:
            patience = self._world.chance.uniform(*KEEPALIVE_SECONDS)
            self._world.after(patience, end.peer.host.kernel, self._notice, end.peer)

    def cut(self, end: End, quickly: bool) -> None:
        """Break a connection: each end hears of it on its own, or one of them only when its kernel asks."""
        late = None if quickly else self._world.chance.choice((end, end.peer))
        for side in (end, end.peer):
            side.broken = True
            self._lose_suffix(side)
            patience = self._world.chance.uniform(*KEEPALIVE_SECONDS) if side is late else 0.05
            self._world.at(max(self._world.soon(patience), side.last), side.host.kernel, self._notice, side)

    def heal(self, host: Host) -> None:
        """A partition of ``host`` is over: what met it is sent again."""
        for end in self.ends:
            for side in (end, end.peer):
                if end.host is host and side.stuck and not self._blocked(side):
                    again = self._world.soon(_RETRANSMIT_SECONDS)
                    for _ in range(side.stuck):
                        self._world.at(again, side.host.kernel, self._arrive, side)
                    side.stuck = 0

    def give_up_during_partition(self, end: End) -> None:
        """The kernels of both sides may lose patience with a partition."""
        for side in (end, end.peer):
            patience = self._world.chance.uniform(*KEEPALIVE_SECONDS)
            self._world.after(patience, side.host.kernel, self._lose_patience, side)

    # --- inside ------------------------------------------------------------------------------------------------

    def _put(self, end: End, data: bytes | None) -> None:
        """Send something to this end."""
        if end.broken:
            return
        end.under_way.append(data)
        end.last = max(end.last, self._world.now + self._latency(end))
        self._world.at(end.last, end.host.kernel, self._arrive, end)

    def _latency(self, end: End) -> float:
        host = end.host if end.host is not self._master else end.peer.host
        return self._world.chance.uniform(*host.latency)

    def _blocked(self, end: End) -> bool:
        """Whether nothing gets to this end."""
        return bool(end.peer.host.mute if end.host is self._master else end.host.deaf)

    def _lose_suffix(self, end: End) -> None:
        kept = self._world.chance.randint(0, len(end.under_way))
        while len(end.under_way) > kept:
            end.under_way.pop()

    def _arrive(self, end: End) -> None:
        if not end.under_way:
            return  # it was lost
        if self._blocked(end):
            end.stuck += 1
            return
        data = end.under_way.popleft()
        if end.host.off:
            return
        if not end.open:
            if data is not _FIN:
                self._world.after(self._latency(end.peer), end.peer.host.kernel, self._notice, end.peer)
        elif data is _FIN:
            self._close(end)
        else:
            end.owner.received(end, decode(data))

    def _notice(self, end: End) -> None:
        """Hear of a reset, or find that the peer is gone."""
        if end.open and self._blocked(end):
            self._world.after(1.0, end.host.kernel, self._notice, end)
        elif end.open:
            self._close(end)

    def _lose_patience(self, end: End) -> None:
        if end.open and (self._blocked(end) or self._blocked(end.peer)):
            self._close(end)

    def _close(self, end: End) -> None:
        end.open = False
        end.under_way.clear()
        end.owner.lost(end)
