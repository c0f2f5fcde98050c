"""Asking the master how it is, and where tasks are: what health checks and other watchers use."""

import time
from typing import Any

from multihost.errors import MasterUnreachable
from multihost.explain import Explanation
from multihost.settings import Address
from multihost.wire.connection import dial
from multihost.wire.messages import Message


def ask_statistics(address: Address, authkey: bytes, timeout: float = 5.0) -> dict[str, Any]:
    """The master's statistics, over a connection of its own; one attempt.

    Raises: AuthenticationError; MasterUnreachable: no answer within ``timeout`` seconds.
    """
    statistics: dict[str, Any] = _ask(address, authkey, timeout, ("ask",), "statistics")
    return statistics


def find_tasks(
    address: Address, authkey: bytes, sequence: int, session: str = "", timeout: float = 5.0
) -> list[Explanation]:
    """Where the tasks of that number are, in all sessions whose ids begin with ``session``; as ``ask_statistics``."""
    return [Explanation.of(plain) for plain in _ask(address, authkey, timeout, ("find", session, sequence), "found")]


def _ask(address: Address, authkey: bytes, timeout: float, question: Message, answer: str) -> Any:
    deadline = time.monotonic() + timeout
    try:
        connection = dial(address, authkey, timeout)
        try:
            connection.hello("monitor", {}, deadline)
            connection.send([question])
            for batch in connection.receive(deadline - time.monotonic()):
                match batch:
                    case [(str(name), told)] if name == answer:
                        return told
        finally:
            connection.close()
    except OSError as error:
        raise MasterUnreachable(str(address), timeout, str(error)) from error
    raise MasterUnreachable(str(address), timeout, "it accepted the connection but did not answer")
