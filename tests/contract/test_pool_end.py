"""How a pool ends: ``close``, ``terminate``, ``join`` in every order, and what becomes of calls that are left."""

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import multihost
from tests.contract import tasks
from tests.contract.conftest import Place
from tests.integration.cluster import wait_until

CALLS = ["apply", "apply_async", "map", "map_async", "starmap", "starmap_async", "imap", "imap_unordered"]
# Far below what the calls left would need, and far above what an end takes on a busy machine.
AT_ONCE = 30


def ends(function: Callable[[], object], seconds: float = AT_ONCE) -> bool:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


@pytest.mark.parametrize("end", ["close", "terminate"])
def test_an_ended_pool_takes_no_call_of_any_kind(make_pool: Callable[..., Any], end: str) -> None:
    pool = make_pool(1)
    getattr(pool, end)()
    for name in CALLS:
        with pytest.raises(ValueError, match=r"^Pool not running$"):
            getattr(pool, name)(tasks.square, [3])
    with pytest.raises(ValueError, match=r"^Pool not running$"):
        pool.__enter__()
    assert ends(pool.join)


@pytest.mark.parametrize("order", [["close", "close"], ["close", "terminate"], ["terminate", "terminate", "close"]])
def test_ends_may_follow_each_other(make_pool: Callable[..., Any], order: list[str]) -> None:
    pool = make_pool(1)
    assert pool.apply(tasks.square, (3,)) == 9
    for name in order:
        getattr(pool, name)()
    assert ends(pool.join)
    assert ends(pool.join)


def test_terminate_after_close_does_not_wait_for_what_is_left(make_pool: Callable[..., Any], place: Place) -> None:
    pool = make_pool(2)
    pool.map_async(tasks.mark_and_wait_at, [(place.task, f"mark-{n}") for n in range(500)], 1)
    wait_until(lambda: list(place.test.glob("mark-*")), "a call ran")
    pool.close()
    assert ends(pool.terminate)
    assert ends(pool.join)


def test_a_with_block_that_raises_ends_the_pool_and_hides_nothing(make_pool: Callable[..., Any], place: Place) -> None:
    pool = make_pool(2)
    pool.apply_async(tasks.mark_and_wait, (place.task, "begun"))
    with pytest.raises(ValueError, match="on purpose"), pool:
        tasks.fail()
    with pytest.raises(ValueError, match="Pool not running"):
        pool.apply(tasks.square, (3,))
    assert ends(pool.join)


def test_the_with_block_gives_the_pool_itself(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    with pool as entered:
        assert entered is pool


def test_what_was_accepted_before_close_is_finished(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    seen: list[Any] = []
    mapped = pool.map_async(tasks.square, range(500), 7, callback=seen.append)
    streamed = pool.imap_unordered(tasks.square, range(300), 3)
    single = pool.apply_async(tasks.fail)
    pool.close()
    assert ends(pool.join)
    assert mapped.get(0) == [n * n for n in range(500)]
    assert seen == [mapped.get(0)]
    assert sorted(streamed) == [n * n for n in range(300)]
    with pytest.raises(ValueError, match="on purpose"):
        single.get(0)


def test_results_that_are_not_there_at_terminate(make_pool: Callable[..., Any], is_ours: bool, place: Place) -> None:
    """The standard library's never come; ours end in an error, which wakes whoever waits."""
    pool = make_pool(1)
    running = pool.apply_async(tasks.mark_and_wait, (place.task, "begun"))
    queued = pool.apply_async(tasks.square, (3,))
    streamed = pool.imap(tasks.square, range(3))
    wait_until((place.test / "begun").exists, "the call ran")
    pool.terminate()
    pool.join()
    if is_ours:
        for result in (running, queued):
            with pytest.raises(multihost.ClientClosed):
                result.get(30)
        with pytest.raises(multihost.ClientClosed):
            streamed.next(30)
    else:
        for result in (running, queued):
            with pytest.raises(multiprocessing.TimeoutError):
                result.get(0.02)


def test_results_that_were_there_before_terminate_stay(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(1)
    result = pool.map_async(tasks.square, range(3))
    result.wait(30)
    pool.terminate()
    pool.join()
    assert result.get(0) == [0, 1, 4]


def test_terminate_while_another_thread_reads_an_input(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    reading = threading.Event()

    def numbers() -> Iterator[int]:
        for number in range(100_000):
            reading.set()
            yield number

    results = pool.imap_unordered(tasks.square, numbers())
    assert reading.wait(30)
    assert ends(pool.terminate)
    assert ends(pool.join)
    del results


def test_a_pool_that_has_done_nothing_ends(make_pool: Callable[..., Any]) -> None:
    pool = make_pool(2)
    pool.close()
    assert ends(pool.join)
    with make_pool(1):
        pass


def test_pools_live_side_by_side_and_one_after_the_other(make_pool: Callable[..., Any]) -> None:
    first, second = make_pool(1), make_pool(1)
    assert first.map(tasks.square, range(5)) == second.map(tasks.square, range(5))
    first.terminate()
    first.join()
    assert second.apply(tasks.square, (3,)) == 9
    assert make_pool(1).apply(tasks.square, (4,)) == 16


def test_a_pool_in_a_forked_process_is_refused_by_ours(make_pool: Callable[..., Any], is_ours: bool) -> None:
    """In the standard library's both processes would read from the same pipes."""
    if not is_ours:
        return
    pool = make_pool(1)
    assert pool.apply(tasks.square, (3,)) == 9
    fork = multiprocessing.get_context("fork")
    seen = fork.SimpleQueue()

    def use() -> None:
        try:
            pool.apply(tasks.square, (4,))
        except multihost.ForkedClient:
            seen.put("refused")
        pool.terminate()  # of the parent's it ends nothing

    forked = fork.Process(target=use)
    forked.start()
    forked.join(AT_ONCE)
    assert forked.exitcode == 0
    assert seen.get() == "refused"
    assert pool.apply(tasks.square, (5,)) == 25
