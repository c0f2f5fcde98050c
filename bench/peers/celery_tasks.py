"""Celery on Redis: its prefork worker with its defaults, results in Redis, too."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from celery import group

import processes
import programs
from peers.celery_app import call
from peers.redis_queue import server_pid
from system import Function, Lacking, System


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._server = server_pid()
        options = ["--concurrency", str(workers), "--loglevel", "ERROR"]
        command = ["-m", "celery", "--app", "peers.celery_app", "worker", *options]
        # As root it takes no pickles unless it is told to; these are our own.
        self._worker = programs.start_python(command, {"C_FORCE_ROOT": "1"})
        call.apply_async((os.getpid, ())).get(timeout=60)  # its worker is up when this is done

    def submit(self, function: Function, *args: Any) -> Any:
        return call.apply_async((function, args))

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        if chunksize is None:
            raise Lacking("it has no chunks of its own choice")
        results: list[Any] = group(call.s(function, (item,)) for item in items).apply_async().get()
        return results

    def roles(self) -> dict[str, list[int]]:
        workers = [self._worker.pid, *processes.descendants(self._worker.pid)]
        return {"client": [os.getpid()], "master": [self._server], "workers": workers}

    def close(self) -> None:
        programs.stop([self._worker])
