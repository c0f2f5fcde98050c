"""Asking the master how it is: what health checks and other watchers use."""

import time
from typing import Any

from multihost.errors import MasterUnreachable
from multihost.settings import Address
from multihost.wire.connection import dial


def ask_statistics(address: Address, authkey: bytes, timeout: float = 5.0) -> dict[str, Any]:
    """The master's statistics, over a connection of its own; one attempt.

    Raises: AuthenticationError; MasterUnreachable: no answer within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    try:
        connection = dial(address, authkey, timeout)
        try:
            connection.hello("monitor", {}, deadline)
            connection.send([("ask",)])
            for batch in connection.receive(deadline - time.monotonic()):
                match batch:
                    case [("statistics", dict(statistics))]:
                        return statistics
        finally:
            connection.close()
    except OSError as error:
        raise MasterUnreachable(str(address), timeout, str(error)) from error
    raise MasterUnreachable(str(address), timeout, "it accepted the connection but did not answer")
