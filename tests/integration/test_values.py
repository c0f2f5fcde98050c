"""Large values that many calls share: how often they travel, and when they are let go of."""

import traceback
from collections.abc import Callable
from functools import partial

import pytest

import multihost
from multihost.client import session
from multihost.client.core import ClientCore
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


def test_a_value_that_the_calls_of_a_starmap_share_travels_twice(shared_cluster: Cluster) -> None:
    value = bytes(bytearray(2 * MEGABYTE))
    with shared_cluster.pool() as pool:
        told = pool.starmap(tasks.length_of, [(number, value) for number in range(40)], chunksize=4)
        assert told == [(len(value), number) for number in range(40)]
        assert pool.statistics().sent.bytes < 3 * len(value)


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
