"""Asking the master how it is, where tasks are, and what it has given up: for health checks and other watchers."""

import time
from collections.abc import Iterator
from typing import Any

from multihost.errors import JournalFull, MasterUnreachable
from multihost.explain import Explanation
from multihost.saved import Code, SavedTask
from multihost.settings import Address
from multihost.wire.connection import dial
from multihost.wire.messages import Message


def ask_statistics(address: Address, authkey: bytes, timeout: float = 5.0) -> dict[str, Any]:
    """The master's statistics, over a connection of its own; one attempt.

    Raises: AuthenticationError; MasterUnreachable: no answer within ``timeout`` seconds.
    """
    statistics: dict[str, Any] = _ask(address, authkey, timeout, ("ask",), "statistics")
    return statistics


def ask_status(address: Address, authkey: bytes, timeout: float = 5.0) -> dict[str, Any]:
    """What the master, its sessions and its workers have counted and measured; as ``ask_statistics``."""
    told: dict[str, Any] = _ask(address, authkey, timeout, ("status",), "status")
    return told


def find_tasks(
    address: Address, authkey: bytes, sequence: int, session: str = "", timeout: float = 5.0
) -> list[Explanation]:
    """Where the tasks of that number are, in all sessions whose ids begin with ``session``; as ``ask_statistics``."""
    return [Explanation.of(plain) for plain in _ask(address, authkey, timeout, ("find", session, sequence), "found")]


def list_dead_letters(address: Address, authkey: bytes, timeout: float = 5.0) -> list[dict[str, Any]]:
    """What the master says of each dead letter, oldest first; as ``ask_statistics``."""
    letters: list[dict[str, Any]] = _ask(address, authkey, timeout, ("dead_list",), "dead_letters")
    return letters


def show_dead_letter(address: Address, authkey: bytes, number: int, timeout: float = 5.0) -> dict[str, Any] | None:
    """All that the master says of one, but for its arguments; None: there is none. As ``ask_statistics``."""
    letter: dict[str, Any] | None = _ask(address, authkey, timeout, ("dead_show", number), "dead_letter")
    return letter


def fetch_dead_letter(address: Address, authkey: bytes, number: int, timeout: float = 120.0) -> SavedTask | None:
    """The task of one, to be saved; None: there is none. As ``ask_statistics``."""
    code: dict[str, Code] = {}
    for message in _answers(address, authkey, timeout, ("dead_save", number)):
        match message:
            case ("dead_code", str(blob_id), bytes(content), tuple(needs)):
                code[blob_id] = (blob_id, content, needs)
            case ("dead_task", None):
                return None
            case ("dead_task", dict(told)):
                return SavedTask(told, code)
    raise _silent(address, timeout)


def change_dead_letters(
    address: Address, authkey: bytes, what: str, numbers: list[int], timeout: float = 5.0
) -> list[tuple[int, str]]:
    """``what`` is "requeue" or "drop"; for each letter why that was not done, or nothing. As ``ask_statistics``.

    Raises: JournalFull: the master cannot write its journal now; so do the others here, but for ``ask_statistics``.
    """
    rows: list[tuple[int, str]] = _ask(address, authkey, timeout, (f"dead_{what}", numbers), "dead_done")
    return rows


def _ask(address: Address, authkey: bytes, timeout: float, question: Message, answer: str) -> Any:
    for message in _answers(address, authkey, timeout, question):
        match message:
            case (str(name), told) if name == answer:
                return told
    raise _silent(address, timeout)


def _answers(address: Address, authkey: bytes, timeout: float, question: Message) -> Iterator[object]:
    """The messages that come on a connection of its own, until whoever asks has enough; none after ``timeout``."""
    deadline = time.monotonic() + timeout
    try:
        connection = dial(address, authkey, timeout)
        try:
            connection.hello("monitor", {}, deadline)
            connection.send([question])
            while batches := connection.receive(max(0.0, deadline - time.monotonic())):
                for batch in batches:
                    for message in batch if isinstance(batch, list) else ():
                        match message:
                            case ("later", str(path), str(reason)):
                                raise JournalFull(path, reason)
                        yield message
        finally:
            connection.close()
    except OSError as error:
        raise MasterUnreachable(str(address), timeout, str(error)) from error


def _silent(address: Address, timeout: float) -> MasterUnreachable:
    return MasterUnreachable(str(address), timeout, "it accepted the connection but did not answer")
