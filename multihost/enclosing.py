"""The way out of a task: what a child process offers to a ``Pool`` or ``Executor`` that a task makes.

A task may submit tasks, with neither key nor socket: what its session says goes through its worker. Only what a session
needs to know of that is here; ``runner`` has the rest and sets ``door`` in the processes that run tasks.
"""

from typing import Protocol


class Link(Protocol):
    """What a session needs of a connection, as ``wire.connection.Connection`` has it."""

    def send_batch(self, batch: list[tuple[object, ...]]) -> None: ...

    def receive(self, timeout: float | None) -> list[object]: ...

    def silence(self) -> float: ...

    def moved_bytes(self) -> tuple[int, int]: ...

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


class Door(Protocol):
    """The worker, as the process of a task sees it."""

    @property
    def depth(self) -> int:
        """How deep the running task is: 0 if a program submitted it, 1 if such a task did, and so on."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The ids of the blobs this process was started with: archives of the program's code, and its initializer."""

    @property
    def archives(self) -> tuple[str, ...]:
        """Those of ``needs`` that are code."""

    def open(self, info: dict[str, object]) -> tuple[Link, dict[str, object]]:
        """Open a session that introduces itself with ``info``; the master's answer to that.

        Raises: ProtocolError: the master refused; ConnectionError: the worker has lost it.
        """


door: Door | None = None  # None in a program
