"""``delay`` and ``expires`` through the whole cluster."""

import time
from pathlib import Path

import pytest

import multihost
from tests.integration import tasks as common
from tests.integration.cluster import Cluster, wait_until


def test_delayed_calls_begin_together_when_their_delay_is_over(pool: multihost.Pool) -> None:
    """However many there are: the delay of a map is not that of each chunk."""
    begun = time.monotonic()
    delayed = pool.options(delay=1.0)
    result = delayed.map_async(common.square, range(200), chunksize=1)
    assert pool.apply(common.square, (3,)) == 9  # they hold no slot meanwhile
    assert result.get(30) == [x * x for x in range(200)]
    assert time.monotonic() - begun >= 1.0


def test_calls_that_no_worker_has_taken_expire_and_the_others_go_on(pool: multihost.Pool, tmp_path: Path) -> None:
    expiring = pool.options(expires=0.5)
    running = [pool.apply_async(common.mark_and_wait, (tmp_path, f"busy-{n}")) for n in range(2)]
    wait_until(lambda: len([*tmp_path.glob("busy*")]) == 2, "both slots are busy")
    waiting = [expiring.apply_async(common.mark_and_wait, (tmp_path, f"late-{n}")) for n in range(3)]
    for result in waiting:
        with pytest.raises(multihost.TaskExpired, match=r"0\.5 s") as caught:
            result.get(30)
        assert isinstance(caught.value, TimeoutError)
        assert "mark_and_wait" in caught.value.__notes__[0]
    (tmp_path / "go").touch()
    for result in running:
        result.get(30)
    assert not [*tmp_path.glob("late*")]


def test_executor_has_both(shared_cluster: Cluster) -> None:
    with multihost.Executor(address=str(shared_cluster.address), authkey=shared_cluster.authkey) as executor:
        begun = time.monotonic()
        future = executor.options(delay=0.5, expires=60).submit(common.square, 3)
        assert future.result(30) == 9
        assert time.monotonic() - begun >= 0.5
        with pytest.raises(ValueError, match="expires must be above delay"):
            executor.options(delay=5, expires=1)
