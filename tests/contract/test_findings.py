"""A call that takes long, or waits for others, has nobody wait behind it while a process is free."""

import multiprocessing
from typing import Any

import pytest

from tests.contract import tasks
from tests.contract.conftest import Place


@pytest.mark.parametrize("before", [0, 500])
def test_no_call_waits_behind_one_that_takes_long_although_others_were_short(
    own_pool: Any, place: Place, before: int
) -> None:
    """The one that takes long waits for all the others, so if one of them waited for it, neither would ever end."""
    assert len(list(own_pool.imap_unordered(tasks.first_waits, [(place.task, 1)] * before))) == before
    results = own_pool.imap_unordered(tasks.first_waits, [(place.task, n) for n in range(60)])
    assert sorted(results.next(15) for _ in range(59)) == list(range(1, 60))
    (place.test / "go").touch()
    assert results.next(30) == 0


def test_no_submitted_call_waits_behind_one_that_takes_long(own_executor: Any, place: Place) -> None:
    short = [own_executor.submit(tasks.first_waits, (place.task, n)) for n in range(1, 200)]
    assert [future.result(30) for future in short] == list(range(1, 200))
    long, *rest = [own_executor.submit(tasks.first_waits, (place.task, n)) for n in range(60)]
    assert [future.result(15) for future in rest] == list(range(1, 60))
    (place.test / "go").touch()
    assert long.result(30) == 0


def test_the_unordered_twin_gives_what_is_ready(pool: Any, place: Place) -> None:
    results = pool.imap_unordered(tasks.first_waits, [(place.task, n) for n in range(6)])
    assert sorted(results.next(30) for _ in range(5)) == [1, 2, 3, 4, 5]
    with pytest.raises(multiprocessing.TimeoutError):
        results.next(0.02)
    (place.test / "go").touch()
    assert results.next(30) == 0
    with pytest.raises(StopIteration):
        results.next(30)
