"""Tasks that submit tasks and wait for them, to any depth, on two slots: without a deadlock, and without the key."""

import asyncio
import contextlib
import os
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import pytest

import multihost
from multihost.client.monitor import ask_statistics
from tests.integration.cluster import Cluster, wait_until


def fibonacci(n: int) -> int:
    if n < 2:
        return n
    with multihost.Pool() as pool:
        return sum(pool.map(fibonacci, [n - 1, n - 2]))


def quicksort(items: list[int]) -> list[int]:
    if len(items) <= 8:
        return sorted(items)
    pivot, *rest = items
    with multihost.Executor() as executor:
        low = executor.submit(quicksort, [item for item in rest if item < pivot])
        high = executor.submit(quicksort, [item for item in rest if item >= pivot])
        return [*low.result(), pivot, *high.result()]


def leaves(depth: int, width: int) -> int:
    """The leaves of a tree, counted by one task a node; the results are taken as they come."""
    if not depth:
        return 1
    with multihost.Executor(max_workers=1) as executor:
        futures = [executor.submit(leaves, depth - 1, width) for _ in range(width)]
        return sum(future.result() for future in as_completed(futures))


async def gathered(depth: int) -> int:
    if not depth:
        return 1
    this: Any = gathered  # whose result is that of its coroutine
    with multihost.Executor() as executor:
        return sum(await asyncio.gather(*(executor.submit(this, depth - 1) for _ in range(2))))


def fails_below(depth: int) -> None:
    if not depth:
        raise LookupError("at the bottom")
    with multihost.Pool() as pool:
        pool.apply(fails_below, (depth - 1,))


def mark(directory: str, name: str) -> str:
    Path(directory, name).touch()
    return name


def wait_for(directory: str, name: str) -> str:
    path = Path(directory, name)
    wait_until(path.exists, f"{name} was there")
    return name


def parent_of_one_that_waits(directory: str) -> str:
    with multihost.Executor() as executor:
        child = executor.submit(wait_for, directory, "go")
        mark(directory, f"parent-{os.getpid()}")
        return child.result()


GREETING = ""


def greet_with(greeting: str) -> None:
    global GREETING
    GREETING = greeting


def greeting(_: object = None) -> str:
    return GREETING


def greetings() -> list[str]:
    """That of this process, that of a task of ours, and that of a task whose processes were greeted otherwise."""
    with multihost.Pool() as pool, multihost.Pool(initializer=greet_with, initargs=("servus",)) as other:
        return [GREETING, pool.apply(greeting), other.apply(greeting)]


def endless_sum(count: int) -> int:
    with multihost.Pool() as pool:
        return sum(value for _, value in zip(range(count), pool.imap(abs, iter(int, 1), chunksize=7), strict=False))


def secrets_of_this_process() -> list[str]:
    """What here could be used to reach the master without the worker."""
    with multihost.Pool() as pool:
        pool.apply(abs, (1,))
        inodes = set()
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                inodes.add(os.readlink(f"/proc/self/fd/{name}").removeprefix("socket:[").removesuffix("]"))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        return [name for name in os.environ if "AUTHKEY" in name] + [row[1] for row in rows if row[9] in inodes]


@pytest.fixture
def executor(shared_cluster: Cluster) -> Any:
    with multihost.Executor(address=str(shared_cluster.address), authkey=shared_cluster.authkey) as executor:
        yield executor


def test_recursive_fibonacci(pool: multihost.Pool) -> None:
    assert pool.apply_async(fibonacci, (9,)).get(60) == 34


def test_parallel_quicksort(pool: multihost.Pool) -> None:
    items = [n * 7919 % 1009 for n in range(200)]
    assert pool.apply_async(quicksort, (items,)).get(60) == sorted(items)


def test_tree_of_five_levels_on_two_slots(executor: multihost.Executor) -> None:
    assert executor.submit(leaves, 5, 3).result(100) == 3**5


def test_several_trees_at_once_on_two_slots(executor: multihost.Executor) -> None:
    assert [future.result(100) for future in [executor.submit(leaves, 3, 2) for _ in range(6)]] == [8] * 6


def test_coroutines_wait_for_tasks_of_theirs(executor: multihost.Executor) -> None:
    assert executor.submit(gathered, 3).result(60) == 8  # type: ignore[comparison-overlap]


def test_what_a_nested_task_raises_arrives_as_itself(pool: multihost.Pool) -> None:
    with pytest.raises(LookupError, match="at the bottom") as caught:
        pool.apply(fails_below, (3,))
    assert str(caught.value.__cause__).count("fails_below") >= 1


def test_lambda_submits_lambdas(pool: multihost.Pool) -> None:
    def outer(n: int) -> list[int]:
        with multihost.Pool() as inner:
            return inner.map(lambda x: x * n, range(5))

    assert pool.apply(outer, (3,)) == [0, 3, 6, 9, 12]


def test_endless_input_in_a_task(pool: multihost.Pool) -> None:
    assert pool.apply_async(endless_sum, (2000,)).get(60) == 0


def test_nested_tasks_run_in_processes_with_the_same_initializer_or_their_own(shared_cluster: Cluster) -> None:
    where: dict[str, Any] = {"address": str(shared_cluster.address), "authkey": shared_cluster.authkey}
    with multihost.Pool(initializer=greet_with, initargs=("hello",), **where) as pool:
        assert pool.apply(greetings) == ["hello", "hello", "servus"]


def test_task_that_submits_tasks_has_neither_key_nor_connection(pool: multihost.Pool) -> None:
    assert pool.apply(secrets_of_this_process) == []


def test_tasks_of_a_task_that_dies_are_cancelled_and_run_anew_with_it(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    cluster.start_worker(slots=3)
    with multihost.Pool(address=str(cluster.address), authkey=cluster.authkey) as pool:
        result = pool.apply_async(parent_of_one_that_waits, (str(tmp_path),))
        (marked,) = wait_until(lambda: list(tmp_path.glob("parent-*")), "the parent waited for its child")
        os.kill(int(marked.name.partition("-")[2]), 9)
        wait_until(lambda: len(list(tmp_path.glob("parent-*"))) == 2, "the parent ran again")
        assert ask_statistics(cluster.address, cluster.authkey.encode())["cancelled"] == 1
        mark(str(tmp_path), "go")
        assert result.get(30) == "go"


def test_nested_session_is_over_when_its_program_ends(cluster: Cluster, tmp_path: Path) -> None:
    cluster.start_master()
    cluster.start_worker(slots=3)
    with multihost.Pool(address=str(cluster.address), authkey=cluster.authkey) as pool:
        pool.apply_async(parent_of_one_that_waits, (str(tmp_path),))
        wait_until(lambda: list(tmp_path.glob("parent-*")), "the parent waited for its child")
    wait_until(
        lambda: ask_statistics(cluster.address, cluster.authkey.encode())["sessions"] == 0, "no session was left"
    )


def test_nested_tasks_in_a_cluster_of_this_machine() -> None:
    with multihost.Pool(2) as pool:
        assert pool.apply_async(fibonacci, (6,)).get(60) == 8
