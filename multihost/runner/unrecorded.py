"""What was said of tasks and is not known to be recorded: said again to a master that comes back without it."""

from collections import deque
from typing import Any

from multihost.wire.messages import Message


class Unrecorded:
    """Messages in the order in which they were said on this connection."""

    def __init__(self) -> None:
        # Name, rows, and of parts with which item of its chunk each row begins.
        self._said: deque[tuple[str, list[Any], list[int]]] = deque()
        self._recorded = 0  # how many of this connection's are recorded, and gone from here

    def add(self, name: str, rows: list[Any], starts: list[int]) -> None:
        self._said.append((name, rows, starts))

    def recorded(self, count: int) -> None:
        """The master has recorded so many of this connection's messages."""
        while self._recorded < count and self._said:
            self._said.popleft()
            self._recorded += 1

    def tokens(self) -> set[int]:
        """Of the tasks whose ends they tell."""
        return {row[0] for name, rows, _ in self._said if name == "settle" for row in rows}

    def again(self, done: dict[int, int]) -> list[Message]:
        """What is to be said first on a new connection; ``done``: how many items of chunks are recorded, by token."""
        said, self._said, self._recorded = self._said, deque(), 0
        for name, rows, starts in said:
            if name == "parts":
                new = [(row, start) for row, start in zip(rows, starts, strict=True) if start >= done.get(row[0], 0)]
                rows, starts = [row for row, _ in new], [start for _, start in new]
            if rows:
                self._said.append((name, rows, starts))
        return [(name, rows) for name, rows, _ in self._said]

    def clear(self) -> None:
        """It is of no use any more."""
        self._said.clear()
        self._recorded = 0
