"""Which cluster a program means: the one it names, the one its environment names, or one of its own in this machine.

A task that names none means the cluster that runs it.
"""

import logging
import os
from collections.abc import Callable, Iterable
from multiprocessing.process import current_process

from multihost import enclosing
from multihost.client.session import Session
from multihost.errors import SettingsError
from multihost.local import LocalCluster
from multihost.settings import Address, parse_address, read_authkey, read_settings, unknown_variables

logger = logging.getLogger(__name__)

_GUARD = """
        A {what} was made while a worker imported the main script of the program that uses it.
        Protect the program's entry point, so that it can be imported without running:

            if __name__ == "__main__":
                with multihost.{what}() as pool:
                    ...
"""


class Membership:
    """A session with a cluster, and the cluster itself if it is this program's own. ``close`` ends both.

    Args:
        what: what the user is making, for the message if he may not.
        limit: how many of the session's tasks run at once; None: as many as there are slots.
        address, authkey, initializer, initargs: as ``Pool`` has them.
        lifetime: how many tasks a process runs before a fresh one takes its place; None: any number.
    Raises: as ``Pool`` does.
    """

    def __init__(
        self,
        what: str,
        limit: int | None,
        address: str | tuple[str, int] | None,
        authkey: bytes | str | None,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[object] = (),
        lifetime: int | None = None,
    ) -> None:
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if getattr(current_process(), "_inheriting", False):
            raise RuntimeError(_GUARD.format(what=what))
        start = None if initializer is None else (initializer, tuple(initargs))
        settings = read_settings(os.environ)
        self._local: LocalCluster | None = None
        if enclosing.door is not None and address is None:  # in a task: the cluster that runs it
            self.session = Session(None, b"", settings.connect_timeout, limit, start, door=enclosing.door)
            return
        for warning in unknown_variables(os.environ):  # a mistyped address would silently mean this machine
            logger.warning(warning)
        where = settings.address if address is None else _parsed(address)
        key = authkey.encode() if isinstance(authkey, str) else authkey
        if where is None:
            if key is not None:
                raise SettingsError("an authkey was given, but no address: name the master, or neither of both")
            self._local = LocalCluster(limit)
            where, key = self._local.address, self._local.authkey
            limit = None  # its slots are the limit; one on leases would keep batches small
        key = read_authkey(os.environ) if key is None else key
        try:
            self.session = Session(where, key, settings.connect_timeout, limit, start, lifetime)
        except BaseException:
            if self._local is not None:
                self._local.close()
            raise

    def close(self) -> None:
        """End the session, cancelling what is left, and take an own cluster down. May be called twice."""
        self.session.close()
        if self._local is not None:
            self._local.close()


def _parsed(address: object) -> Address:
    match address:
        case str():
            return parse_address(address)
        case (str(host), int(port)):
            return parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        case _:
            raise TypeError(f"address must be 'host:port' or (host, port), not {address!r}")
