"""Who may stand at the door, and how long: peers that have connected and not yet proved that they know the key."""

import socket
from collections import Counter, OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
_MAPPED = bytes(10) + b"\xff\xff"  # before an IPv4 address, where a socket of IPv6 hears those, too


def origin(host: str) -> str:
    """For whom an address is counted: of IPv6 its network of 64 bits, in which one machine may have any address."""
    if ":" not in host:
        return host
    packed = socket.inet_pton(socket.AF_INET6, host.partition("%")[0])
    if packed.startswith(_MAPPED):
        return socket.inet_ntop(socket.AF_INET, packed[len(_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, packed[:8] + bytes(8)) + "/64"


class Doorway(Generic[K]):
    """The unfinished handshakes, oldest first, in all and of each address, which is an ``origin``.

    Above a cap the *oldest* makes room: a flood of silent connections then cannot keep out a peer that has the key and
    answers at once, not even from the same address.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._addresses: dict[K, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

    def __contains__(self, who: K) -> bool:
        return who in self._addresses

    def __iter__(self) -> Iterator[K]:
        return iter(self._addresses)

    def arrive(self, who: K, address: str) -> K | None:
        """Let ``who`` in; returns the one that has to leave for it, and is no longer here."""
        self._addresses[who] = address
        self._counts[address] += 1
        oldest = None
        if self._counts[address] > self._most_per_address:
            oldest = next(other for other, its in self._addresses.items() if its == address)
        elif len(self._addresses) > self._most:
            oldest = next(iter(self._addresses))
        if oldest is not None:
            self.leave(oldest)
        return oldest

    def leave(self, who: K) -> None:
        """``who`` has proved itself, or is gone; nothing happens if it has left before."""
        if (address := self._addresses.pop(who, None)) is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


class WrongKeys:
    """Where wrong keys came from, and how long the next handshake from there has to wait: ever longer.

    What a guess costs its maker must not cost his neighbours, who share his address behind a router, much: the wait has
    a bound, the first wrong keys cost nothing, and a while after the last one all is forgotten.
    """

    FREE = 5  # so often a person, or a few programs that were started with an old key, may be wrong
    FIRST_SECONDS, MOST_SECONDS = 0.1, 2.0
    FORGOTTEN_SECONDS = 60.0
    MOST_ADDRESSES = 10_000

    def __init__(self) -> None:
        # How many, and when the last one came; the latest at the end.
        self._noted: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._noted)

    def note(self, address: str, now: float) -> None:
        """A wrong key came from there."""
        count = self._count(address, now)
        self._noted[address] = count + 1, now
        self._noted.move_to_end(address)
        if len(self._noted) > self.MOST_ADDRESSES:
            self._noted.popitem(last=False)

    def forget(self, address: str) -> None:
        """Somebody there has the key. Most programs need several connections, and so wait once, if the guesses end."""
        self._noted.pop(address, None)

    def wait(self, address: str, now: float) -> float:
        """Seconds that a handshake from there has to wait."""
        beyond = self._count(address, now) - self.FREE
        if beyond < 0:
            return 0.0
        return min(self.MOST_SECONDS, self.FIRST_SECONDS * 2.0 ** min(beyond, 10))

    def _count(self, address: str, now: float) -> int:
        while self._noted and now - next(iter(self._noted.values()))[1] > self.FORGOTTEN_SECONDS:
            self._noted.popitem(last=False)
        count, _ = self._noted.get(address, (0, 0.0))
        return count
