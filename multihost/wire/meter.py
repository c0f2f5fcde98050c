"""What went over a program's links with the master, the one that is there and those before it."""

from collections.abc import Sequence
from typing import Any, Protocol

# Of the messages that carry tasks or how they ended, which field has a row for each.
_ROWS = {"submit": 4, "grant": 5, "settle": 1}


class _Link(Protocol):
    def moved_bytes(self) -> tuple[int, int]:
        """How many were sent, and how many received."""


class Meter:
    """Counts batches; one thread may call ``sent`` while another one calls ``received``."""

    def __init__(self) -> None:
        self._sent, self._received = [0, 0, 0], [0, 0, 0]  # frames, messages, tasks
        self._bytes = (0, 0)  # of the links that have ended

    def sent(self, batch: Sequence[Any]) -> None:
        _count(self._sent, batch)

    def received(self, batch: Sequence[Any]) -> None:
        _count(self._received, batch)

    def ended(self, link: _Link) -> None:
        """That link is used no more."""
        self._bytes = self._moved(link)

    def plain(self, link: _Link | None) -> tuple[dict[str, int], dict[str, int]]:
        """What was sent and what was received, with what went over ``link``, which is in use."""
        sent_bytes, received_bytes = self._bytes if link is None else self._moved(link)
        return _named(sent_bytes, self._sent), _named(received_bytes, self._received)

    def _moved(self, link: _Link) -> tuple[int, int]:
        sent_bytes, received_bytes = link.moved_bytes()
        return self._bytes[0] + sent_bytes, self._bytes[1] + received_bytes


def _count(counts: list[int], batch: Sequence[Any]) -> None:
    counts[0] += 1
    counts[1] += len(batch)
    for message in batch:
        if (field := _ROWS.get(message[0])) is not None:
            counts[2] += len(message[field])


def _named(size_bytes: int, counts: list[int]) -> dict[str, int]:
    return {"bytes": size_bytes, "frames": counts[0], "messages": counts[1], "tasks": counts[2]}
