"""``QueueManager``: the standard library's manager of shared queues, with a server that survives its clients."""

import os
import pickle
import socket
from collections.abc import Callable
from multiprocessing import ProcessError
from multiprocessing.managers import BaseManager, BaseProxy, State  # type: ignore[attr-defined]
from typing import TYPE_CHECKING, Any

from multihost.settings import Address, Settings
from multihost.wire import sockets

if TYPE_CHECKING:
    from multihost.wire.server import Server


class QueueProxy(BaseProxy):
    """A shared queue, with the methods and exceptions of ``queue.Queue``. Carries any picklable object."""

    _exposed_ = ("empty", "full", "get", "get_nowait", "join", "put", "put_nowait", "qsize", "task_done")

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
        """As ``queue.Queue.put``. Raises: queue.Full."""
        self._call("put_pickled", pickle.dumps(item, protocol=5), block, timeout)

    def put_nowait(self, item: object) -> None:
        """As ``queue.Queue.put_nowait``. Raises: queue.Full."""
        self.put(item, False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """As ``queue.Queue.get``. Raises: queue.Empty."""
        return self._call("get", block, timeout)

    def get_nowait(self) -> Any:
        """As ``queue.Queue.get_nowait``. Raises: queue.Empty."""
        return self.get(False)

    def qsize(self) -> int:
        """How many items are in the queue now."""
        return int(self._call("qsize"))

    def empty(self) -> bool:
        """Whether it is empty now."""
        return bool(self._call("empty"))

    def full(self) -> bool:
        """Whether ``MULTIHOST_QUEUE_SIZE`` items are in it now."""
        return bool(self._call("full"))

    def task_done(self) -> None:
        """As ``queue.Queue.task_done``. Raises: ValueError: called more often than ``put``."""
        self._call("task_done")

    def join(self) -> None:
        """Wait until ``task_done`` was called for every item."""
        self._call("join")

    def _call(self, method: str, *args: object) -> Any:
        call: Callable[..., Any] = self._callmethod
        return call(method, args)

    def _connect(self) -> None:
        connect: Callable[[], None] = super()._connect  # type: ignore[misc]
        connect()
        # A get may wait for hours: have the kernel notice when the master's host is gone.
        connection = self._tls.connection  # type: ignore[attr-defined]
        with socket.socket(fileno=os.dup(connection.fileno())) as sock:
            sockets.configure(sock)


class QueueManager(BaseManager):
    """The manager on both sides: ``get_server().serve_forever()`` in a master, ``connect()`` in its clients.

    Every registered name is a shared queue that lives in the master; ``get_task_queue`` and ``get_result_queue`` are
    there from the start. ``register`` on a subclass adds more, on both sides.

    Args:
        address: ``(host, port)``: where the server listens (port 0: any free one), or is to be found.
        authkey: the key that both sides must know; None: that of the current process.
        settings: for the server; None: the defaults.
    """

    get_task_queue: Callable[[], QueueProxy]
    get_result_queue: Callable[[], QueueProxy]

    def __init__(
        self,
        address: tuple[str, int] | None = None,
        authkey: bytes | None = None,
        settings: Settings | None = None,
        **options: Any,
    ) -> None:
        super().__init__(address, authkey, **options)
        self._settings = settings

    @classmethod
    def register(  # type: ignore[override]  # a queue needs neither a callable nor a proxy type
        cls, typeid: str, callable: Callable[..., object] | None = None
    ) -> None:
        """Name one more shared queue.

        Raises: TypeError: a ``callable`` was given; nothing a program brings can run in the master.
        """
        if callable is not None:
            raise TypeError(
                f"register({typeid!r}, callable=...): a queue of multihost lives in the master, where no code of "
                "yours runs; leave the callable out"
            )
        super().register(typeid, proxytype=QueueProxy, exposed=QueueProxy._exposed_)

    def get_server(self) -> "Server":  # type: ignore[override]
        """A server that listens on the manager's address; its ``serve_forever`` runs until its ``stop``."""
        if self._state.value != State.INITIAL:  # type: ignore[attr-defined]
            raise ProcessError("this manager has been started, connected or shut down; a server needs a new one")
        return _make_server(self._registry, self._address, self._authkey, "pickle", self._settings)  # type: ignore[attr-defined]


def _make_server(
    registry: dict[str, object],
    address: tuple[str, int] | None,
    authkey: bytes,
    serializer: str,
    settings: Settings | None = None,
) -> "Server":
    from multihost.broker.service import (
        make_server,
    )  # asyncio and the broker, which a mere client does not need

    return make_server(Address(*(address or ("127.0.0.1", 0))), bytes(authkey), settings, list(registry))


QueueManager._Server = staticmethod(_make_server)  # type: ignore[attr-defined]  # what BaseManager.start() runs
QueueManager.register("get_task_queue")
QueueManager.register("get_result_queue")
