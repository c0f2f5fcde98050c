"""RQ on Redis: one worker program for each worker, with its defaults, so a process is forked for each job."""

import os
from collections.abc import Sequence
from typing import Any

from redis import Redis
from rq import Queue

import processes
import programs
from peers.redis_queue import URL, server_pid
from system import Function, System

_TIMEOUT_SECONDS = 600


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._server = server_pid()
        self._queue = Queue("bench", connection=Redis.from_url(URL))
        command = ["-m", "rq.cli", "worker", "--url", URL, "--logging_level", "ERROR", "bench"]
        self._programs = [programs.start_python(command) for _ in range(workers)]

    def submit(self, function: Function, *args: Any) -> Any:
        return self._queue.enqueue(function, *args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        results = []
        for handle in handles:
            result = handle.latest_result(timeout=_TIMEOUT_SECONDS)
            if result.exc_string:
                raise RuntimeError(result.exc_string[-300:])
            results.append(result.return_value)
        return results

    def roles(self) -> dict[str, list[int]]:
        workers = [pid for p in self._programs for pid in (p.pid, *processes.descendants(p.pid))]
        return {"client": [os.getpid()], "master": [self._server], "workers": workers}

    def close(self) -> None:
        programs.stop(self._programs)
