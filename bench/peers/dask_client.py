"""Dask: ``distributed`` with a scheduler and workers of one thread each, as its command line starts them."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from distributed import Client

import processes
import programs
from system import Function, Lacking, System


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._directory = Path(tempfile.mkdtemp())
        file = str(self._directory / "scheduler.json")
        common = ["--scheduler-file", file, "--no-dashboard"]
        single = ["--nworkers", str(workers), "--nthreads", "1", "--local-directory", str(self._directory)]
        self._scheduler = programs.start_python(
            ["-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common]
        )
        self._worker = programs.start_python(["-m", "distributed.cli.dask_worker", *common, *single])
        programs.wait_until(Path(file).exists, "Dask's scheduler was up")
        self._client = Client(scheduler_file=file)
        self._client.wait_for_workers(workers)

    def submit(self, function: Function, *args: Any) -> Any:
        return self._client.submit(function, *args, pure=False)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        results: list[Any] = self._client.gather(list(handles))
        return results

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        if chunksize is None:
            raise Lacking("its map makes a task of each item")
        return self.collect(self._client.map(function, list(items), pure=False))

    def roles(self) -> dict[str, list[int]]:
        workers = [self._worker.pid, *processes.descendants(self._worker.pid)]
        return {"client": [os.getpid()], "master": [self._scheduler.pid], "workers": workers}

    def close(self) -> None:
        self._client.close()
        programs.stop([self._worker, self._scheduler])
        shutil.rmtree(self._directory, ignore_errors=True)
