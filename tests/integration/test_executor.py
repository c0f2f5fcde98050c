"""``Executor`` where it is more than the standard library's, or ends otherwise; tests/contract has what they share."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import pytest

import multihost
from tests.integration.cluster import Cluster, wait_until


def square(x: int) -> int:
    return x * x


def fail(text: str) -> None:
    raise ValueError(text)


def leave_a_mark(directory: str, name: str) -> str:
    Path(directory, name).touch()
    return name


def mark_and_wait(directory: str, name: str, go_on: str) -> str:
    """Leave a mark, and end when the file ``go_on`` is there."""
    leave_a_mark(directory, name)
    while not Path(directory, go_on).exists():
        time.sleep(0.005)
    return name


INITIALIZED: list[str] = []


def initialize(*names: str) -> None:
    INITIALIZED.extend(names)


def initialized(_: int) -> list[str]:
    return INITIALIZED


def kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def block(executor: futures.Executor, directory: Path) -> list["futures.Future[str]"]:
    """Two calls that occupy both processes until the file ``go`` is there."""
    blocking = [executor.submit(mark_and_wait, str(directory), f"busy-{n}", "go") for n in range(2)]
    wait_until(lambda: len(list(directory.glob("busy-*"))) == 2, "both processes were busy")
    return blocking


def test_our_executor_stays_usable_when_a_process_has_died(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker()
    with multihost.Executor(address=str(cluster.address), authkey=cluster.authkey) as executor:
        dead, alive = executor.submit(kill_oneself), executor.submit(square, 6)
        assert alive.result(30) == 36
        with pytest.raises(multihost.WorkerDied, match="SIGKILL") as caught:
            dead.result(60)
        assert len(caught.value.losses) == 3
        assert executor.submit(square, 7).result(30) == 49


def test_what_was_submitted_is_finished_at_the_interpreters_exit(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "forgetful.py"
    program.write_text(
        "import time, multihost\n"
        "def late(n):\n    time.sleep(0.2)\n    return n\n"
        "if __name__ == '__main__':\n"
        "    executor = multihost.Executor()\n"
        "    for n in range(4):\n"
        "        executor.submit(late, n).add_done_callback(lambda f: print('finished', f.result()))\n"
    )
    cluster.start_master()
    cluster.start_worker()
    output = cluster.run(program)
    assert sorted(output.split()) == sorted([*["finished"] * 4, *"0123"])


def test_an_initializer_is_called_once_in_each_process(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker()
    address, key = str(cluster.address), cluster.authkey
    with multihost.Executor(2, None, initialize, ("once",), address=address, authkey=key) as executor:
        assert set(map(tuple, executor.map(initialized, range(20)))) == {("once",)}
    with multihost.Pool(2, initialize, ["once"], address=address, authkey=key) as pool:
        assert set(map(tuple, pool.map(initialized, range(20)))) == {("once",)}


def test_what_an_initializer_raises_is_the_outcome_of_each_call(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker()
    address, key = str(cluster.address), cluster.authkey
    with multihost.Executor(2, initializer=fail, initargs=("not ready",), address=address, authkey=key) as executor:
        for future in [executor.submit(square, n) for n in range(3)]:
            with pytest.raises(ValueError, match="not ready"):
                future.result(30)


@pytest.mark.parametrize("kind", [multihost.Pool, multihost.Executor, futures.ProcessPoolExecutor])
def test_an_initializer_must_be_callable(kind: type) -> None:
    with pytest.raises(TypeError, match="initializer must be a callable"):
        kind(1, initializer=3)


def test_an_executor_needs_at_least_one_worker() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        multihost.Executor(0)


def test_a_forked_process_is_refused_and_ends_without_waiting(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "forks.py"
    program.write_text(
        "import os, sys, multihost\n"
        "def square(n):\n    return n * n\n"
        "if __name__ == '__main__':\n"
        "    with multihost.Executor() as executor, multihost.Pool() as pool:\n"
        "        pending = executor.submit(square, 5)\n"
        "        uses = (lambda: executor.submit(square, 1), lambda: executor.map(square, [1]),\n"
        "                lambda: pool.apply(square, (1,)), lambda: pool.map(square, [1]),\n"
        "                lambda: pool.imap(square, [1]))\n"
        "        for use in uses:\n"
        "            child = os.fork()\n"
        "            if child == 0:\n"
        "                try:\n"
        "                    use()\n"
        "                except multihost.ForkedClient as error:\n"
        "                    print('refused:', error)\n"
        "                sys.exit()\n"
        "            assert os.waitpid(child, 0)[1] == 0\n"
        "        print('parent', pending.result(), pool.apply(square, (6,)))\n"
    )
    cluster.start_master()
    cluster.start_worker()
    output = cluster.run(program)
    assert output.count("refused: process") == 5
    assert "parent 25 36" in output


# --- what both have in newer versions of Python than ours ---------------------------------------------------------


@pytest.fixture
def ours(cluster: Cluster) -> Iterator[multihost.Executor]:
    cluster.start_master()
    cluster.start_worker()
    with multihost.Executor(2, address=str(cluster.address), authkey=cluster.authkey) as executor:
        yield executor


def test_map_with_a_buffersize_submits_no_more_than_that_ahead(ours: multihost.Executor) -> None:
    numbers = itertools.count()
    results = ours.map(square, numbers, buffersize=3)
    assert next(numbers) == 3, "three were read"
    assert next(results) == 0
    assert next(numbers) == 5, "one more was"
    assert [next(results) for _ in range(3)] == [1, 4, 16]
    results.close()  # type: ignore[attr-defined]


def test_map_with_a_buffersize_of_chunks(ours: multihost.Executor) -> None:
    assert list(ours.map(square, range(100), buffersize=2, chunksize=7)) == [x * x for x in range(100)]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"chunksize": 0}, ValueError, "chunksize must be >= 1"),
        ({"buffersize": 0}, ValueError, "buffersize must be None or > 0"),
        ({"buffersize": "1"}, TypeError, "buffersize must be an integer or None"),
    ],
)
def test_wrong_arguments_of_map_are_errors_at_once(
    ours: multihost.Executor, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        ours.map(square, [1], **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be greater than 0"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be >= 1"),
        ({"max_tasks_per_child": "1"}, TypeError, "max_tasks_per_child must be an integer"),
    ],
)
@pytest.mark.parametrize("kind", [multihost.Executor, futures.ProcessPoolExecutor])
def test_wrong_arguments_are_the_standard_librarys_errors(
    kind: Any, arguments: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        kind(**arguments)


def test_terminate_workers_ends_every_call(ours: multihost.Executor, tmp_path: Path) -> None:
    submitted: list[futures.Future[Any]] = [*block(ours, tmp_path), *(ours.submit(square, n) for n in range(10))]
    ours.terminate_workers()
    assert futures.wait(submitted, timeout=30).not_done == set()
    assert all(future.cancelled() for future in submitted)
    with pytest.raises(RuntimeError, match="after shutdown"):
        ours.submit(square, 1)
    ours.kill_workers()


# --- map of both -------------------------------------------------------------------------------------------------


# --- futures -------------------------------------------------------------------------------------------------------


def test_a_call_that_could_not_be_cancelled_is_known_to_run(ours: multihost.Executor, tmp_path: Path) -> None:
    blocking = block(ours, tmp_path)
    assert not blocking[0].running(), "nobody has asked"
    assert not blocking[0].cancel()
    assert blocking[0].running()
    (tmp_path / "go").touch()
    blocking[0].result(30)
    assert not blocking[0].running()


def test_a_running_call_can_be_terminated(ours: multihost.Executor, tmp_path: Path) -> None:
    running, other = block(ours, tmp_path)
    seen: list[bool] = []
    running.add_done_callback(lambda future: seen.append(future.cancelled()))
    assert isinstance(running, multihost.Future)
    assert not running.cancel()
    assert running.terminate()
    assert seen == [True]
    with pytest.raises(futures.CancelledError):
        running.result(30)
    (tmp_path / "go").touch()
    assert isinstance(other, multihost.Future)
    assert other.result(30) == "busy-1"
    assert not other.terminate()
    assert ours.submit(square, 3).result(30) == 9


def test_a_coroutine_awaits_calls(ours: multihost.Executor) -> None:
    async def main() -> list[int]:
        first = await ours.submit(square, 3)
        with pytest.raises(ValueError, match="told so"):
            await ours.submit(fail, "told so")
        return [first, *await asyncio.gather(*(asyncio.wrap_future(ours.submit(square, n)) for n in range(3)))]

    assert asyncio.run(main()) == [9, 0, 1, 4]


def test_a_coroutine_that_is_cancelled_cancels_its_call(ours: multihost.Executor, tmp_path: Path) -> None:
    blocking = block(ours, tmp_path)
    queued = [ours.submit(square, n) for n in range(20)]

    async def wait() -> int:
        return await queued[-1]

    async def main() -> None:
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    asyncio.run(main())
    wait_until(queued[-1].cancelled, "the call was cancelled")
    (tmp_path / "go").touch()
    futures.wait(blocking, timeout=30)


# --- options, and the end ------------------------------------------------------------------------------------------


def test_an_executor_with_options_is_the_same_executor(ours: multihost.Executor) -> None:
    derived = ours.options(name="mine", priority=1)
    assert isinstance(derived, multihost.Executor)
    assert derived.submit(square, 3).result(30) == 9
    assert list(derived.map(square, range(5), chunksize=2)) == [0, 1, 4, 9, 16]
    derived.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        ours.submit(square, 3)


def test_an_executor_that_is_dropped_finishes_its_calls_and_ends(cluster: Cluster) -> None:
    cluster.start_master()
    cluster.start_worker()
    executor = multihost.Executor(address=str(cluster.address), authkey=cluster.authkey)
    submitted = [executor.submit(square, n) for n in range(50)]
    del executor
    assert [future.result(30) for future in submitted] == [n * n for n in range(50)]
    del submitted
    cluster.wait_for(sessions=0)


def test_shutdown_in_a_callback_is_refused_and_does_not_hang(ours: multihost.Executor) -> None:
    errors: list[BaseException] = []

    def stop(_: object) -> None:
        try:
            ours.shutdown()
        except RuntimeError as error:
            errors.append(error)

    ours.submit(square, 1).add_done_callback(stop)
    wait_until(lambda: errors, "it was refused")


def test_other_libraries_find_the_number_of_slots(ours: multihost.Executor) -> None:
    assert ours._max_workers == 2
