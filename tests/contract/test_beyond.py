"""What the standard library has no word for: options, nested tasks, notes; in this machine and in containers."""

from collections.abc import Callable
from typing import Any

import pytest

import multihost
from tests.contract import tasks
from tests.contract.conftest import CONTAINERS, LOCAL, Place
from tests.integration.cluster import wait_until

pytestmark = pytest.mark.parametrize("kind", [LOCAL, CONTAINERS], indirect=True)


def test_tasks_submit_tasks_and_wait_for_them(make_pool: Callable[..., Any]) -> None:
    assert make_pool().apply_async(tasks.fibonacci, (8,)).get(100) == 21


def test_a_call_that_raises_is_made_again_as_often_as_its_options_say(pool: Any, place: Place) -> None:
    calls = pool.options(retries=2, retry_for=OSError, backoff=0.01)
    assert calls.apply(tasks.succeed_at, (place.task, "third", 3)) == 3
    with pytest.raises(ConnectionError, match="try 3"):
        calls.apply(tasks.succeed_at, (place.task, "never", 9))
    with pytest.raises(ValueError, match="on purpose"):
        calls.apply(tasks.fail)


def test_a_call_that_takes_too_long_is_stopped_and_its_neighbours_are_not(pool: Any, place: Place) -> None:
    neighbour = pool.apply_async(tasks.mark_and_wait, (place.task, "neighbour"))
    with pytest.raises(multihost.TaskTimeout) as caught:
        pool.options(timeout=0.3).apply(tasks.mark_and_wait, (place.task, "late", "never"))
    assert isinstance(caught.value, TimeoutError)
    (place.test / "go").touch()
    assert neighbour.get(30) == "neighbour"


def test_what_no_worker_can_do_waits_and_says_so(pool: Any, caplog: pytest.LogCaptureFixture) -> None:
    result = pool.options(labels="gpu").apply_async(tasks.square, (3,))
    wait_until(lambda: "MULTIHOST_LABELS=gpu" in caplog.text, "the program was told what is missing")
    assert not result.ready()
    assert result.cancel()


def test_an_error_says_which_task_it_was_where_and_what_it_printed(pool: Any) -> None:
    with pytest.raises(ValueError, match="on purpose") as caught:
        pool.apply(tasks.print_and_fail, ("a last word",))
    notes = "\n".join(caught.value.__notes__)
    assert "a last word" in notes
    assert "(print_and_fail) on worker " in notes
    assert "delivery 1" in notes


def test_a_higher_priority_overtakes(make_pool: Callable[..., Any], place: Place) -> None:
    pool = make_pool(1)
    running = pool.apply_async(tasks.mark_and_wait, (place.task, "running"))
    wait_until((place.test / "running").exists, "the only process was busy")
    low = [pool.apply_async(tasks.note_order, (place.task, f"low-{n}")) for n in range(3)]
    high = pool.options(priority=5).apply_async(tasks.note_order, (place.task, "high"))
    wait_until(lambda: high.explain().state == "queued", "the master has all of them")
    (place.test / "go").touch()
    for result in (running, *low, high):
        result.get(30)
    assert (place.test / "order").read_text().split() == ["high", "low-0", "low-1", "low-2"]
