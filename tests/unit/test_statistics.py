"""What is counted and measured of tasks, and how it is told: in the master, in the worker, and in words."""

import math
from dataclasses import asdict
from typing import Any

import pytest

from multihost.broker.journal import DiskJournal
from multihost.plain import made_of
from multihost.statistics import Statistics, Tasks, Times, Traffic, in_seconds
from multihost.status import words
from multihost.wire.meter import Meter
from tests.unit.brokers import Broker
from tests.unit.runners import Runner


@pytest.fixture
def broker() -> Broker:
    return Broker()


def figures(broker: Broker, client: int) -> dict[str, Any]:
    """What the master tells a client of its session."""
    broker.say(client, ("figures", 7))
    (told,) = [message for message in broker.take(client) if message[0] == "figures"]
    assert told[1] == 7
    plain: Any = told[2]
    return dict(plain)


def status(broker: Broker) -> dict[str, Any]:
    monitor = broker.monitor()
    broker.say(monitor, ("status",))
    ((name, plain),) = broker.take(monitor)
    assert name == "status"
    told: Any = plain
    return dict(told)


def tasks(told: dict[str, Any]) -> Tasks:
    counted = made_of(Tasks, told["tasks"])
    assert counted.submitted == counted.ended + counted.waiting + counted.running
    return counted


# --- the master ------------------------------------------------------------------------------------------------------


def test_tasks_are_counted_by_what_became_of_them(broker: Broker) -> None:
    client, other = broker.client(), broker.client("other")
    worker = broker.worker(want=4)
    broker.submit(client, b"0", b"1", b"2", b"3", b"4", b"5")
    broker.submit(other, b"x")
    tokens = [grant.token for grant in broker.grants(worker)]
    broker.settle(worker, tokens[0])
    broker.settle(worker, tokens[1], "error")
    broker.settle(worker, tokens[2], "lost", b"its process died")
    broker.say(client, ("cancel", [5], False))
    told = figures(broker, client)
    counted = tasks(told)
    assert (counted.submitted, counted.done, counted.failed, counted.cancelled) == (6, 1, 1, 1)
    assert (counted.waiting, counted.running, counted.lost_deliveries) == (2, 1, 1)
    assert told["cluster"]["submitted"] == 7


def test_each_session_is_told_its_own_and_a_monitor_all(broker: Broker) -> None:
    client, other = broker.client(), broker.client("other")
    broker.submit(client, b"0", b"1")
    broker.submit(other, b"x", delay=5.0)
    told = status(broker)
    assert {row["id"]: tasks(row).submitted for row in told["sessions"]} == {"s": 2, "other": 1}
    assert (tasks(told).submitted, tasks(told).waiting) == (3, 3)
    assert told["memory"]["task_bytes"] == 3


