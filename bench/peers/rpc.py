"""What the systems share that call one server directly and have no queue: the client has a thread for each of them."""

import subprocess
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import programs
import work
from system import Function, System

Call = Callable[[str, tuple[Any, ...]], Any]


def perform(name: str, args: tuple[Any, ...]) -> Any:
    """What the servers do: any function of ``work``."""
    return getattr(work, name)(*args)


class RemoteCalls(System):
    """A server for each worker, and for each server a thread that calls it."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        ports = [programs.free_port() for _ in range(workers)]
        command = ["-m", type(self).__module__]
        self._servers: list[subprocess.Popen[bytes]] = [programs.start_python([*command, str(port)]) for port in ports]
        self._own = threading.local()
        self._threads = ThreadPoolExecutor(workers, initializer=self._connect, initargs=(iter(ports),))

    @abstractmethod
    def connect(self, port: int) -> Call:
        """A way to call the server at ``port``, from this thread. Raises: OSError: it is not there yet."""

    def submit(self, function: Function, *args: Any) -> Future[Any]:
        return self._threads.submit(self._call, function.__name__, args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        programs.stop(self._servers)

    def _connect(self, ports: Any) -> None:
        port = next(ports)

        def reached() -> bool:
            try:
                self._own.call = self.connect(port)
            except OSError:
                return False
            return True

        programs.wait_until(reached, "a server answered")

    def _call(self, name: str, args: tuple[Any, ...]) -> Any:
        return self._own.call(name, args)
