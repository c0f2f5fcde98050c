"""A progress bar over a cluster's results: what tqdm.contrib.concurrent.process_map does, with a pool of ours."""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tqdm.auto import tqdm

import multihost

T = TypeVar("T")


def process_map(fn: Callable[..., T], *iterables: Sequence[object], chunksize: int = 1, **bar: Any) -> list[T]:
    """``list(map(fn, *iterables))`` on the cluster, with a bar; ``bar`` are arguments of tqdm.

    imap gives results in order and as they come, so wrapping it in tqdm is all there is to it.
    """
    items = list(zip(*iterables, strict=False))
    with multihost.Pool() as pool:
        results = pool.imap(functools.partial(_spread, fn), items, chunksize)
        return list(tqdm(results, total=len(items), **bar))


def _spread(fn: Callable[..., T], arguments: tuple[object, ...]) -> T:
    return fn(*arguments)


def checksum(text: str, times: int) -> int:
    """Some work."""
    return zlib.crc32(text.encode() * times)


def main() -> None:
    """Add up checksums, and show how far it is."""
    sums = process_map(checksum, "multihost", range(1, 10), desc="checksums", unit="letter")
    print(f"their sum is {sum(sums)}")


if __name__ == "__main__":
    main()
