"""multihost/runner/core.py: which child runs what, how much a worker asks for, and how it leaves."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from multihost.deaths import Death
from multihost.runner.core import WARM_CHILDREN, RunnerCore
from multihost.runner.durations import CHILD_SECONDS, HOLD_SECONDS, MAX_HELD, STUCK_SECONDS
from multihost.runner.events import (
    ChildDied,
    Connected,
    Crowded,
    Disconnected,
    DrainAsked,
    Effect,
    Exit,
    Finished,
    Kill,
    Received,
    RelayOpened,
    Retire,
    Run,
    Send,
    Start,
    StartFailed,
    Tick,
)
from tests.unit.runners import DRAIN_TIMEOUT, Runner

MakeRunner = Callable[[int], Runner]
MILLISECOND = 0.001


@pytest.fixture
def make_runner() -> Iterator[MakeRunner]:
    """Makes a connected runner of some slots; its invariants are checked after each event and at the end."""
    made: list[Runner] = []

    def make(slots: int) -> Runner:
        made.append(Runner(slots))
        return made[-1]

    yield make
    for runner in made:
        runner._check()


@pytest.fixture
def runner(make_runner: MakeRunner) -> Runner:
    """Two slots."""
    return make_runner(2)


def measured(runner: Runner, seconds: float, function: str = "f") -> None:
    """Let ``runner`` learn that a function takes ``seconds``."""
    for _ in range(60):
        runner.grant(1, function=function)
        runner.finish(runner.busy[0], seconds=seconds)
    runner.outbox.clear()
    runner.runs.clear()


# --- running ---------------------------------------------------------------------------------------------------------


def test_task_is_run_at_once_in_a_child_of_its_own_session(runner: Runner) -> None:
    (token,) = runner.grant(1, needs=("archive",), payload=b"arguments")
    (run,) = runner.runs
    assert run == Run(run.child, "f", True, [(token, b"arguments")])
    assert runner.processes[run.child].needs == ("archive",)


def test_each_free_slot_gets_one_task_while_their_duration_is_unknown(make_runner: MakeRunner) -> None:
    runner = make_runner(4)
    runner.grant(3)
    assert [len(run.tasks) for run in runner.runs] == [1, 1, 1]
    assert len({run.child for run in runner.runs}) == 3


def test_no_more_children_work_than_there_are_slots_and_the_rest_waits_in_order(runner: Runner) -> None:
    tokens = runner.grant(5)
    assert len(runner.busy) == 2
    for token in tokens[2:]:
        child = runner.busy[0]
        runner.finish(child)
        assert runner.runs[-1].child == child
        assert [task for task, _ in runner.runs[-1].tasks] == [token]


def test_function_is_new_to_each_child_once(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    for function in ("f", "f", "g", "f"):
        runner.grant(1, function=function)
        runner.finish(runner.busy[0])
    assert [run.new for run in runner.runs] == [True, False, True, False]
    assert len(runner.started) == 1


def test_child_serves_one_session_and_one_state_of_its_code(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    for session, needs in (("a", ("one",)), ("b", ("one",)), ("a", ("two",)), ("a", ("one",))):
        runner.grant(1, session, needs=needs)
        runner.finish(runner.busy[0])
    children = [run.child for run in runner.runs]
    assert children[3] == children[0]
    assert len(set(children)) == 3


def test_outcomes_are_settled_as_they_come(runner: Runner) -> None:
    tokens = runner.grant(2)
    runner.finish(runner.busy[1], kind="error")
    assert runner.said("settle") == [[(tokens[1], "error", b"")]]


def test_tiny_tasks_go_to_a_child_in_batches_that_last_a_few_milliseconds(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, MILLISECOND)
    runner.grant(40)
    assert {len(run.tasks) for run in runner.runs} == {int(CHILD_SECONDS / MILLISECOND)}


def test_batch_does_not_take_the_share_of_another_slot(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, 0.000_01)
    runner.grant(10)
    assert [len(process.tasks) for process in runner.processes.values()] == [5, 5]


def test_pipe_of_a_busy_child_is_filled_again_when_it_is_half_empty(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    runner.grant(12)
    (child,) = runner.busy
    room = int(CHILD_SECONDS / MILLISECOND)
    assert len(runner.processes[child].tasks) == room
    runner.finish(child, count=room // 2 - 1, seconds=MILLISECOND)
    assert len(runner.processes[child].tasks) == room // 2 + 1
    runner.finish(child, seconds=MILLISECOND)
    assert len(runner.processes[child].tasks) == room // 2 + room


def test_batch_is_of_one_function(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND, "f")
    measured(runner, MILLISECOND, "g")
    f, g = runner.grant(6, function="f"), runner.grant(2, function="g")
    runner.finish(runner.busy[0], 2, seconds=MILLISECOND)
    runner.finish(runner.busy[0], 2, seconds=MILLISECOND)
    runs = [(run.function_id, [token for token, _ in run.tasks]) for run in runner.runs]
    assert runs == [("f", f[:4]), ("f", f[4:]), ("g", g)]


def test_idle_child_of_a_session_waits_for_a_slot_like_any_other(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    runner.grant(1, "other")
    runner.grant(2, "s")
    assert [runner.processes[child].session for child in runner.busy] == ["other"]


def test_slow_task_gets_nothing_behind_it_in_its_pipe(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, 1.0)
    runner.grant(3)
    assert [len(process.tasks) for process in runner.processes.values()] == [1]


def test_outcome_of_a_child_that_was_killed_meanwhile_is_not_settled(runner: Runner) -> None:
    (token,) = runner.grant(1)
    (child,) = runner.busy
    runner.receive(("forget", "s", []))
    assert runner.handle(Finished(child, [(token, "result", b"")], 1.0)) == []


def test_outcome_that_a_child_made_up_is_not_settled(runner: Runner) -> None:
    (token,) = runner.grant(1)
    (child,) = runner.busy
    runner.processes[child].tasks.clear()
    runner.handle(Finished(child, [(token + 1, "result", b"forged"), (token, "result", b"true")], 1.0))
    assert runner.said("settle") == [[(token, "result", b"true")]]


# --- how much to ask for ---------------------------------------------------------------------------------------------


def test_worker_asks_for_one_task_a_slot_while_durations_are_unknown(make_runner: MakeRunner) -> None:
    assert make_runner(8).said("want") == [8]


@pytest.mark.parametrize("seconds", [MILLISECOND, 0.004, HOLD_SECONDS / 2])
def test_worker_holds_what_its_slots_finish_in_the_holding_time(make_runner: MakeRunner, seconds: float) -> None:
    runner = make_runner(2)
    measured(runner, seconds)
    assert runner.core.held + runner.wanted == pytest.approx(2 * HOLD_SECONDS / seconds, rel=0.3)
    runner.grant(runner.wanted)
    assert runner.core.held * seconds / 2 == pytest.approx(HOLD_SECONDS, rel=0.3)


def test_worker_holds_a_bounded_number_of_the_tiniest_tasks(make_runner: MakeRunner) -> None:
    runner = make_runner(3)
    measured(runner, 0.0)
    assert runner.wanted <= 3 * MAX_HELD


@pytest.mark.parametrize("slots", [1, 2, 3, 8, 16, 64])
def test_slot_that_falls_free_is_announced_at_once_when_tasks_are_slow(make_runner: MakeRunner, slots: int) -> None:
    runner = make_runner(slots)
    runner.grant(slots)
    runner.said("want")
    runner.finish(runner.busy[0], seconds=10.0)
    assert len(runner.said("want")) == 1
    assert runner.wanted == 1


def test_unknown_function_beside_known_ones_is_asked_for_one_a_slot(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, MILLISECOND)
    assert runner.wanted > 10
    runner.grant(1, function="unknown")
    assert runner.wanted <= 1


def test_slowest_function_that_runs_says_how_much_is_held(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, 1.0, "slow")
    measured(runner, MILLISECOND, "quick")
    runner.grant(1, function="slow")
    runner.grant(1, function="quick")
    assert runner.wanted == 1, "one for the slot that is soon free, not what quick tasks alone would have it hold"


def test_small_changes_of_a_large_want_are_not_worth_a_message(make_runner: MakeRunner) -> None:
    runner = make_runner(4)
    measured(runner, MILLISECOND)
    runner.grant(runner.wanted)
    runner.outbox.clear()
    held, messages = runner.core.held, 0
    for _ in range(held):
        runner.finish(runner.busy[0], seconds=MILLISECOND)
        messages += len(runner.said("want"))
    assert 1 <= messages <= 8
    assert runner.wanted >= 0.7 * held


def test_nothing_is_said_while_nothing_changes(runner: Runner) -> None:
    runner.outbox.clear()
    for _ in range(5):
        runner.receive(("pong",))
        runner.tick(1.0)
    assert runner.outbox == []


def test_grant_that_was_asked_for_is_not_answered_by_another_want(make_runner: MakeRunner) -> None:
    runner = make_runner(3)
    runner.outbox.clear()
    for _ in range(3):
        runner.grant(1)
    assert runner.outbox == []


def test_the_next_task_is_asked_for_when_the_one_that_runs_is_about_to_end(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, 0.1)
    runner.grant(2)
    assert runner.wanted == 0
    runner.tick(0.1 - 2 * HOLD_SECONDS)
    assert runner.wanted == 0
    assert runner.core.next_deadline() == pytest.approx(runner.now + HOLD_SECONDS)
    runner.tick(HOLD_SECONDS * 1.01)
    assert runner.wanted == 2
    waiting = runner.grant(2)
    runner.tick(HOLD_SECONDS)
    for child in [*runner.busy]:
        runner.finish(child, seconds=0.1)
    assert [token for child in runner.busy for token, _ in runner.processes[child].tasks] == waiting
    assert runner.said("give_back") == []


def test_a_task_too_many_goes_back_and_the_next_ones_are_asked_for_in_time(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, 0.1)
    *_, excess = runner.grant(3)
    runner.tick(STUCK_SECONDS * 1.1)
    assert runner.said("give_back") == [[excess]]
    runner.tick(0.1 - STUCK_SECONDS * 1.1 - HOLD_SECONDS / 2)
    assert runner.wanted == 2


def test_slot_always_has_a_next_task_when_tasks_take_less_than_the_holding_time(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, HOLD_SECONDS * 0.9)
    assert runner.wanted == 2
    runner.grant(2)
    assert runner.wanted == 2


def test_no_next_task_is_asked_for_while_one_goes_on_for_longer_than_expected(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, 0.1)
    runner.grant(1)
    runner.tick(0.1)
    assert runner.wanted == 1
    runner.tick(STUCK_SECONDS * 0.9)
    assert runner.wanted == 1
    runner.tick(STUCK_SECONDS * 0.2)
    assert runner.wanted == 0
    assert runner.core.next_deadline() is None


def test_next_task_lies_in_the_childs_pipe_shortly_before_the_one_that_runs_ends(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, 0.1)
    (first,) = runner.grant(1)
    runner.tick(0.09)
    (second,) = runner.grant(1)
    (child,) = runner.busy
    assert [token for token, _ in runner.processes[child].tasks] == [first]
    assert runner.core.next_deadline() == pytest.approx(runner.now + 0.01 - CHILD_SECONDS)
    runner.tick(0.01 - CHILD_SECONDS * 0.99)
    assert [token for token, _ in runner.processes[child].tasks] == [first, second]


def test_next_task_of_one_that_goes_on_for_longer_is_given_back_once(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, 0.1)
    runner.grant(1)
    runner.tick(0.097)
    waiting = runner.grant(1)
    (child,) = runner.busy
    runner.tick(STUCK_SECONDS * 0.9)
    assert runner.recalled == []
    runner.tick(STUCK_SECONDS * 0.2)
    assert runner.recalled == [child]
    assert runner.wanted == 0
    assert runner.give_up(child) == waiting
    runner.tick(0.0)
    assert runner.said("give_back") == [waiting]
    runner.tick(1.0)
    assert runner.wanted == 0


@pytest.mark.parametrize("options", [{"timeout": 5.0}, {"careful": True}])
def test_nothing_is_put_behind_a_task_that_may_take_its_process_with_it(
    make_runner: MakeRunner, options: dict[str, Any]
) -> None:
    runner = make_runner(1)
    measured(runner, 0.1)
    runner.grant(1, **options)
    runner.grant(1)
    runner.tick(0.099)
    (child,) = runner.busy
    assert len(runner.processes[child].tasks) == 1


def one_of_two_is_stuck(runner: Runner) -> tuple[int, int]:
    """Two children have short tasks, and one does not end its first; it, and the other one."""
    measured(runner, MILLISECOND)
    runner.grant(8)
    stuck, other = runner.busy
    for _ in range(3):
        runner.tick(STUCK_SECONDS * 0.4)
        runner.finish(other, seconds=MILLISECOND)
    return stuck, other


def test_nothing_more_is_put_behind_a_task_that_takes_longer_than_expected(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    stuck, other = one_of_two_is_stuck(runner)
    runner.give_up(stuck)
    for _ in range(60):
        runner.grant(1)
        runner.finish(other, seconds=MILLISECOND)
    assert len(runner.processes[stuck].tasks) == 1


def test_drain_has_children_give_back_what_they_have_not_started(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    tokens = runner.grant(3)
    (child,) = runner.busy
    runner.drain()
    assert runner.recalled == [child]
    runner.give_up(child)
    assert runner.said("give_back") == [tokens[1:]]


# --- tasks stuck behind a long one -----------------------------------------------------------------------------------


def test_tasks_that_wait_too_long_behind_others_are_given_back_and_asked_for_no_more(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    tokens = runner.grant(20)
    waiting = tokens[len(runner.processes[runner.busy[0]].tasks) :]
    runner.tick(STUCK_SECONDS)
    assert runner.said("give_back") == []
    assert runner.core.impatient
    runner.tick(STUCK_SECONDS / 2)
    assert runner.said("give_back") == [waiting]
    assert runner.said("want")[-1:] in ([], [0])
    assert runner.wanted == 0
    (child,) = runner.busy
    assert runner.recalled == [child]
    recalled = runner.give_up(child)
    assert recalled == tokens[1 : len(recalled) + 1]
    runner.tick(0.0)
    assert runner.said("give_back") == [recalled]
    assert not runner.core.impatient


def test_what_lies_behind_a_long_task_is_recalled_while_others_make_progress(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    stuck, other = one_of_two_is_stuck(runner)
    assert runner.recalled == [stuck]
    recalled = runner.give_up(stuck)
    assert len(recalled) == 3
    runner.finish(other, seconds=MILLISECOND)
    assert [token for token, _ in runner.processes[other].tasks] == [recalled[0]], "the free slot goes on with them"
    assert len(runner.processes[stuck].tasks) == 1


def test_child_that_was_between_two_tasks_is_asked_again(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    runner.grant(4)
    (child,) = runner.busy
    runner.tick(STUCK_SECONDS * 1.1)
    runner.tick(STUCK_SECONDS * 0.5)
    assert runner.recalled == [child]
    runner.tick(STUCK_SECONDS)
    assert runner.recalled == [child, child]


def test_tasks_are_not_given_back_while_there_is_progress(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    runner.grant(20)
    for _ in range(10):
        runner.tick(STUCK_SECONDS * 0.9)
        runner.finish(runner.busy[0], seconds=MILLISECOND)
    assert runner.said("give_back") == []


def test_worker_that_was_idle_does_not_give_back_what_has_just_come(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    runner.tick(100.0)
    runner.grant(3)
    runner.tick(STUCK_SECONDS / 2)
    assert runner.said("give_back") == []


# --- children that die -----------------------------------------------------------------------------------------------


def losses(runner: Runner) -> list[tuple[int, Death]]:
    """The tasks that are told to be lost, and how their processes died."""
    rows = [row for rows in runner.said("settle") for row in rows]
    assert {kind for _, kind, _ in rows} <= {"lost"}
    return [(token, Death.decode(content.decode())) for token, _, content in rows]


def test_a_lost_task_takes_the_certificate_and_its_own_last_output_with_it(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    death = Death("its process was killed by SIGKILL", "host-1", "w1", "SIGKILL", oom=True, peak_bytes=5)
    (token,) = runner.grant(1)
    runner.die(runner.busy[0], printed=(token, "line 6"), death=death)
    assert losses(runner) == [(token, replace(death, output="line 6"))]
    (token,) = runner.grant(1)
    runner.die(runner.busy[0], printed=(token - 1, "of the task before"), death=death)
    assert losses(runner) == [(token, death)]


def test_a_child_that_dies_with_one_task_loses_it(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    (token,) = runner.grant(1)
    runner.die(runner.busy[0], "its process was killed by SIGSEGV")
    assert losses(runner) == [(token, Death("its process was killed by SIGSEGV", worker="w1"))]


def test_tasks_of_which_a_child_may_have_died_run_again_one_by_one_until_it_is_clear(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    tokens = runner.grant(12)
    runner.runs.clear()
    (child,) = runner.busy
    room = len(runner.processes[child].tasks)
    assert room > 1
    runner.die(child)
    assert runner.said("settle") == []
    assert runner.busy != [child]
    assert runner.runs[0].new
    runner.finish(runner.busy[0], seconds=MILLISECOND)
    runner.outbox.clear()
    runner.die(runner.busy[0], "its process was killed by SIGSEGV")
    assert losses(runner) == [(tokens[1], Death("its process was killed by SIGSEGV", worker="w1"))]
    for _ in range(room - 2):
        runner.finish(runner.busy[0], seconds=MILLISECOND)
    assert [token for run in runner.runs for token, _ in run.tasks][:room] == tokens[:room]
    assert [len(run.tasks) for run in runner.runs][:room] == [1] * room
    assert len(runner.runs[room].tasks) > 1


def test_master_hears_that_a_task_begins_that_is_to_run_apart_before_a_process_has_it() -> None:
    core = RunnerCore(1, 60.0)
    core.handle(Connected(True, {}), 1000.0)
    tasks = [(token, b"") for token in (1, 2)]
    effects = core.handle(Received([("grant", "s", "f", (), {"careful": True}, tasks)]), 1000.0)
    told = [effect for effect in effects if isinstance(effect, Run) or effect == Send(("begun", [1]))]
    assert [type(effect) for effect in told] == [Send, Run]
    assert Send(("begun", [2])) not in effects


def test_master_that_comes_back_hears_again_which_tasks_that_run_apart_have_begun(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    runner.connect(keeps=True)
    (suspect,) = runner.grant(1, careful=True)
    runner.grant(1)
    assert runner.said("begun") == [[suspect]]
    runner.handle(Disconnected())
    runner.connect(keeps=True)
    assert runner.said("begun") == [[suspect]]


def test_outcomes_that_came_before_a_death_stand(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    measured(runner, MILLISECOND)
    tokens = runner.grant(4)
    (child,) = runner.busy
    runner.finish(child, count=3, seconds=MILLISECOND)
    runner.outbox.clear()
    runner.die(child)
    ((row,),) = runner.said("settle")
    assert row[:2] == (tokens[3], "lost")


def test_death_of_an_idle_child_loses_nothing(runner: Runner) -> None:
    runner.grant(1)
    (child,) = runner.busy
    runner.finish(child)
    runner.outbox.clear()
    runner.die(child)
    assert runner.outbox == []
    assert runner.notes[-1].level == "warning"
    runner.grant(1)
    assert runner.runs[-1].new
    assert runner.runs[-1].child != child


def test_death_of_a_child_that_was_killed_on_purpose_is_no_news(runner: Runner) -> None:
    runner.grant(1)
    (child,) = runner.busy
    runner.receive(("forget", "s", []))
    assert runner.handle(ChildDied(child, "killed by SIGKILL")) == []


# --- sessions that end, masters that vanish --------------------------------------------------------------------------


def test_forgotten_session_is_killed_and_dropped_and_others_go_on(runner: Runner) -> None:
    runner.grant(5, "gone", "f", needs=("archive",))
    runner.finish(runner.busy[0])
    runner.grant(2, "stays", "g")
    killed = [child for child, process in runner.processes.items() if process.session == "gone"]
    runner.receive(("forget", "gone", ["archive", "f"]))
    assert sorted(runner.killed) == sorted(killed)
    assert runner.blobs == {"g"}
    assert set(runner.leases.values()) == {"stays"}
    assert len(runner.busy) == 2


def test_forgotten_function_is_measured_anew_when_it_comes_again(make_runner: MakeRunner) -> None:
    runner = make_runner(2)
    measured(runner, MILLISECOND)
    runner.receive(("forget", "s", ["f"]))
    runner.grant(8)
    assert [len(run.tasks) for run in runner.runs] == [1, 1]


def test_dropped_function_is_given_anew_to_a_child_that_had_it(runner: Runner) -> None:
    runner.grant(1)
    runner.grant(1, function="g")
    for child in runner.busy:
        runner.finish(child)
    runner.receive(("forget", "", ["f"]))
    assert (runner.blobs, runner.killed) == ({"g"}, [])
    assert {function for process in runner.processes.values() for function in process.functions} == {"g"}
    runner.grant(2)
    assert {run.new for run in runner.runs[-2:]} == {True}


def test_worker_that_lost_its_master_stops_and_forgets_all(runner: Runner) -> None:
    measured(runner, MILLISECOND)
    runner.grant(5)
    runner.disconnect()
    assert runner.core.held == 0
    assert runner.blobs == set()
    assert runner.processes == {}
    assert not runner.core.impatient
    runner.connect()
    assert runner.said("want") == [2]
    runner.grant(1)
    assert runner.runs[-1].new


def test_nothing_is_asked_for_before_there_is_a_connection() -> None:
    runner = Runner(2, connect=False)
    runner.tick(1.0)
    assert runner.outbox == []
    runner.connect()
    assert runner.said("want") == [2]


# --- warm children ---------------------------------------------------------------------------------------------------


def test_idle_children_are_kept_warm_and_the_longest_unused_makes_room(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    for number in range(WARM_CHILDREN + 2):
        runner.grant(1, f"session-{number}")
        runner.finish(runner.busy[0])
    assert runner.killed == runner.started[:2]
    assert len(runner.idle) == WARM_CHILDREN


def test_child_that_was_used_again_is_not_the_longest_unused(make_runner: MakeRunner) -> None:
    runner = make_runner(1)
    for session in ("a", "b", "c", "d", "a", "e"):
        runner.grant(1, session)
        runner.finish(runner.busy[0])
    assert runner.killed == [runner.started[1]]


def test_working_children_are_never_killed_to_make_room(make_runner: MakeRunner) -> None:
    runner = make_runner(8)
    for number in range(8):
        runner.grant(1, f"session-{number}")
    assert runner.killed == []
    assert len(runner.busy) == 8


# --- leaving ---------------------------------------------------------------------------------------------------------


def test_drain_gives_back_what_waits_finishes_what_runs_and_leaves_when_the_master_knows(runner: Runner) -> None:
    tokens = runner.grant(5)
    runner.outbox.clear()
    runner.drain()
    assert runner.outbox == [("drain",), ("give_back", tokens[2:])]
    runner.finish(runner.busy[0])
    runner.finish(runner.busy[0])
    assert runner.said("settle") == [[(tokens[0], "result", b"")], [(tokens[1], "result", b"")]]
    assert not runner.exited
    runner.receive(("draining",))
    assert runner.said("want") == []
    assert runner.exited


def test_grant_that_crosses_a_drain_is_given_back_unstarted(runner: Runner) -> None:
    runner.drain()
    runs = len(runner.runs)
    tokens = runner.grant(3)
    assert runner.said("give_back") == [tokens]
    assert len(runner.runs) == runs
    runner.receive(("draining",))
    assert runner.exited


def test_idle_worker_leaves_as_soon_as_its_drain_is_known(runner: Runner) -> None:
    runner.drain()
    assert not runner.exited
    runner.receive(("draining",))
    assert runner.exited


def test_worker_without_a_master_leaves_at_once() -> None:
    runner = Runner(2, connect=False)
    runner.drain()
    assert runner.exited


def test_worker_that_loses_its_master_while_it_drains_leaves(runner: Runner) -> None:
    runner.grant(2)
    runner.drain()
    runner.disconnect()
    assert runner.exited


def test_drain_that_takes_too_long_gives_back_what_runs_and_kills_it(runner: Runner) -> None:
    tokens = runner.grant(2)
    runner.drain()
    runner.receive(("draining",))
    assert runner.core.impatient
    runner.tick(DRAIN_TIMEOUT - 0.1)
    assert not runner.exited
    runner.outbox.clear()
    runner.tick(0.1)
    assert sorted(runner.said("give_back")[0]) == tokens
    assert len(runner.killed) == 2
    assert runner.exited


def test_second_drain_does_not_wait(runner: Runner) -> None:
    tokens = runner.grant(1)
    (child,) = runner.busy
    runner.drain()
    runner.outbox.clear()
    runner.drain()
    assert runner.said("give_back") == [tokens]
    assert runner.killed == [child]
    assert runner.exited


def test_task_that_is_given_back_was_stopped_before(runner: Runner) -> None:
    runner.grant(1)
    runner.drain()
    effects = runner.handle(DrainAsked())
    assert [type(effect) for effect in effects] == [Kill, Send, Exit]


# --- any history -----------------------------------------------------------------------------------------------------

OPTIONS: dict[str, dict[str, Any]] = {"plain": {}, "timeout": {"timeout": 0.5}, "chunk": {"chunk": "map"}}
PICK = st.integers(0, 1 << 16)


class Worker(RuleBasedStateMachine):
    """A master that grants what is wanted, more or less, and children that finish and die at random."""

    @initialize(slots=st.integers(1, 4), threads=st.sampled_from([1, 1, 3]))
    def start(self, slots: int, threads: int) -> None:
        self.runner = Runner(slots, threads=threads)
        self.connected = True

    def running(self) -> bool:
        return hasattr(self, "runner") and not self.runner.exited

    @precondition(lambda self: self.running() and self.connected)
    @rule(
        count=st.integers(1, 30),
        session=st.sampled_from("abcdef"),
        function=st.sampled_from("fgh"),
        kind=st.sampled_from(["plain", "timeout", "chunk"]),
    )
    def grant(self, count: int, session: str, function: str, kind: str) -> None:
        count = min(count, self.runner.wanted)
        options = dict(OPTIONS[kind])
        if session == "a":
            options["lifetime"] = 3
        if count:
            self.runner.grant(count, session, function + session, needs=(f"code-{session}",), **options)

    @precondition(lambda self: self.running() and self.runner.busy)
    @rule(which=PICK, count=st.integers(1, 5))
    def end_part(self, which: int, count: int) -> None:
        self.runner.end_part(self.runner.busy[which % len(self.runner.busy)], count)

    @precondition(lambda self: self.running() and self.runner.busy)
    @rule(which=PICK)
    def start_function(self, which: int) -> None:
        self.runner.start_function(self.runner.busy[which % len(self.runner.busy)])

    @precondition(lambda self: self.running() and self.runner.leases and self.connected)
    @rule(which=PICK, count=st.integers(1, 5))
    def stop(self, which: int, count: int) -> None:
        tokens = [*self.runner.leases]
        first = which % len(tokens)
        self.runner.stop(*tokens[first : first + count])

    @precondition(lambda self: self.running() and self.runner.working)
    @rule(which=PICK)
    def lend(self, which: int) -> None:
        self.runner.lend(self.runner.working[which % len(self.runner.working)])

    @precondition(lambda self: self.running() and any(p.lending for p in self.runner.processes.values()))
    @rule(which=PICK)
    def take_back(self, which: int) -> None:
        lending = [child for child, process in self.runner.processes.items() if process.lending]
        self.runner.take_back(lending[which % len(lending)])

    @precondition(lambda self: self.running() and self.runner.busy)
    @rule(which=PICK, count=st.integers(1, 8), seconds=st.sampled_from([0.0, 0.0001, 0.001, 0.01, 1.0]))
    def finish(self, which: int, count: int, seconds: float) -> None:
        self.runner.finish(self.runner.busy[which % len(self.runner.busy)], count, seconds)

    @precondition(lambda self: self.running() and self.runner.processes)
    @rule(which=PICK)
    def die(self, which: int) -> None:
        children = [*self.runner.processes]
        self.runner.die(children[which % len(children)])

    @precondition(lambda self: self.running())
    @rule(seconds=st.sampled_from([0.01, STUCK_SECONDS * 1.1, 1.0]))
    def tick(self, seconds: float) -> None:
        self.runner.tick(seconds)

    @precondition(lambda self: self.running() and self.connected)
    @rule(session=st.sampled_from("abcdef"))
    def forget(self, session: str) -> None:
        blobs = sorted(blob for blob in self.runner.blobs if blob.endswith(session))
        self.runner.receive(("forget", session, blobs))

    @precondition(lambda self: self.running() and self.connected and any(len(blob) == 2 for blob in self.runner.blobs))
    @rule(which=PICK)
    def drop(self, which: int) -> None:
        """A function that no lease needs."""
        functions = sorted(blob for blob in self.runner.blobs if len(blob) == 2)
        function = functions[which % len(functions)]
        if function[1] not in self.runner.leases.values():
            self.runner.receive(("forget", "", [function]))

    @precondition(lambda self: self.running() and self.connected)
    @rule()
    def disconnect(self) -> None:
        self.connected = False
        self.runner.disconnect()

    @precondition(lambda self: self.running() and not self.connected)
    @rule()
    def connect(self) -> None:
        self.connected = True
        self.runner.connect()

    def teardown(self) -> None:
        """It asks for work until it drains; then it ends what it runs, and leaves."""
        if not self.running():
            return
        if not self.connected:
            self.connect()
        for child in [child for child, process in self.runner.processes.items() if process.lending]:
            self.runner.take_back(child)
        while self.runner.busy:
            self.runner.finish(self.runner.busy[0], 1, 1.0)
        assert not self.runner.leases
        assert self.runner.wanted > 0, "an idle worker that wants nothing idles for ever"
        self.runner.drain()
        self.runner.receive(("draining",))
        assert self.runner.exited


TestWorker: Callable[[], Any] = Worker.TestCase
TestWorker.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)  # type: ignore[attr-defined]


# --- a host without room ---------------------------------------------------------------------------------------------


def started(core: RunnerCore, now: float, tokens: Sequence[int]) -> tuple[int, list[Effect]]:
    """Grant tasks to ``core``; the child that it wants started, and all effects."""
    tasks = [(token, b"") for token in tokens]
    effects = core.handle(Received([("grant", "session", "f", (), {}, tasks)]), now)
    return next(effect.child for effect in effects if isinstance(effect, Start)), effects


def test_what_a_child_that_could_not_be_started_had_goes_back_unpenalised() -> None:
    core = RunnerCore(2, DRAIN_TIMEOUT)
    core.handle(Connected(), 0.0)
    child, _ = started(core, 0.0, [1])
    effects = core.handle(StartFailed(child, "no descriptor left"), 0.0)
    assert Send(("give_back", [1])) in effects
    assert not any(isinstance(effect, Send) and effect.message[0] == "settle" for effect in effects)
    assert core.held == 0


def test_child_in_which_an_interrupted_task_has_left_processes_is_replaced_when_it_is_idle() -> None:
    core = RunnerCore(1, DRAIN_TIMEOUT)
    core.handle(Connected(), 0.0)
    child, _ = started(core, 0.0, [1])
    assert not any(isinstance(effect, Retire) for effect in core.handle(Crowded(child), 0.0))
    assert Retire(child) in core.handle(Finished(child, [(1, "error", b"")], 0.1), 0.0)
    other, _ = started(core, 0.0, [2])
    assert other != child


def test_a_host_without_room_rests_longer_each_time_and_asks_for_nothing_meanwhile() -> None:
    core = RunnerCore(1, DRAIN_TIMEOUT)
    assert Send(("want", 1)) in core.handle(Connected(), 0.0)
    rests, now = [], 0.0
    for token in range(4):
        child, _ = started(core, now, [token])
        begun = now
        effects = core.handle(StartFailed(child, "no process left"), now)
        assert not any(isinstance(effect, Send) and effect.message[0] == "want" for effect in effects)
        while Send(("want", token + 2)) not in effects:
            now += 0.25
            effects = core.handle(Tick(), now)
        rests.append(now - begun)
    assert rests == [1.0, 2.0, 4.0, 8.0]


def test_master_hears_how_long_a_host_without_room_rests_and_when_it_comes_back_how_much_is_left() -> None:
    core = RunnerCore(1, DRAIN_TIMEOUT)
    core.handle(Connected(True, {}), 0.0)
    child, _ = started(core, 0.0, [1])
    assert Send(("rest", 1.0)) in core.handle(StartFailed(child, "no process left"), 0.0)
    core.handle(Disconnected(), 0.25)
    assert Send(("rest", 0.5)) in core.handle(Connected(True, {}), 0.5)
    core.handle(Disconnected(), 0.75)
    assert not any("rest" in effect.message for effect in core.handle(Connected(True, {}), 1.5) if type(effect) is Send)


def test_a_child_that_works_again_ends_the_growing_of_the_rests() -> None:
    core = RunnerCore(1, DRAIN_TIMEOUT)
    core.handle(Connected(), 0.0)
    for now in (0.0, 10.0):
        child, _ = started(core, now, [1])
        core.handle(StartFailed(child, "no process left"), now)
        core.handle(Tick(), now + 5.0)
        child, _ = started(core, now + 5.0, [2])
        core.handle(Finished(child, [(2, "result", b"")], 0.1), now + 5.5)
        core.handle(ChildDied(child, "so that the next task needs a new one"), now + 6.0)
    assert core._rest_seconds == 0.0


# --- a master that comes back ----------------------------------------------------------------------------------------


def kept(slots: int = 1) -> RunnerCore:
    """A runner whose master has a journal."""
    core = RunnerCore(slots, DRAIN_TIMEOUT)
    core.handle(Connected(keeps=True), 0.0)
    return core


def said(effects: list[Effect], name: str) -> list[object]:
    """What is said under that name."""
    return [effect.message[1] for effect in effects if isinstance(effect, Send) and effect.message[0] == name]


def test_what_runs_goes_on_while_a_master_with_a_journal_is_away() -> None:
    core = kept()
    started(core, 0.0, [1, 2])
    effects = core.handle(Disconnected(), 1.0)
    assert not any(isinstance(effect, Kill) for effect in effects)
    assert core.hello()["holds"] == (1,), "the other one no child had: it is queued there again"
    assert core.hello()["families"] == ("session",)


def test_what_ended_while_the_master_was_away_is_told_when_it_is_back() -> None:
    core = kept()
    child, _ = started(core, 0.0, [1])
    core.handle(Disconnected(), 1.0)
    assert said(core.handle(Finished(child, [(1, "result", b"r")], 0.1), 2.0), "settle") == []
    assert core.hello()["holds"] == (1,)
    assert said(core.handle(Connected(keeps=True), 3.0), "settle") == [[(1, "result", b"r")]]


def test_what_was_said_and_not_recorded_is_said_again_and_the_rest_is_not() -> None:
    core = kept()
    for token in (1, 2):
        core.handle(Received([("grant", "session", "f", (), {}, [(token, b"")])]), 0.0)
        core.handle(Finished(1, [(token, "result", b"")], 0.1), 0.5)
    core.handle(Received([("recorded", 1)]), 0.5)
    core.handle(Disconnected(), 1.0)
    assert said(core.handle(Connected(keeps=True), 2.0), "settle") == [[(2, "result", b"")]]


def test_items_of_a_chunk_that_are_recorded_are_not_told_again() -> None:
    core = kept()
    core.handle(Received([("grant", "session", "f", (), {"chunk": "map"}, [(1, b"")])]), 0.0)
    for content in (b"0", b"1"):
        core.handle(Finished(1, [], 0.0, [(1, 1, content)]), 0.5)
    core.handle(Disconnected(), 1.0)
    effects = core.handle(Connected(keeps=True, done={1: 1}), 2.0)
    assert said(effects, "parts") == [[(1, 1, b"1")]]


def test_task_with_a_session_of_its_own_ends_when_the_master_is_away() -> None:
    core = kept()
    child, _ = started(core, 0.0, [1])
    core.handle(RelayOpened(child, 1, {}), 0.5)
    assert Kill(child) in core.handle(Disconnected(), 1.0)
    assert core.hello()["holds"] == ()


def test_master_that_keeps_nothing_ends_what_was_kept_for_another() -> None:
    core = kept()
    child, _ = started(core, 0.0, [1])
    core.handle(Disconnected(), 1.0)
    assert Kill(child) in core.handle(Connected(keeps=False), 2.0)
    assert core.held == 0


def test_master_that_is_back_can_stop_what_was_kept() -> None:
    core = kept()
    child, _ = started(core, 0.0, [1])
    core.handle(Disconnected(), 1.0)
    core.handle(Connected(keeps=True), 2.0)
    core.handle(Received([("stop", [1])]), 2.0)
    assert said(core.handle(Finished(child, [(1, "result", b"")], 0.1), 3.0), "settle") == []
