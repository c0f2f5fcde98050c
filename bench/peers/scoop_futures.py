"""SCOOP: ``scoop.futures``. Its client is itself one of the workers, and computes while it waits."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

from scoop import futures

import processes
from system import Function, Lacking, System


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def submit(self, function: Function, *args: Any) -> Any:
        if function.__name__ == "wait_at_gate":
            raise Lacking("its client is one of its workers, so no task waits while all are busy")
        return futures.submit(function, *args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        if chunksize is None:
            raise Lacking("its map makes a task of each item")
        return list(futures.map(function, items))

    def roles(self) -> dict[str, list[int]]:
        others = [pid for pid in processes.descendants(os.getppid()) if pid != os.getpid()]
        brokers = [pid for pid in others if "scoop.broker" in processes.command(pid)]
        return {"client": [os.getpid()], "master": brokers, "workers": [p for p in others if p not in brokers]}

    def close(self) -> None:
        """It ends with its program."""
