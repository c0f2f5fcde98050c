"""``concurrent.futures.ProcessPoolExecutor``."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from system import Function, System


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._executor = ProcessPoolExecutor(workers)

    def submit(self, function: Function, *args: Any) -> Any:
        return self._executor.submit(function, *args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.result() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        chunks = {} if chunksize is None else {"chunksize": chunksize}
        return list(self._executor.map(function, items, **chunks))

    def close(self) -> None:
        self._executor.shutdown(cancel_futures=True)
