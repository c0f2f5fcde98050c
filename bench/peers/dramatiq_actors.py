"""Dramatiq on Redis: as many processes as workers, of one thread each, results in Redis, too."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import dramatiq

import processes
import programs
from peers.dramatiq_app import call
from peers.redis_queue import server_pid
from system import Function, Lacking, System

_TIMEOUT_MILLISECONDS = 600_000


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._server = server_pid()
        options = ["--processes", str(workers), "--threads", "1", "--use-spawn"]
        self._worker = programs.start_python(["-m", "dramatiq", "peers.dramatiq_app", *options])
        self.collect([self.submit(abs, -1)])  # its workers are up when this is done

    def submit(self, function: Function, *args: Any) -> Any:
        return call.send(function, args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get_result(block=True, timeout=_TIMEOUT_MILLISECONDS) for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        if chunksize is None:
            raise Lacking("it has no chunks of its own choice")
        group = dramatiq.group([call.message(function, (item,)) for item in items]).run()
        return list(group.get_results(block=True, timeout=_TIMEOUT_MILLISECONDS))

    def roles(self) -> dict[str, list[int]]:
        workers = [self._worker.pid, *processes.descendants(self._worker.pid)]
        return {"client": [os.getpid()], "master": [self._server], "workers": workers}

    def close(self) -> None:
        programs.stop([self._worker])
