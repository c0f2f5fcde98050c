"""Many workers in one process, which run nothing: they answer each task with an empty result, at once.

    python bench/light.py WORKERS WINDOW

So a master can be given more workers than this machine has room for. The cluster is the one in the environment. Prints
a line when all have joined, and for each ``REPORT`` tasks one with the seconds since the first of them was granted.
"""

import contextlib
import os
import resource
import selectors
import sys
import threading
import time
from typing import Any

from multihost.payload import dumps
from multihost.settings import read_authkey, read_settings
from multihost.wire.connection import Connection, attach
from multihost.wire.messages import Message

REPORT = 10_000
_BEAT_SECONDS = 3.0
_RESULT = dumps(None)


class LightWorkers:
    """Connections to the master, as workers that hold at most ``window`` tasks each."""

    def __init__(self, count: int, window: int) -> None:
        self._window = window
        self._selector = selectors.DefaultSelector()
        self._limits: dict[Connection, int] = {}  # of the tasks that the master may have granted
        self._connections = [self._join(number) for number in range(count)]
        self._beat = time.monotonic()
        self._begun = 0.0
        self._settled = 0

    def run(self) -> None:
        """Answer whatever comes, until the master is gone."""
        while True:
            for key, _ in self._selector.select(_BEAT_SECONDS / 2):
                connection: Any = key.fileobj
                self._answer(connection)
            if time.monotonic() - self._beat > _BEAT_SECONDS:
                self._beat = time.monotonic()
                for connection in self._connections:
                    connection.send([("heartbeat",)])

    def _join(self, number: int) -> Connection:
        settings, authkey = read_settings(os.environ), read_authkey(os.environ)
        assert settings.address is not None
        info: dict[str, object] = {"worker": f"light-{number}", "name": "light", "slots": self._window}
        connection, _ = attach(settings.address, authkey, "worker", info, 10.0, threading.Event())
        connection.send([("want", self._window)])
        self._limits[connection] = self._window
        self._selector.register(connection, selectors.EVENT_READ)
        return connection

    def _answer(self, connection: Connection) -> None:
        outcomes = [
            (token, "result", _RESULT)
            for batch in connection.receive(0.0)
            if isinstance(batch, list)
            for message in batch
            if message[0] == "grant"
            for token, _ in message[-1]
        ]
        if outcomes:
            self._begun = self._begun or time.monotonic()
            self._limits[connection] += len(outcomes)
            answer: list[Message] = [("settle", outcomes), ("want", self._limits[connection])]
            connection.send(answer)
            self._count(len(outcomes))

    def _count(self, tasks: int) -> None:
        before, self._settled = self._settled, self._settled + tasks
        if self._settled // REPORT > before // REPORT:
            print(f"{self._settled} {time.monotonic() - self._begun}", flush=True)


def main() -> None:
    """Join, then serve."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    workers = LightWorkers(int(sys.argv[1]), int(sys.argv[2]))
    print("joined", flush=True)
    with contextlib.suppress(ConnectionError):  # the cluster was taken down
        workers.run()


if __name__ == "__main__":
    main()
