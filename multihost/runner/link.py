"""The worker's connection to the master, made again whenever it is lost."""

import logging
import random
import threading
import time
from multiprocessing import AuthenticationError

from multihost.errors import MasterUnreachable, ProtocolError
from multihost.settings import Address
from multihost.wire.connection import Connection, backoff, dial

logger = logging.getLogger(__name__)

_ATTEMPT_SECONDS = 5.0


class Stopped(Exception):
    """The worker was told to stop while it had no master."""


def connect(
    address: Address, authkey: bytes, info: dict[str, object], timeout: float, stop: threading.Event
) -> tuple[Connection, dict[str, object]]:
    """A link of the role worker, and what the master answered; tries for ``timeout`` seconds.

    Raises:
        MasterUnreachable: no master until then.
        AuthenticationError, ProtocolError: the master refused, which more attempts would not change.
        Stopped: ``stop`` was set.
    """
    deadline = time.monotonic() + timeout
    reason = ""
    for delay in backoff(random.Random()):
        try:
            left = min(_ATTEMPT_SECONDS, max(0.1, deadline - time.monotonic()))
            connection = dial(address, authkey, left)
            try:
                return connection, connection.hello("worker", info, time.monotonic() + left)
            except BaseException:
                connection.close()
                raise
        except (AuthenticationError, ProtocolError):
            raise
        except OSError as error:
            if not reason:
                logger.warning("the master at %s is not there yet (%s); trying for %g s", address, error, timeout)
            reason = str(error)
        if time.monotonic() + delay > deadline:
            raise MasterUnreachable(str(address), timeout, reason)
        if stop.wait(delay):
            raise Stopped
    raise AssertionError("backoff never ends")
