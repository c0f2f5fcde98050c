"""What all systems share that have the API of ``multiprocessing.Pool``."""

from collections.abc import Iterable, Sequence
from typing import Any

from system import Function, System


class PoolSystem(System):
    """A system whose ``pool`` is set by its subclass."""

    pool: Any

    def submit(self, function: Function, *args: Any) -> Any:
        return self.pool.apply_async(function, args)

    def collect(self, handles: Sequence[Any]) -> list[Any]:
        return [handle.get() for handle in handles]

    def map(self, function: Function, items: Iterable[Any], chunksize: int | None) -> list[Any]:
        results: list[Any] = self.pool.map(function, items, chunksize=chunksize)
        return results

    def close(self) -> None:
        self.pool.terminate()
        self.pool.join()
