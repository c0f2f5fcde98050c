"""Large values that many calls share: how often they travel, and when they are let go of."""

import os
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

import multihost
from multihost.client import session, values
from multihost.client.core import ClientCore
from multihost.client.values import AT_ONCE_BYTES
from multihost.payload import Places
from tests.integration import tasks
from tests.integration.cluster import Cluster, wait_until

MEGABYTE = 1024 * 1024


def test_one_large_function_after_another_is_let_go_of_by_master_worker_and_children(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ClientCore", partial(ClientCore, kept_bytes=0))  # but for the one used last
    cluster.start_master()
    cluster.start_worker(slots=1)
    pool = cluster.pool()
    pool.apply(tasks.square, (1,))
    before = cluster.statistics()["blobs"]
    for number in range(5):
        model = tasks.Model(bytes([number]) * 2 * MEGABYTE)
        # The release of the one before may come after the first call of this one.
        told = pool.map(partial(tasks.models, model), range(3), chunksize=1)
        assert {first for first, _ in told} == {number}
        assert max(held for _, held in told) <= 3
    wait_until(lambda: cluster.statistics()["blobs"] == before + 1, "only the last one is there")


class Refuses:
    def __call__(self, number: int) -> int:
        raise ValueError(f"{number} is no number")

    def __repr__(self) -> str:
        raise AssertionError("it may be large")


@pytest.mark.parametrize(
    ("function", "name"), [(Refuses(), "Refuses object"), (partial(Refuses.__call__, Refuses()), "Refuses.__call__")]
)
def test_error_names_what_a_partial_is_of_and_shows_nothing_that_it_holds(
    shared_cluster: Cluster, function: Callable[[int], int], name: str
) -> None:
    with shared_cluster.pool() as pool, pytest.raises(ValueError, match="1 is no number") as raised:
        pool.apply(function, (1,))
    assert f"({name}) on worker" in raised.value.__notes__[0]


@pytest.mark.parametrize("places", [{0: b""}, {1: b""}, {0: b"", 1: b""}, {"second": b""}], ids=str)
def test_a_value_that_many_calls_share_travels_twice_and_goes_with_them(
    shared_cluster: Cluster, places: Places
) -> None:
    value = bytes(bytearray(2 * MEGABYTE))
    before = shared_cluster.statistics()["blobs"]
    args = tuple(value if place in places else "small" for place in range(1 if "second" in places else 2))
    kwds = {"second": value} if "second" in places else {}
    with shared_cluster.pool() as pool:
        results = [pool.apply_async(tasks.length, args, {**kwds, "number": number}) for number in range(100, 150)]
        size = len(places) * len(value)
        assert [result.get(30) for result in results] == [(size, number) for number in range(100, 150)]
        assert pool.statistics().sent.bytes < 3 * size
        left = before + 2  # the program's sources, and the function
        wait_until(lambda: shared_cluster.statistics()["blobs"] <= left, "what was shared is gone")


def share_in_a_starmap(cluster: Cluster) -> None:
    """The value must leave this program once."""
    value = bytes(bytearray(8 * MEGABYTE))  # beside it, the tests' own source code travels
    with cluster.pool() as pool:
        told = pool.starmap(tasks.length_of, [(number, value) for number in range(40)], chunksize=4)
        assert told == [(len(value), number) for number in range(40)]
        assert pool.statistics().sent.bytes < 1.1 * len(value)


def test_a_value_that_the_calls_of_a_starmap_share_travels_once(shared_cluster: Cluster) -> None:
    share_in_a_starmap(shared_cluster)


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be shared from the second call on is shared from the first on, and whatever came before."""
    monkeypatch.setattr(values, "_ENOUGH", 1_000_000)
    monkeypatch.setattr(session, "ClientCore", partial(ClientCore, at_once_bytes=MEGABYTE))


def test_a_very_large_value_leaves_the_program_once(shared_cluster: Cluster) -> None:
    value = bytes(bytearray(AT_ONCE_BYTES))
    with shared_cluster.pool() as pool:
        results = [pool.apply_async(tasks.length, (value, None), {"number": number}) for number in range(100, 120)]
        assert [result.get(30) for result in results] == [(len(value), number) for number in range(100, 120)]
        assert pool.statistics().sent.bytes < 1.1 * len(value)


@pytest.mark.usefixtures("eager")
def test_very_large_values_that_are_equal_leave_the_program_once(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        results = [pool.apply_async(tasks.size, (bytes(bytearray(2 * MEGABYTE)),)) for _ in range(20)]
        assert [result.get(30) for result in results] == [2 * MEGABYTE] * 20
        assert pool.statistics().sent.bytes < 10 * MEGABYTE  # some of them may have ended before others began


@pytest.mark.usefixtures("eager")
def test_a_very_large_value_that_the_calls_of_a_starmap_share_travels_once(shared_cluster: Cluster) -> None:
    share_in_a_starmap(shared_cluster)


@pytest.mark.usefixtures("eager")
def test_a_call_that_cannot_be_pickled_takes_no_other_of_its_chunk_along_whatever_they_share(
    shared_cluster: Cluster, tmp_path: Path
) -> None:
    value, paths = bytes(MEGABYTE), [tmp_path / name for name in "abc"]
    rows = [(paths[0], value), (tasks.unpicklable_argument(), value), (paths[1], value), (paths[2], value)]
    with shared_cluster.pool() as pool:
        with pytest.raises(TypeError, match="pickle"):
            pool.starmap(tasks.write_length, rows, chunksize=4)
        assert [path.read_text() for path in paths] == [str(MEGABYTE)] * 3


@pytest.mark.usefixtures("eager")
def test_very_large_values_that_come_once_are_let_go_of_everywhere_when_their_tasks_have_ended(
    cluster: Cluster,
) -> None:
    size, calls, at_a_time = 4 * MEGABYTE, 50, 2
    cluster.start_master()
    worker = cluster.start_worker(slots=1)
    with cluster.pool() as pool:

        def run(count: int) -> list[int]:
            """Growing memory of the child, as the tasks see it."""
            seen: list[int] = []
            under_way: list[multihost.AsyncResult[int]] = []
            for number in range(count):
                under_way.append(pool.apply_async(tasks.resident_with, (number.to_bytes(4, "big") * (size // 4),)))
                if len(under_way) == at_a_time:
                    seen.append(under_way.pop(0).get(30))
            return seen + [result.get(30) for result in under_way]

        pids = [cluster.master.pid, worker.pid, os.getpid()]
        child = max(run(10))
        before = [tasks.resident_bytes(pid) for pid in pids]
        assert max(run(calls)) < child + 4 * size
        wait_until(lambda: cluster.statistics()["blobs"] <= 2, "they are gone")
        grown = [tasks.resident_bytes(pid) - then for pid, then in zip(pids, before, strict=True)]
        assert max(grown) < 6 * size, "of fifty"


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", ["lasting", "cluster"])
def test_tasks_that_share_a_very_large_value_go_on_after_the_master_was_killed(
    request: pytest.FixtureRequest, name: str
) -> None:
    found: Cluster = request.getfixturevalue(name)
    found.start_master()
    found.start_worker()
    value = bytes(bytearray(2 * MEGABYTE))
    with found.pool() as pool:
        results = [pool.apply_async(tasks.sleepy_length, (value, number)) for number in range(100)]
        for _ in range(2):
            wait_until(lambda: found.statistics()["done"] > 10, "some have ended")
            found.master.kill()
            found.start_master()
        assert [result.get(30) for result in results] == [(len(value), number) for number in range(100)]
        wait_until(lambda: found.statistics()["blobs"] <= 2, "what was shared is gone")


@pytest.mark.usefixtures("eager")
def test_what_is_too_large_is_told_of_as_arguments_or_function_whatever_is_shared(cluster: Cluster) -> None:
    cluster.start_master(MULTIHOST_MAX_PAYLOAD=str(2 * MEGABYTE))
    cluster.start_worker()
    closure = bytes(MEGABYTE // 2)
    with cluster.pool() as pool:
        for args in [(bytes(3 * MEGABYTE),), (bytes(MEGABYTE), bytes(bytearray(MEGABYTE)))]:
            with pytest.raises(multihost.TaskTooLarge, match="the arguments of a task") as raised:
                pool.apply(tasks.given, args)
            assert "could not send a call of given" in raised.value.__notes__[0]
        with pytest.raises(multihost.TaskTooLarge, match="a function"):
            pool.apply(partial(tasks.given, bytes(3 * MEGABYTE)), (bytes(MEGABYTE),))
        # Each may be sent, and not both as one.
        assert pool.apply(partial(tasks.length, closure), (bytes(2 * MEGABYTE - 1000),)) == (
            5 * MEGABYTE // 2 - 1000,
            0,
        )


def test_a_value_that_comes_once_travels_as_an_argument(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        pool.apply(tasks.square, (1,))
        before = shared_cluster.statistics()["blobs"]
        results = [pool.apply_async(tasks.size, (bytes([n]) * MEGABYTE,)) for n in range(5)]
        assert shared_cluster.statistics()["blobs"] <= before + 1
        assert [result.get(30) for result in results] == [MEGABYTE] * 5


def test_errors_and_explanations_are_those_of_the_function_itself(shared_cluster: Cluster) -> None:
    value = bytes(bytearray(MEGABYTE))
    with multihost.Executor(address=str(shared_cluster.address), authkey=shared_cluster.authkey) as executor:
        futures = [executor.submit(tasks.length, value, value, number=number) for number in (1, 13, 13)]
        errors = [future.exception(30) for future in futures[1:]]
        assert futures[0].result(30) == (2 * MEGABYTE, 1)
    for error in errors:
        assert str(error) == "13 is no number"
        assert error is not None
        assert "(length) on worker" in error.__notes__[0]
        remote = "".join(traceback.format_exception(error))
        assert 'raise ValueError(f"{number} is no number")' in remote
        assert "partial" not in remote
        assert "complete" not in remote


def test_a_coroutine_a_retry_and_a_task_s_own_pool_share_values(shared_cluster: Cluster) -> None:
    with shared_cluster.pool() as pool:
        assert pool.apply(share_in_a_task) == [(MEGABYTE, number) for number in range(6)]


async def _later(value: bytes, number: int) -> tuple[int, int]:
    return len(value), number


# As a pool sees it, whose calls give what the coroutine does.
length_later: Callable[..., tuple[int, int]] = _later  # type: ignore[assignment]


def share_in_a_task() -> list[tuple[int, int]]:
    value = bytes(MEGABYTE)
    with multihost.Pool() as pool:
        retrying = pool.options(retries=2, backoff=0.01, retry_for=(OSError,))
        results = [retrying.apply_async(length_later, (value,), {"number": number}) for number in range(6)]
        return [result.get() for result in results]
