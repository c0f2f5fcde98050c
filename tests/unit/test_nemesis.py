"""The nemesis of the acceptance tests: its schedule is the seed's, and its checker finds each broken promise."""

from dataclasses import replace

import pytest

from tests.acceptance.nemesis import marks
from tests.acceptance.nemesis.checker import RECOVERY_LIMIT, History, Injected, Run, Sent, Told, Verdict, check
from tests.acceptance.nemesis.schedule import KINDS, schedule
from tests.acceptance.nemesis.tasks import checksum, seconds

COUNT = 20
RIGHT = {number: checksum(number) for number in range(COUNT)}


@pytest.fixture
def history() -> History:
    """A good one: a task each second, one fault; the run that it cut short was done again."""
    numbers = range(COUNT)
    return History(
        attempted={number: number + 0.0 for number in numbers},
        acknowledged={number: number + 0.1 for number in numbers},
        told=[Told(number, number + 0.5, answer(number)) for number in numbers],
        sent=[Sent(number, b"outcome of %d" % number) for number in numbers],
        runs=[Run(number, f"w1-{number}", "w1", True) for number in numbers] + [Run(7, "w2-cut", "w2", False)],
        faults=[Injected("kill worker", "w2", 7.25)],
    )


def answer(number: int, run: str = "") -> tuple[int, str, str]:
    return number, checksum(number), run or f"w1-{number}"


def value_of(verdict: Verdict, name: str) -> str:
    return dict(verdict.rows)[name]


def test_a_good_history_breaks_no_promise(history: History) -> None:
    verdict = check(history, RIGHT)
    assert verdict.problems == []
    figures = [
        value_of(verdict, name) for name in ("tasks attempted", "submits acknowledged", "lost", "run twice or more")
    ]
    assert figures == ["20", "20", "0", "1"]
    assert value_of(verdict, "  kill worker") == "1"
    assert value_of(verdict, "recovery max") == "0.25 s"


def test_an_outcome_that_is_sent_again_is_the_same_one(history: History) -> None:
    history.sent.append(history.sent[3])
    assert check(history, RIGHT).problems == []


def test_a_task_that_was_not_acknowledged_may_have_no_outcome_or_one(history: History) -> None:
    history.attempted[COUNT] = 20.0
    assert check(history, RIGHT).problems == []
    del history.acknowledged[4]
    verdict = check(history, RIGHT)
    assert verdict.problems == []
    assert value_of(verdict, "not acknowledged, and done") == "1"


def test_a_task_may_be_given_up_after_three_faults_and_not_after_one(history: History) -> None:
    history.told[5] = Told(5, 5.5, None, "WorkerDied: it was given up", losses=3)
    assert check(history, RIGHT).problems[0].startswith("ended in an error: 1, such as task 5")
    history.faults *= 3
    verdict = check(history, RIGHT)
    assert verdict.problems == []
    assert value_of(verdict, "dead letters") == "1"


def lose(history: History) -> None:
    del history.told[5]


def tell_twice(history: History) -> None:
    history.told.append(replace(history.told[5], at=30.0))


def change_the_outcome(history: History) -> None:
    history.sent.append(Sent(5, b"outcome of another run of 5"))


def answer_wrongly(history: History) -> None:
    history.told[5] = Told(5, 5.5, (5, checksum(6), "w1-5"))


def answer_for_another(history: History) -> None:
    history.told[5] = Told(5, 5.5, answer(6))


def answer_nothing(history: History) -> None:
    history.told[5] = Told(5, 5.5, None)


def tell_of_an_unknown_task(history: History) -> None:
    history.told.append(Told(99, 30.0, answer(99)))


def send_of_an_unknown_task(history: History) -> None:
    history.sent.append(Sent(99, b"outcome of 99"))


def run_an_unknown_task(history: History) -> None:
    history.runs.append(Run(99, "w1-99", "w1", True))


def answer_without_a_run(history: History) -> None:
    history.told[5] = Told(5, 5.5, answer(5, "w1-made-up"))


def answer_from_a_run_that_was_cut_short(history: History) -> None:
    history.told[7] = Told(7, 7.5, answer(7, "w2-cut"))


def fail(history: History) -> None:
    history.told[5] = Told(5, 5.5, None, "ValueError: five")


def repeat_without_a_fault(history: History) -> None:
    history.faults.clear()


def leave_one(history: History) -> None:
    history.left = 1


def crash(history: History) -> None:
    history.tracebacks = ["master-1"]


def get_into_trouble(history: History) -> None:
    history.troubles = ["the workers did not come back"]


def recover_late(history: History) -> None:
    history.told[-1] = replace(history.told[-1], at=18.6 + RECOVERY_LIMIT)
    history.faults.append(Injected("kill master", "master", 18.55))


@pytest.mark.parametrize(
    ("breach", "name"),
    [
        (lose, "lost: 1, such as task 5: submitted at 5.00, runs w1-5, told nothing"),
        (tell_twice, "recorded twice: 1, such as task 5"),
        (change_the_outcome, "recorded twice: 1, such as task 5"),
        (answer_wrongly, "wrong sums: 1, such as task 5"),
        (answer_for_another, "wrong sums: 1, such as task 5"),
        (answer_nothing, "wrong sums: 1, such as task 5"),
        (tell_of_an_unknown_task, "unexpected: 1, such as task 99: never submitted"),
        (send_of_an_unknown_task, "unexpected: 1, such as task 99: never submitted"),
        (run_an_unknown_task, "unexpected: 1, such as task 99: never submitted"),
        (answer_without_a_run, "results of no run: 1, such as task 5"),
        (answer_from_a_run_that_was_cut_short, "results of no run: 1, such as task 7"),
        (fail, "ended in an error: 1, such as task 5"),
        (repeat_without_a_fault, "run twice without any fault: 1, such as task 7"),
        (leave_one, "left in the master: 1"),
        (crash, "tracebacks in logs: 1, of master-1"),
        (get_into_trouble, "the workers did not come back"),
        (recover_late, "recovery: no outcome for 60.0 s"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_broken_promise_is_found(history: History, breach: object, name: str) -> None:
    assert callable(breach)
    breach(history)
    problems = check(history, RIGHT).problems
    assert [problem for problem in problems if problem.startswith(name)], problems


def test_a_schedule_is_a_function_of_its_seed() -> None:
    assert schedule(7, 180.0) == schedule(7, 180.0)
    assert schedule(7, 180.0) != schedule(8, 180.0)


@pytest.mark.parametrize("length", [10.0, 40.0, 3600.0])
def test_a_schedule_has_each_kind_and_keeps_to_its_time(length: float) -> None:
    for seed in range(20):
        faults = schedule(seed, length)
        assert {fault.kind for fault in faults} == KINDS.keys()
        times = [fault.at for fault in faults]
        assert times == sorted(times)
        assert times[0] >= 0.0
        assert times[-1] <= length
        assert all(KINDS[fault.kind][0] <= fault.lasts <= KINDS[fault.kind][1] for fault in faults)


def test_marks_tell_which_runs_ended() -> None:
    lines = ["began 1 w1-a", "began 2 w1-b", "ended 1 w1-a", "began 2 w2-c", "ended 2 w2-c", "ended 3"]
    assert marks.read(lines) == [Run(1, "w1-a", "w1", True), Run(2, "w1-b", "w1", False), Run(2, "w2-c", "w2", True)]


def test_few_tasks_take_long_and_none_longer_than_a_second() -> None:
    times = [seconds(number) for number in range(1000)]
    assert 50 < sum(time >= 0.2 for time in times) < 150
    assert max(times) <= 1.0
