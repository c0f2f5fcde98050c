"""One interface for all systems that are measured, so that each is given the same work in the same way."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import processes

Function = Callable[..., Any]


class Lacking(Exception):
    """The system has no such thing; the cell is a dash, with this text as its footnote."""


class System(ABC):
    """A system that runs functions in ``workers`` processes; ready for its first task when constructed."""

    workers: int

    @abstractmethod
    def __init__(self, workers: int) -> None: ...

    @abstractmethod
    def submit(self, function: Function, *args: Any) -> Any:
        """Hand over one call, as the system's users do; what it returns is for ``collect``."""

    def flush(self) -> None:  # noqa: B027  # most have nothing to do
        """Send what ``submit`` may have held back to be sent together; ``collect`` does so by itself."""

    @abstractmethod
    def collect(self, handles: Sequence[Any]) -> list[Any]:
        """The results of all these calls, in order."""

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        """The system's own map; ``chunksize`` None leaves it to the system. Raises: Lacking."""
        raise Lacking("it has no map")

    def roles(self) -> dict[str, list[int]]:
        """Its processes by what they do: ``client``, ``master`` (what stands between), ``workers``."""
        return {"client": [os.getpid()], "master": [], "workers": processes.descendants(os.getpid())}

    @abstractmethod
    def close(self) -> None:
        """End whatever construction began."""
