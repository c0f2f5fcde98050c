"""Who may stand at the door: peers that have connected and not yet proved that they know the key."""

from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

K = TypeVar("K")


class Doorway(Generic[K]):
    """The unfinished handshakes, oldest first, in all and of each address.

    Above a cap the *oldest* makes room: a flood of silent connections then cannot keep out a peer that has the key and
    answers at once, not even from the same address.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._addresses: dict[K, str] = {}
        self._counts: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._addresses)

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
