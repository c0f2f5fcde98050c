"""Which cluster a program means: the one it names, the one its environment names, or one of its own in this machine.

A task that names none means the cluster that runs it.
"""

import contextlib
import logging
import os
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from multiprocessing.process import current_process

from multihost import enclosing, forked
from multihost.client.code import Initializer
from multihost.client.output import standard
from multihost.client.session import Session
from multihost.errors import ForkedClient, SettingsError
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
    """A session with a cluster, and the cluster itself if it is this program's own; shared by all that is derived from
    one pool or executor. It counts their calls, and ends with the last of them.

    Args:
        what: what the user is making, for messages.
        limit: how many of the session's tasks run at once; None: as many as there are slots.
        address, authkey, initializer, initargs, task_output: as ``Pool`` has them.
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
        task_output: bool | None = None,
    ) -> None:
        self.open = False  # whether calls are accepted; False first, for an __init__ that raises
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if getattr(current_process(), "_inheriting", False):
            raise RuntimeError(_GUARD.format(what=what))
        self.limit = limit
        self._what, self._process, self._forks = what, os.getpid(), forked.times
        self._local: LocalCluster | None = None
        self._start = start = (initializer, tuple(initargs)) if initializer else None
        self._lifetime = lifetime
        self.session = self._join(address, authkey, start, lifetime, task_output)
        self.calls = 0  # that have not ended
        self._lock = threading.RLock()
        self._over = threading.Condition(self._lock)  # no call is under way any more
        self._closing = False  # whether the session ends with the last call
        self.open = True
        # The exit of the interpreter is not its business: there, session and cluster see to themselves.
        weakref.finalize(self, _close_dropped, self.session, self._local, self._process).atexit = False

    def __del__(self, warn: Callable[..., None] = warnings.warn, getpid: Callable[[], int] = os.getpid) -> None:
        # The arguments are what the interpreter's exit may have taken from the modules by now.
        if self.open and self._what == "Pool" and getpid() == self._process:
            warn(f"unclosed running multihost pool {self!r}", ResourceWarning, source=self)

    def __repr__(self) -> str:
        return f"<multihost.{self._what} at {self.session.address}, {self.calls} calls under way>"

    def _join(
        self,
        address: str | tuple[str, int] | None,
        authkey: bytes | str | None,
        start: Initializer | None,
        lifetime: int | None,
        task_output: bool | None,
    ) -> Session:
        settings = read_settings(os.environ)
        patience, limit = settings.connect_timeout, self.limit
        shown = settings.task_output == "show" if task_output is None else task_output
        show = standard().show if shown else None
        if enclosing.door is not None and address is None:  # in a task: the cluster that runs it
            return Session(None, b"", patience, limit, start, lifetime, enclosing.door, show)
        for warning in unknown_variables(os.environ):  # a mistyped address would silently mean this machine
            logger.warning(warning)
        where = settings.address if address is None else parsed(address)
        key = authkey.encode() if isinstance(authkey, str) else authkey
        if where is None:
            if key is not None:
                raise SettingsError("an authkey was given, but no address: name the master, or neither of both")
            self._local = LocalCluster(limit)
            where, key = self._local.address, self._local.authkey
            limit = None  # its slots are the limit; one on leases would keep batches small
            show = None  # its tasks print where this program does
        key = read_authkey(os.environ) if key is None else key
        try:
            return Session(where, key, patience, limit, start, lifetime, show=show)
        except BaseException:
            if self._local is not None:
                self._local.close()
            raise

    def open_job(self, name: str) -> Session:
        """A session of its own for a detached job, like this one's.

        Raises: SettingsError: there is no master that outlives this program, or this is a task; JobExists; and as
            ``Pool`` does.
        """
        session = self.session
        if self._local is not None or not isinstance(session.address, Address):
            raise SettingsError(
                "a detached job needs a master that outlives this program, and a program that is no task: give the "
                "pool an address, or set MULTIHOST_ADDRESS"
            )
        patience = session.connect_timeout
        return Session(session.address, session.authkey, patience, self.limit, self._start, self._lifetime, job=name)

    @property
    def slots(self) -> int:
        """How many calls can run at once, as far as is known now; at least 1."""
        return max(1, min(self.session.slots, self.limit or self.session.slots))

    def begin(self) -> bool:
        """A call begins, and ``end`` will be called for it; False: no calls are accepted any more."""
        with self._lock:
            self.calls += 1
            return self.open

    def end(self) -> None:
        """A call has ended."""
        with self._lock:
            self.calls -= 1
            if self.calls:
                return
            self._over.notify_all()
            over = self._closing
        if over:
            self.close()

    def close_when_done(self) -> None:
        """Accept no more calls; end the session with the last of those accepted."""
        with self._lock:
            self.open = False
            self._closing = True
            over = not self.calls
        if over:
            self.close()

    def wait(self) -> None:
        """Wait until every call has ended.

        Raises: ForkedClient: they end in another process; RuntimeError: this is a callback of one of them.
        """
        self.check_process()
        if threading.current_thread() is self.session._receiver:
            raise RuntimeError("a callback cannot wait for the calls that wait for it")
        with self._lock:
            self._over.wait_for(lambda: not self.calls)

    @property
    def is_mine(self) -> bool:
        """Whether this process made it, and was not forked from the one that did."""
        return forked.times == self._forks

    def check_process(self) -> None:
        """Raises: ForkedClient: this process was forked from the one that has the session."""
        if forked.times != self._forks:
            raise ForkedClient(self._process, os.getpid())

    def close(self) -> None:
        """End the session, cancelling what is left, and take an own cluster down. May be called twice."""
        self.open = False
        _close(self.session, self._local)


def _close(session: Session, local: LocalCluster | None) -> None:
    session.close()
    if local is not None:
        local.close()


def _close_dropped(session: Session, local: LocalCluster | None, process: int) -> None:
    """Nobody has it any more. A thread of its own ends it: garbage is collected at any line, with any lock held."""
    if os.getpid() == process:
        with contextlib.suppress(RuntimeError):  # no more threads at the interpreter's exit, which ends it, too
            threading.Thread(target=_close, args=(session, local), name="multihost-close").start()


def parsed(address: object) -> Address:
    """An address as users give it. Raises: SettingsError; TypeError."""
    match address:
        case str():
            return parse_address(address)
        case (str(host), int(port)):
            return parse_address(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        case _:
            raise TypeError(f"address must be 'host:port' or (host, port), not {address!r}")
