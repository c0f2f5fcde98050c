"""The sessions that tasks open: which channel of the worker's link belongs to which child, and what it calls it."""

from collections.abc import Iterator


class Relays:
    """Each child numbers its channels by itself; on the link to the master they have numbers of their own."""

    def __init__(self) -> None:
        self._channels: dict[tuple[int, int], int] = {}  # (child, its number) -> number on the link
        self._children: dict[int, tuple[int, int]] = {}
        self._next = 1

    def open(self, child: int, channel: int) -> int | None:
        """The link's number for a new channel; None if the child has one of that number already."""
        if (child, channel) in self._channels:
            return None
        number, self._next = self._next, self._next + 1
        self._channels[child, channel] = number
        self._children[number] = (child, channel)
        return number

    def outward(self, child: int, channel: int) -> int | None:
        """The link's number for a child's channel; None if it is not open."""
        return self._channels.get((child, channel))

    def inward(self, number: int) -> tuple[int, int] | None:
        """The child, and its number for the channel; None if it is not open any more."""
        return self._children.get(number)

    def close(self, child: int, channel: int) -> int | None:
        """Forget a channel; its number on the link, None if it was not open."""
        number = self._channels.pop((child, channel), None)
        if number is not None:
            del self._children[number]
        return number

    def close_all(self, child: int) -> Iterator[int]:
        """Forget a child's channels; their numbers on the link."""
        for owner, channel in [key for key in self._channels if key[0] == child]:
            number = self.close(owner, channel)
            assert number is not None
            yield number

    def clear(self) -> set[int]:
        """The link has ended, and they with it; the children that had any."""
        children = {child for child, _ in self._channels}
        self._channels.clear()
        self._children.clear()
        return children
