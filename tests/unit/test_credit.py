"""multihost/runner/credit.py: the limit that a worker tells its master."""

from collections.abc import Sequence

from multihost.runner.children import Child, Item
from multihost.runner.credit import Credit
from multihost.runner.durations import CHILD_SECONDS, HOLD_SECONDS, STUCK_SECONDS, Durations

F = "f"


def credit(slots: int = 2, seconds: float | None = None) -> Credit:
    """That of a worker whose tasks, if ``seconds`` are given, took so long until now."""
    durations = Durations()
    if seconds is not None:
        durations.note((F, False), seconds)
    return Credit(slots, 1, durations)


def child(number: int, *ends: float | None, lending: bool = False) -> Child:
    """One with tasks that are expected to end then."""
    made = Child(number, "session", (), None, lending=lending)
    for place, end in enumerate(ends):
        token = 10 * number + place
        made.running[token] = Item(token, "session", F, (), b"", {}, begun=True, end=end)
    return made


def limit(
    of: Credit, children: Sequence[Child] = (), queued: int = 0, resting: bool = False, now: float = 0.0
) -> int | None:
    return of.new_limit(children, queued, resting, now)


def test_a_worker_of_which_nothing_is_known_wants_a_task_for_each_slot_and_says_so_once() -> None:
    ours = credit()
    assert limit(ours) == 2
    assert limit(ours) is None


def test_the_limit_counts_what_came_and_what_is_on_its_way_is_not_asked_for_twice() -> None:
    ours = credit()
    assert limit(ours) == 2
    ours.granted(1)  # the other one is on its way
    assert limit(ours, [child(1, None)]) is None
    ours.granted(1)
    assert limit(ours, [child(1, None), child(2, None)]) is None
    assert limit(ours, [child(1, None)]) == 3


def test_a_new_connection_has_brought_nothing() -> None:
    ours = credit()
    limit(ours)
    ours.granted(2)
    ours.connected()
    assert limit(ours) == 2


def test_a_worker_that_rests_wants_no_more_than_it_was_granted() -> None:
    ours = credit()
    limit(ours)
    ours.granted(1)
    assert limit(ours, queued=1, resting=True) == 1


def test_of_short_tasks_as_many_are_wanted_as_the_holding_time_has_and_a_small_change_is_not_said() -> None:
    each = 40
    ours = credit(seconds=HOLD_SECONDS / each)
    assert limit(ours) == 2 * each
    ours.granted(2 * each)
    assert limit(ours, queued=2 * each - 5) is None
    assert limit(ours, queued=each) == 3 * each


def test_the_next_long_task_is_asked_for_when_the_one_that_runs_is_about_to_end() -> None:
    ours = credit(slots=1, seconds=1.0)
    limit(ours)
    ours.granted(1)
    running = [child(1, 1.0)]
    assert limit(ours, running, now=0.5) is None
    assert ours.review == 1.0 - HOLD_SECONDS
    assert limit(ours, running, now=ours.review) == 2
    ours.granted(1)
    assert limit(ours, running, queued=1, now=1.0 - HOLD_SECONDS / 2) is None
    assert ours.review == 1.0 - CHILD_SECONDS  # then the child is given what is queued
    assert limit(ours, running, queued=1, now=1.0) is None
    assert ours.review == 1.0 + STUCK_SECONDS


def test_nothing_is_reviewed_while_nothing_is_wanted() -> None:
    ours = credit(slots=1, seconds=1.0)
    limit(ours, [child(1, 1.0)])
    assert ours.review is not None
    ours.want_nothing()
    assert ours.review is None


def test_a_child_that_waits_for_its_own_tasks_takes_no_slot() -> None:
    assert limit(credit(), [child(1, None, lending=True)]) == 2
