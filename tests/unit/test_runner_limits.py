"""multihost/runner/core.py: chunks, cancelled tasks, timeouts, lifetimes, threads, and tasks that wait for tasks."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from multihost.errors import TaskOutOfMemory, TaskTimeout
from multihost.payload import load_error, load_part
from multihost.runner.events import Interrupt, Measured, Printed, RelayClosed, Relayed, RelayOpened, Started
from multihost.runner.limits import RETIRE_SECONDS, STOP_GRACE_SECONDS, TIMEOUT_GRACE_SECONDS
from tests.unit.runners import Runner

MakeRunner = Callable[..., Runner]
MILLISECOND = 0.001


@pytest.fixture
def make_runner() -> Iterator[MakeRunner]:
    """Makes a connected runner of some slots and threads; its invariants are checked after each event."""
    made: list[Runner] = []

    def make(slots: int = 1, threads: int = 1) -> Runner:
        made.append(Runner(slots, threads=threads))
        return made[-1]

    yield make
    for runner in made:
        runner._check()


@pytest.fixture
def runner(make_runner: MakeRunner) -> Runner:
    """One slot."""
    return make_runner()


def fill_pipe(runner: Runner, count: int) -> tuple[int, list[int]]:
    """Have a child of a runner with one slot hold ``count`` tasks; it, and their tokens."""
    for _ in range(60):
        runner.grant(1)
        runner.finish(runner.busy[0], seconds=MILLISECOND)
    runner.outbox.clear()
    runner.runs.clear()
    tokens = runner.grant(count)
    (child,) = runner.busy
    assert [token for token, _ in runner.processes[child].tasks] == tokens
    return child, tokens


def settled(runner: Runner) -> list[tuple[int, str, bytes]]:
    return [row for rows in runner.said("settle") for row in rows]


def error_of(row: tuple[int, str, bytes]) -> Any:
    return load_error(row[2])


# --- chunks ----------------------------------------------------------------------------------------------------------


def test_items_of_a_chunk_that_have_ended_are_told_at_once(runner: Runner) -> None:
    (token,) = runner.grant(1, chunk="map")
    runner.end_part(runner.busy[0], 3)
    assert runner.said("parts") == [[(token, 3, b"part")]]
    assert settled(runner) == []


def test_parts_of_what_is_no_chunk_are_made_up(runner: Runner) -> None:
    runner.grant(1)
    runner.end_part(runner.busy[0], 3)
    assert runner.said("parts") == []


def test_chunk_whose_child_dies_runs_again_behind_what_has_ended_item_by_item(runner: Runner) -> None:
    (token,) = runner.grant(1, chunk="map", done=2)
    runner.end_part(runner.busy[0], 3)
    runner.die(runner.busy[0])
    assert settled(runner) == []
    assert runner.runs[-1].options == {"chunk": "map", "done": 5, "careful": True}
    runner.end_part(runner.busy[0], 1)
    runner.die(runner.busy[0], "SIGSEGV")
    assert [row[:2] for row in settled(runner)] == [(token, "lost")]


def test_chunk_and_single_call_of_a_function_are_measured_apart(runner: Runner) -> None:
    fill_pipe(runner, 1)
    runner.finish(runner.busy[0], seconds=MILLISECOND)
    runner.grant(2, chunk="map")
    assert [len(process.tasks) for process in runner.processes.values()] == [1]


# --- cancelled tasks -------------------------------------------------------------------------------------------------


def test_cancelled_task_that_waits_is_dropped_without_a_word(runner: Runner) -> None:
    _, waiting = runner.grant(2)
    runner.stop(waiting)
    assert runner.interrupts == []
    runner.finish(runner.busy[0])
    assert runner.busy == []


def test_cancelled_task_that_runs_is_interrupted_and_its_outcome_is_of_no_interest(runner: Runner) -> None:
    (token,) = runner.grant(1)
    (child,) = runner.busy
    runner.stop(token)
    assert runner.interrupts == [Interrupt(child, token, None)]
    runner.finish(child, kind="error")
    assert settled(runner) == []
    assert runner.wanted == 1
    runner.tick(2 * STOP_GRACE_SECONDS)
    assert not runner.processes[child].condemned


def test_child_that_does_not_end_a_cancelled_task_is_killed_and_the_others_run_elsewhere(runner: Runner) -> None:
    child, tokens = fill_pipe(runner, 4)
    runner.stop(tokens[0])
    runner.tick(STOP_GRACE_SECONDS * 0.9)
    assert not runner.processes[child].condemned
    runner.tick(STOP_GRACE_SECONDS * 0.1)
    assert runner.processes[child].condemned
    runner.die(child)
    assert settled(runner) == []
    assert child not in runner.busy
    while runner.busy:
        runner.finish(runner.busy[0])
    assert [token for token, _, _ in settled(runner)] == tokens[1:]


def test_innocent_task_before_a_cancelled_one_is_left_alone(runner: Runner) -> None:
    child, tokens = fill_pipe(runner, 3)
    runner.stop(tokens[1])
    runner.tick(STOP_GRACE_SECONDS)
    assert not runner.processes[child].condemned
    runner.finish(child, 3, seconds=MILLISECOND)
    assert [token for token, _, _ in settled(runner)] == [tokens[0], tokens[2]]


def test_death_by_a_cancelled_task_is_blamed_on_nobody(runner: Runner) -> None:
    child, tokens = fill_pipe(runner, 3)
    runner.stop(tokens[0])
    runner.die(child)
    assert settled(runner) == []
    assert runner.runs[-1].options == {}


# --- timeouts --------------------------------------------------------------------------------------------------------


def test_time_of_a_task_counts_from_the_call_of_its_function(runner: Runner) -> None:
    runner.grant(1, timeout=5.0)
    (child,) = runner.busy
    runner.tick(100.0)
    assert runner.interrupts == []
    runner.start_function(child)
    runner.tick(4.9)
    assert runner.interrupts == []
    runner.tick(0.2)
    assert [interrupt.seconds for interrupt in runner.interrupts] == [5.0]
    runner.finish(child, kind="error")
    assert [row[1] for row in settled(runner)] == ["error"]
    runner.tick(TIMEOUT_GRACE_SECONDS)
    assert child in runner.idle


def test_task_with_a_timeout_has_nothing_behind_it_that_would_die_with_it(runner: Runner) -> None:
    fill_pipe(runner, 1)
    runner.finish(runner.busy[0], seconds=MILLISECOND)
    runner.grant(3, timeout=5.0)
    assert [len(process.tasks) for process in runner.processes.values()] == [1]


@pytest.mark.parametrize(("retry", "kind"), [(False, "error"), (True, "retry")])
def test_task_that_goes_on_after_its_timeout_is_killed_and_fails(runner: Runner, retry: bool, kind: str) -> None:
    (token,) = runner.grant(1, timeout=5.0)
    (child,) = runner.busy
    runner.start_function(child, retry)
    runner.tick(5.0)
    runner.tick(TIMEOUT_GRACE_SECONDS)
    assert runner.processes[child].condemned
    runner.die(child, stack="in line 7", printed=(token, "line 6"))
    (row,) = settled(runner)
    assert row[:2] == (token, kind)
    assert error_of(row).args == (5.0, "w1", True, "in line 7", "line 6")
    assert isinstance(error_of(row), TaskTimeout)


def test_task_that_ends_its_process_when_it_is_interrupted_fails_of_its_timeout(runner: Runner) -> None:
    runner.grant(1, timeout=5.0)
    runner.start_function(runner.busy[0])
    runner.tick(5.0)
    runner.die(runner.busy[0])
    (row,) = settled(runner)
    assert isinstance(error_of(row), TaskTimeout)


# --- lifetimes -------------------------------------------------------------------------------------------------------


def test_child_ends_after_so_many_tasks_and_another_takes_its_place(runner: Runner) -> None:
    runner.grant(5, lifetime=2)
    for _ in range(5):
        runner.finish(runner.busy[0])
    assert [run.child for run in runner.runs] == [1, 1, 2, 2, 3]
    assert runner.retired == [1, 2]
    runner.notes.clear()
    runner.die(1)
    assert runner.notes == []


def test_child_never_gets_more_tasks_than_it_has_left(runner: Runner) -> None:
    fill_pipe(runner, 1)
    runner.finish(runner.busy[0], seconds=MILLISECOND)
    runner.grant(5, "other", lifetime=3)
    assert [len(process.tasks) for process in runner.processes.values() if process.tasks] == [3]


def test_child_that_takes_too_long_to_end_is_killed(runner: Runner) -> None:
    runner.grant(1, lifetime=1)
    (child,) = runner.busy
    runner.finish(child)
    assert runner.core.next_deadline() == runner.now + RETIRE_SECONDS
    runner.tick(RETIRE_SECONDS)
    assert runner.killed == [child]
    assert runner.core.next_deadline() is None


# --- threads ---------------------------------------------------------------------------------------------------------


def test_each_child_runs_as_many_tasks_as_it_has_threads_the_children_alike(make_runner: MakeRunner) -> None:
    runner = make_runner(2, threads=3)
    assert runner.wanted == 6
    runner.grant(4)
    assert sorted(len(process.tasks) for process in runner.processes.values()) in ([1, 3], [2, 2])
    runner.grant(2)
    assert [len(process.tasks) for process in runner.processes.values()] == [3, 3]
    assert runner.wanted == 0


def test_death_of_a_child_with_several_tasks_is_blamed_on_the_one_that_kills_it_again(make_runner: MakeRunner) -> None:
    runner = make_runner(1, threads=3)
    tokens = runner.grant(3)
    runner.die(runner.busy[0])
    assert settled(runner) == []
    assert [len(process.tasks) for process in runner.processes.values()] == [1]
    runner.die(runner.busy[0])
    assert [row[:2] for row in settled(runner)] == [(tokens[0], "lost")]


def test_those_beside_a_task_that_is_killed_for_its_timeout_run_again(make_runner: MakeRunner) -> None:
    runner = make_runner(1, threads=3)
    (late,) = runner.grant(1, timeout=5.0)
    others = runner.grant(2)
    (child,) = runner.busy
    runner.start_function(child)
    runner.tick(5.0)
    runner.tick(TIMEOUT_GRACE_SECONDS)
    runner.die(child)
    assert [row[:2] for row in settled(runner)] == [(late, "error")]
    given_back = [token for tokens in runner.said("give_back") for token in tokens]
    running = [token for process in runner.processes.values() for token, _ in process.tasks]
    assert sorted(given_back + running) == others


# --- tasks that wait for tasks of theirs -----------------------------------------------------------------------------


def test_slot_of_a_child_that_waits_goes_to_another_one(runner: Runner) -> None:
    runner.grant(1)
    (waits,) = runner.busy
    runner.lend(waits)
    assert runner.wanted == 1
    (token,) = runner.grant(1)
    assert [process.tasks for process in runner.processes.values()][1] == [(token, b"")]
    runner.take_back(waits)
    assert len(runner.working) == 2
    runner.grant(1)
    runner.finish(waits)
    assert len(runner.working) == 1


def test_what_lay_behind_a_task_that_waits_runs_elsewhere(runner: Runner) -> None:
    child, tokens = fill_pipe(runner, 3)
    assert runner.lend(child) == tokens[1:]
    (other,) = runner.working
    assert [token for token, _ in runner.processes[other].tasks] == tokens[1:]


def test_channels_of_children_have_numbers_of_their_own_on_the_link(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    runner.grant(1, "a")
    runner.grant(1, "b")
    one, two = runner.busy
    for child in (one, two):
        runner.handle(RelayOpened(child, 1, {"name": child}))
    assert [message for message in runner.outbox if message[0] == "relay_open"] == [
        ("relay_open", 1, "a", {"name": one}),
        ("relay_open", 2, "b", {"name": two}),
    ]
    runner.receive(("relay_open", 2, {"known": False}), ("relay", 2, [("pong",)]), ("relay", 7, [("pong",)]))
    assert runner.processes[two].told == [("relay_open", 1, {"known": False}), ("relay", 1, [("pong",)])]
    assert runner.processes[one].told == []
    runner.handle(Relayed(two, 1, [("ping",)]))
    runner.handle(Relayed(two, 2, [("ping",)]))
    assert ("relay", 2, [("ping",)]) in runner.outbox
    assert len([message for message in runner.outbox if message[0] == "relay"]) == 1


def test_channels_end_with_their_child_or_before(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    runner.grant(2)
    one, two = runner.busy
    for child, channel in ((one, 1), (one, 2), (two, 1)):
        runner.handle(RelayOpened(child, channel, {}))
    runner.handle(RelayClosed(one, 1))
    runner.handle(RelayClosed(one, 1))
    assert runner.said("relay_close") == [1]
    runner.die(one)
    assert runner.said("relay_close") == [2]
    runner.receive(("forget", "s", []))
    assert runner.said("relay_close") == [3]


# --- output ----------------------------------------------------------------------------------------------------------


def test_what_a_task_prints_goes_to_the_master_with_its_token_while_it_has_the_lease(runner: Runner) -> None:
    (token,) = runner.grant(1)
    (child,) = runner.busy
    runner.handle(Printed(child, [(token, "one\n"), (token + 1, "made up\n")]))
    assert runner.said("output") == [[(token, "one\n")]]
    runner.stop(token)
    runner.handle(Printed(child, [(token, "two\n")]))
    assert runner.said("output") == []


# --- memory ----------------------------------------------------------------------------------------------------------

LIMIT = 1 << 30


def overeat(runner: Runner) -> int:
    """Have the child that is measured take more than its limit, and die of that; it."""
    (child,) = runner.core.to_measure()
    runner.handle(Measured(child, LIMIT))
    assert not runner.processes[child].condemned
    runner.handle(Measured(child, LIMIT + 1))
    assert runner.processes[child].condemned
    assert runner.core.to_measure() == []
    runner.handle(Measured(child, LIMIT + 1))
    runner.die(child)
    return child


@pytest.mark.parametrize("option", [{}, {"memory": 2 * LIMIT}])
def test_workers_limit_of_memory_holds_for_each_task(option: dict[str, Any]) -> None:
    runner = Runner(memory=LIMIT)
    assert runner.core.to_measure() == []
    (token,) = runner.grant(1, **option)
    overeat(runner)
    (row,) = settled(runner)
    assert row[:2] == (token, "error")
    assert isinstance(error_of(row), TaskOutOfMemory)
    assert error_of(row).args == (LIMIT, "w1", True, LIMIT + 1, "", "")


def test_only_children_whose_tasks_have_a_limit_are_measured(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    runner.grant(1)
    assert runner.core.to_measure() == []
    runner.grant(1, session="t", memory=LIMIT)
    (child,) = runner.core.to_measure()
    runner.handle(Measured(runner.busy[0], 2 * LIMIT))
    assert not runner.processes[runner.busy[0]].condemned
    runner.finish(child)
    assert runner.core.to_measure() == []
    runner.handle(Measured(child, 2 * LIMIT))
    runner.handle(Measured(99, 2 * LIMIT))
    assert not runner.processes[child].condemned


def test_task_that_took_too_much_is_tried_again_if_its_caller_wants_that(runner: Runner) -> None:
    (token,) = runner.grant(1, memory=LIMIT)
    runner.handle(Started(runner.busy[0], token, False, True))
    overeat(runner)
    assert [row[:2] for row in settled(runner)] == [(token, "retry")]


def test_task_that_ends_when_it_has_taken_too_much_has_ended_well(runner: Runner) -> None:
    (token,) = runner.grant(1, memory=LIMIT)
    child = runner.busy[0]
    runner.handle(Measured(child, LIMIT + 1))
    runner.finish(child)
    runner.die(child)
    assert [row[:2] for row in settled(runner)] == [(token, "result")]


def test_what_waits_behind_a_task_that_took_too_much_runs_elsewhere(runner: Runner) -> None:
    for _ in range(60):
        runner.grant(1, memory=LIMIT)
        runner.finish(runner.busy[0], seconds=MILLISECOND)
    tokens = runner.grant(3, memory=LIMIT)
    runner.outbox.clear()
    overeat(runner)
    assert [row[0] for row in settled(runner)] == tokens[:1]
    runner.finish(runner.busy[0], 2)
    assert [row[:2] for row in settled(runner)] == [(token, "result") for token in tokens[1:]]


def test_task_that_began_after_the_one_that_took_too_much_is_not_blamed(runner: Runner) -> None:
    for _ in range(60):
        runner.grant(1, memory=LIMIT)
        runner.finish(runner.busy[0], seconds=MILLISECOND)
    first, second = runner.grant(2, memory=LIMIT)
    runner.outbox.clear()
    (child,) = runner.busy
    runner.handle(Measured(child, LIMIT + 1))
    runner.finish(child)
    runner.die(child)
    assert [row[:2] for row in settled(runner)] == [(first, "result")]
    runner.finish(runner.busy[0])
    assert [row[:2] for row in settled(runner)] == [(second, "result")]


def test_item_that_took_too_much_is_given_up_when_it_has_run_apart(runner: Runner) -> None:
    (token,) = runner.grant(1, chunk="map", memory=LIMIT)
    runner.end_part(runner.busy[0], 2)
    overeat(runner)
    assert runner.runs[-1].options == {"chunk": "map", "memory": LIMIT, "done": 2, "careful": True}
    runner.end_part(runner.busy[0], 1)
    runner.outbox.clear()
    overeat(runner)
    ((row,),) = runner.said("parts")
    assert row[:2] == (token, 1)
    start, _, outcomes = load_part(row[2])
    assert (start, len(outcomes)) == (3, 1)
    assert isinstance(outcomes.errors[0], TaskOutOfMemory)
    assert runner.runs[-1].options["done"] == 4
    runner.finish(runner.busy[0])
    assert [row[:2] for row in settled(runner)] == [(token, "result")]


def test_tasks_beside_each_other_in_a_child_that_took_too_much_run_again_apart(make_runner: MakeRunner) -> None:
    runner = make_runner(1, threads=2)
    tokens = runner.grant(2, memory=LIMIT)
    overeat(runner)
    assert settled(runner) == []
    overeat(runner)
    assert [row[:2] for row in settled(runner)] == [(tokens[0], "error")]
    runner.finish(runner.busy[0])
    assert [row[:2] for row in settled(runner)] == [(tokens[1], "result")]


def test_cancelled_task_that_took_too_much_is_of_no_interest(runner: Runner) -> None:
    (token,) = runner.grant(1, memory=LIMIT)
    (child,) = runner.busy
    runner.handle(Measured(child, LIMIT + 1))
    runner.stop(token)
    runner.die(child)
    assert settled(runner) == []
    assert runner.busy == []
