"""Clients of the standard library in the test's own process, and connections for saying what no client would say."""

import os
import pickle
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Client, Connection
from multiprocessing.managers import BaseManager, dispatch  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any

from multihost.wire.messages import PROTOCOL_VERSION
from tests.integration.cluster import Cluster


class StockManager(BaseManager):
    """What a user of the standard library writes."""


StockManager.register("get_task_queue")
StockManager.register("get_result_queue")


def stock_queues(cluster: Cluster, authkey: str = "") -> tuple[Any, Any]:
    """The task queue and the result queue, as a stock client has them."""
    manager: Any = StockManager(cluster.address.pair, (authkey or cluster.authkey).encode())
    manager.connect()
    return manager.get_task_queue(), manager.get_result_queue()


@contextmanager
def authenticated(cluster: Cluster) -> Iterator[Connection]:
    """A connection whose handshake is done and on which nothing was asked yet."""
    with Client(cluster.address.pair, authkey=cluster.authkey.encode()) as connection:
        assert isinstance(connection, Connection)
        yield connection


def ask(connection: Connection, method: str, *args: object, ident: str | None = None) -> Any:
    """One request of the managers protocol. Raises what the master answers, or ``managers.RemoteError``."""
    return dispatch(connection, ident, method, args)


def link(connection: Connection, role: str, **info: object) -> Any:
    """Turn a connection into a link."""
    return ask(connection, "hello", role, {"version": PROTOCOL_VERSION, "python": "3.11", **info})


def is_closed(connection: Connection) -> bool:
    """Whether the other side has closed, after what it still had to say."""
    try:
        while connection.poll(0):
            connection.recv_bytes()
    except (EOFError, OSError):
        return True
    return False


class Bomb:
    """Creates the file ``path`` in whatever process unpickles it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.open, (str(self._path), os.O_CREAT | os.O_WRONLY)


def framed(content: bytes) -> bytes:
    return struct.pack("!i", len(content)) + content


def pickled(value: object) -> bytes:
    return pickle.dumps(value)