def test_a_task_is_queued_from_its_submit_until_its_lease(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", b"1")
    broker.now += 2.0
    broker.submit(client, b"2", first=2)
    broker.now += 1.0
    broker.worker(want=3)
    queued = figures(broker, client)["queued"]
    assert (queued["count"], queued["sum_seconds"], queued["max_seconds"]) == (3, 7.0, 3.0)


def test_a_delay_that_was_asked_for_is_no_time_in_the_queue(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", delay=5.0)
    broker.worker(want=1)
    broker.tick(6.0)
    assert figures(broker, client)["queued"]["sum_seconds"] == pytest.approx(1.0)


def test_a_task_that_is_queued_again_waits_from_then_on(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.now += 4.0
    broker.settle(worker, grant.token, "lost", b"its process died")
    broker.now += 1.0
    broker.want(worker, 1)
    (grant,) = broker.grants(worker)
    broker.now += 4.0
    broker.say(worker, ("give_back", [grant.token]))
    broker.now += 2.0
    broker.want(worker, 1)
    queued = figures(broker, client)["queued"]
    assert (queued["count"], queued["sum_seconds"]) == (3, pytest.approx(3.0))


def test_a_worker_tells_how_long_tasks_ran_before_it_tells_how_they_ended(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(slots=2, want=2)
    broker.submit(client, b"0", b"1")
    first, second = (grant.token for grant in broker.grants(worker))
    broker.now += 4.0
    broker.say(worker, ("ran", [(first, 2, 4.0)]), ("settle", [(first, "result", b""), (second, "result", b"")]))
    run = figures(broker, client)["run"]
    assert (run["count"], run["mean_seconds"], run["p50_seconds"]) == (2, 2.0, 2.0)
    (told,) = status(broker)["workers"]
    assert (told["run"]["sum_seconds"], told["ended"], told["busy_share"]) == (4.0, 2, 0.5)


def test_what_ran_under_a_lease_that_is_over_is_not_counted(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token)
    broker.say(worker, ("ran", [(grant.token, 1, 1.0), (grant.token + 1, 1, 1.0)]))
    assert figures(broker, client)["run"]["count"] == 0
    assert not broker.closed


@pytest.mark.parametrize("row", [(0, 1.0), (1, -1.0), (1, math.nan), (1, math.inf)])
def test_a_worker_that_tells_impossible_times_is_cut_off(broker: Broker, row: tuple[int, float]) -> None:
    worker = broker.worker()
    broker.say(worker, ("ran", [(1, *row)]))
    assert broker.closed[worker].broke_rules


def test_what_a_worker_tells_of_itself_is_told_with_its_age(broker: Broker) -> None:
    worker = broker.worker()
    broker.say(worker, ("load", {"children": 2}))
    broker.now += 3.0
    broker.say(worker, ("heartbeat",))
    (told,) = status(broker)["workers"]
    assert told["load"] == {"children": 2, "age_seconds": 3.0}


def test_what_an_ended_session_had_counts_in_the_sums_of_all(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("ran", [(grant.token, 1, 1.0)]), ("settle", [(grant.token, "result", b"")]))
    broker.say(client, ("close",))
    told = status(broker)
    assert told["sessions"] == []
    assert (told["run"]["sum_seconds"], told["queued"]["count"], told["tasks"]["done"]) == (1.0, 1, 1)


def test_after_a_restart_a_session_is_counted_anew_with_the_tasks_that_are_there(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2, holds=())
    broker.submit(client, b"0", b"1", b"2", b"3")
    first, second = (grant.token for grant in broker.grants(worker))
    broker.settle(worker, first)
    broker.restart()
    client, worker = broker.client(), broker.worker("w2", want=1, holds=[second])
    told = figures(broker, client)
    counted = tasks(told)
    assert (counted.submitted, counted.done, counted.running + counted.waiting) == (3, 0, 3)
    assert told["cluster"]["submitted"] == 4, "that is in the journal"


# --- the worker ------------------------------------------------------------------------------------------------------


def test_a_worker_notes_run_times_by_what_its_children_hand_over() -> None:
    runner = Runner()
    runner.grant(1)
    (child,) = runner.processes
    (token,) = runner.finish(child, seconds=0.5)
    assert runner.core.take_ran() == [(token, 1, 0.5)]
    assert runner.core.take_ran() == []


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
def test_times_that_a_task_made_up_neither_reach_the_master_nor_end_the_worker(seconds: float) -> None:
    runner = Runner()
    runner.grant(1)
    (child,) = runner.processes
    runner.finish(child, seconds=seconds)
    ((_, _, told),) = runner.core.take_ran()
    assert 0.0 <= told <= 1e9


def test_run_times_of_a_lost_connection_are_forgotten() -> None:
    runner = Runner()
    runner.grant(1)
    (child,) = runner.processes
    runner.finish(child)
    runner.disconnect()
    assert runner.core.take_ran() == []


# --- links and journal -----------------------------------------------------------------------------------------------


class Link:
    def __init__(self, sent: int, received: int) -> None:
        self._moved = sent, received

    def moved_bytes(self) -> tuple[int, int]:
        return self._moved


def test_a_meter_counts_frames_messages_and_tasks_over_all_links() -> None:
    meter = Meter()
    meter.sent([("submit", 0, "f", {}, [b"x", b"y"]), ("ping",)])
    meter.received([("grant", "s", "f", (), {}, [(1, b"x")]), ("recorded", 1)])
    meter.ended(Link(100, 10))
    meter.sent([("settle", [(1, "result", b"")])])
    sent, received = meter.plain(Link(5, 7))
    assert sent == {"bytes": 105, "frames": 2, "messages": 3, "tasks": 3}
    assert received == {"bytes": 17, "frames": 1, "messages": 2, "tasks": 1}
    assert meter.plain(None)[0]["bytes"] == 100


def test_a_journal_counts_what_it_commits(tmp_path: Any) -> None:
    journal = DiskJournal(tmp_path, "normal")
    assert [*journal.replay()] == []
    empty = journal.figures()["file_bytes"]
    for records in ([("a", 1), ("b", 2)], [("c", 3)]):
        journal.append(records)
        journal.commit()
    told: dict[str, Any] = journal.figures()
    assert (told["rows"], told["records"], told["records_per_row"], told["commit"]["count"]) == (2, 3, 1.5, 2)
    assert told["bytes"] == told["file_bytes"] - empty > 0
    journal.close()


# --- in words --------------------------------------------------------------------------------------------------------

SOME = Statistics(
    session="abcdef0123456789",
    age_seconds=12.0,
    answered=True,
    calls_submitted=2000,
    calls_ended=1990,
    unsent=3,
    tasks=Tasks(submitted=100, done=90, failed=1, waiting=5, running=4, lost_deliveries=1),
    cluster=Tasks(submitted=101, done=101),
    sent=Traffic(bytes=2048, frames=4, messages=8, tasks=100),
    received=Traffic(),
    total=Times(2, 0.003, 0.0015, 0.001, 0.002, 0.002),
    queued=Times(),
    run=Times(1, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6),
    transfer_mean_seconds=0.001,
)


def test_statistics_are_told_in_words() -> None:
    assert str(SOME).splitlines() == [
        "session abcdef01, 12.0 s old",
        "tasks:    100 submitted: 90 done, 1 failed, 5 waiting, 4 running; 1 deliveries lost",
        "calls:    2,000 made, 1,990 ended, 3 tasks not sent yet",
        "sent:     100 tasks, 2.0 KiB in 4 frames, 25.0 tasks a frame",
        "received: 0 tasks, 0 bytes in 0 frames, 0.0 tasks a frame",
        "total:    mean 1.5 ms, half within 1 ms, 99 % within 2 ms, longest 2 ms",
        "queued:   none yet",
        "run:      mean 1 µs, half within 1 µs, 99 % within 1 µs, longest 1 µs",
        "transfer: mean 1 ms",
        "cluster:  101 submitted: 101 done, 0 waiting, 0 running",
    ]
    assert asdict(SOME)["tasks"]["done"] == 90
    assert (SOME.sent.messages_per_frame, SOME.sent.tasks_per_frame) == (2.0, 25.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 µs"), (2.5e-6, "2.5 µs"), (0.0123, "12.3 ms"), (59.94, "59.9 s"), (7200, "7,200 s")]
)
def test_seconds_are_told_in_a_unit_that_suits(seconds: float, text: str) -> None:
    assert in_seconds(seconds) == text


def test_a_status_is_told_in_words_whatever_a_worker_tells_of_itself(broker: Broker) -> None:
    broker.worker("a")
    worker = broker.worker("b")
    broker.say(worker, ("load", {"children": 2}))
    broker.client()
    shell = {"uptime_seconds": 5.0, "connections": 3, "turns": 7, "messages_per_turn": 1.5, "peak_process_bytes": 1}
    told = words(status(broker) | shell | {"journal": {}})
    assert "master, up for 5 s, 3 connections" in told
    assert "worker host-b, ready, 1 slots" in told
    assert "2 of 0 children" in told
    assert "session s, program s" in told
