"""What a type checker knows of a program that uses multihost; mypy checks it with all else, and nothing runs it."""

import asyncio
from collections.abc import Iterator
from typing import Any, assert_type

import multihost


def square(x: int) -> int:
    return x * x


def name_of(number: int, *, base: int = 10) -> str:
    return f"{number} in base {base}"


def pools(pool: multihost.Pool) -> None:
    assert_type(pool.apply(square, (3,)), int)
    assert_type(pool.apply_async(name_of, (3,), {"base": 2}).get(timeout=5), str)
    assert_type(pool.map(square, range(3)), list[int])
    assert_type(pool.map_async(square, [1], callback=lambda squares: print(squares[0].bit_length())).get(), list[int])
    assert_type(pool.starmap(name_of, [(1,), (2,)], progress=True), list[str])
    assert_type(pool.starmap_async(name_of, [(1,)]).get(), list[str])
    assert_type(next(pool.imap(square, iter([1]), 1, 10)), int)
    assert_type(list(pool.imap_unordered(square, [1], buffersize=2)), list[int])
    assert_type(pool.imap(name_of, [1]).next(timeout=1.0), str)
    with pool as entered:
        assert_type(entered, multihost.Pool)


def options(pool: multihost.Pool, executor: multihost.Executor) -> None:
    derived = pool.options(
        retries=3, retry_for=(OSError,), backoff=0.5, timeout=30, memory="2G", priority=5, name="x", labels="gpu"
    )
    assert_type(derived, multihost.Pool)
    assert_type(executor.options(labels={"gpu", "large"}, retry_for=OSError, timeout=None), multihost.Executor)
    pool.options(retry=3)  # type: ignore[call-arg]
    pool.options(retries="3")  # type: ignore[arg-type]


def executors(executor: multihost.Executor) -> None:
    future = executor.submit(name_of, 3, base=2)
    assert_type(future, multihost.Future[str])
    assert_type(future.result(), str)
    assert_type(executor.map(square, [1], chunksize=2, buffersize=3), Iterator[int])
    assert_type(executor.submit(square, 3).terminate(), bool)
    executor.submit(square, "3")  # type: ignore[arg-type]
    executor.submit(name_of, 3, bass=2)  # type: ignore[call-arg]


async def coroutines(executor: multihost.Executor) -> None:
    assert_type(await executor.submit(square, 3), int)
    assert_type(await asyncio.wrap_future(executor.submit(name_of, 3)), str)


def arguments(initializer: Any) -> None:
    multihost.Pool(2, initializer, (1,), 10, None, address="master:5000", authkey=b"key", task_output=False)
    multihost.Executor(2, None, initializer, (1,), max_tasks_per_child=10, address=("master", 5000))
