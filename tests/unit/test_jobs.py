"""multihost/broker/jobs.py: a detached job does without its client, and hands out each result until it was used."""

from typing import Any

import pytest

from multihost.broker.jobs import REMEMBERED_SECONDS
from multihost.broker.records import Record
from multihost.errors import JobBusy, JobExists, JobIncomplete, JobUnknown
from tests.unit.brokers import JOB_TTL, SESSION_TIMEOUT, SQUARE, Broker, check_replay


@pytest.fixture
def broker() -> Broker:
    return Broker()


def begin(
    broker: Broker, tasks: int = 3, items: int = 5, chunksize: int = 2, session: str = "s", chunk: str = ""
) -> int:
    """A whole job ``j`` of five items in three chunks; the connection that submitted it."""
    client = broker.client(session, job="j")
    options: dict[str, object] = {"chunk": (chunk, chunksize)} if chunk else {}
    payloads = [b"%d" % n for n in range(tasks)]
    broker.say(client, *SQUARE.messages, ("submit", 0, SQUARE.id, options, payloads))
    broker.say(client, ("seal", items, chunksize))
    assert broker.take(client)[-1] == ("sealed",)
    return client


def name_of(record: Record) -> object:
    assert isinstance(record, tuple)
    return record[0]


def run(broker: Broker, count: int = 3) -> int:
    """A worker that runs so many tasks."""
    worker = broker.worker(slots=count, want=count)
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token, content=b"r" + grant.payload)
    return worker


def contents(broker: Broker, link: int) -> dict[int, bytes]:
    return {sequence: content for sequence, (_, content) in broker.results(link).items()}


def test_a_job_goes_on_when_its_client_has_left(broker: Broker) -> None:
    client = begin(broker)
    broker.say(client, ("close",))
    broker.pass_time(SESSION_TIMEOUT + 1)
    run(broker)
    collector = broker.collector("j")
    broker.say(collector, ("collect", 0))
    assert contents(broker, collector) == {0: b"r0", 1: b"r1", 2: b"r2"}
    check_replay(broker)


def test_the_client_that_submits_is_told_no_outcome(broker: Broker) -> None:
    client = begin(broker)
    run(broker)
    assert broker.results(client) == {}


def test_a_collector_is_told_what_it_asked_for_when_it_comes_and_nothing_else(broker: Broker) -> None:
    broker.leave(begin(broker))
    collector = broker.collector("j")
    broker.say(collector, ("collect", 1))
    worker = broker.worker(slots=3, want=3)
    first, second, third = broker.grants(worker)
    broker.settle(worker, first.token, content=b"r0")
    assert contents(broker, collector) == {}
    broker.settle(worker, second.token, content=b"r1")
    assert contents(broker, collector) == {1: b"r1"}
    broker.settle(worker, third.token, content=b"r2")
    assert contents(broker, collector) == {}
    broker.say(collector, ("collect", 2))
    assert contents(broker, collector) == {2: b"r2"}


def test_parts_of_a_chunk_are_told_with_its_end(broker: Broker) -> None:
    broker.leave(begin(broker, tasks=1, items=3, chunksize=3, chunk="map"))
    collector = broker.collector("j")
    broker.say(collector, ("collect", 0))
    worker = broker.worker(want=1)
    (grant,) = broker.grants(worker)
    broker.say(worker, ("parts", [(grant.token, 2, b"two")]))
    assert [name for name, *_ in broker.take(collector) if name == "outcomes"] == []
    broker.settle(worker, grant.token, content=b"rest")
    rows: list[Any] = [fields[0] for name, *fields in broker.take(collector) if name == "outcomes"]
    assert [(kind, content) for ((_, kind, content, _),) in rows] == [("part", b"two"), ("result", b"rest")]


def test_what_was_taken_is_gone_and_the_rest_waits_for_the_next_one(broker: Broker) -> None:
    broker.leave(begin(broker))
    run(broker)
    collector = broker.collector("j")
    broker.say(collector, ("taken", 3))
    assert ("taken", 3) in broker.take(collector)
    broker.leave(collector)
    broker.restart()
    assert broker.core.job_state("j") == {"items": 5, "chunksize": 2, "taken": 3, "session": "s"}
    second = broker.collector("j", "d")
    broker.say(second, ("collect", 1))
    assert contents(broker, second) == {1: b"r1", 2: b"r2"}
    check_replay(broker)


def test_a_job_ends_when_all_of_it_was_taken(broker: Broker) -> None:
    broker.leave(begin(broker))
    run(broker)
    collector = broker.collector("j")
    broker.say(collector, ("taken", 5))
    assert ("taken", 5) in broker.take(collector)
    assert broker.count("sessions") == 0
    with pytest.raises(JobUnknown):
        broker.collector("j")
    begin(broker, session="another")
    check_replay(broker)


def test_items_that_have_not_ended_cannot_be_taken(broker: Broker) -> None:
    broker.leave(begin(broker))
    collector = broker.collector("j")
    broker.say(collector, ("taken", 1))
    assert broker.closed[collector].broke_rules


@pytest.mark.parametrize(("settled", "ended"), [([], 0), ([0], 2), ([2], 1), ([0, 1], 4), ([0, 1, 2], 5)])
def test_items_are_counted_by_chunks_of_which_the_last_may_be_shorter(
    broker: Broker, settled: list[int], ended: int
) -> None:
    broker.leave(begin(broker))
    worker = broker.worker(slots=3, want=3)
    grants = broker.grants(worker)
    for number in settled:
        broker.settle(worker, grants[number].token)
    collector = broker.collector("j")
    broker.say(collector, ("count",))
    assert ("counted", ended) in broker.take(collector)


def test_counted_items_include_those_that_were_taken(broker: Broker) -> None:
    broker.leave(begin(broker))
    run(broker, 2)
    collector = broker.collector("j")
    broker.say(collector, ("taken", 3), ("count",))
    assert ("counted", 4) in broker.take(collector)


def test_a_name_that_is_taken_is_refused_and_changes_nothing(broker: Broker) -> None:
    begin(broker)
    with pytest.raises(JobExists):
        broker.client("another", job="j")
    assert broker.count("sessions") == 1


def test_only_one_collects_but_it_may_come_back(broker: Broker) -> None:
    client = begin(broker)
    first = broker.collector("j", "c")
    assert client in broker.closed, "whoever submitted a whole job is not needed any more"
    with pytest.raises(JobBusy):
        broker.collector("j", "d")
    again = broker.collector("j", "c")
    assert first in broker.closed
    broker.leave(again)
    broker.collector("j", "d")


def test_a_submitter_that_comes_back_late_does_not_disturb_who_collects(broker: Broker) -> None:
    broker.leave(begin(broker))
    collector = broker.collector("j")
    broker.client("s", job="j")
    assert broker.core.session_state("s")["sealed"] is True
    run(broker)
    broker.say(collector, ("collect", 0))
    assert len(broker.results(collector)) == 3


@pytest.mark.parametrize("end", ["taken", "dropped", "expired"])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_submitter_that_comes_back_when_its_job_is_over_does_not_submit_it_again(
    broker: Broker, end: str, restarted: bool
) -> None:
    broker.leave(begin(broker))
    run(broker)
    if end == "expired":
        broker.pass_time(JOB_TTL + 2)
    else:
        broker.say(broker.collector("j"), ("taken", 5) if end == "taken" else ("drop",))
    if restarted:
        broker.restart()
    assert broker.core.knows("s")
    back = broker.client("s", job="j")
    state = broker.core.session_state("s")
    assert (state["sealed"], state["accepted"], broker.count("sessions")) == (True, 3, 0)
    broker.say(back, ("close",))
    assert not broker.closed[back].broke_rules
    check_replay(broker)


def test_a_job_that_is_over_is_forgotten_when_others_end_an_hour_later(broker: Broker) -> None:
    for session in "abc":
        broker.leave(begin(broker, session=session))
        broker.say(broker.collector("j"), ("drop",))
        broker.now += 0.6 * REMEMBERED_SECONDS
    assert [broker.core.knows(session) for session in "abc"] == [False, True, True]
    check_replay(broker)


def test_a_job_that_is_not_whole_cannot_be_had_and_ends_as_other_sessions_do(broker: Broker) -> None:
    client = broker.client("s", job="j")
    broker.submit(client, b"0")
    with pytest.raises(JobIncomplete):
        broker.collector("j")
    broker.leave(client)
    broker.pass_time(SESSION_TIMEOUT + 1)
    assert broker.count("sessions") == 0
    with pytest.raises(JobUnknown):
        broker.collector("j")


@pytest.mark.parametrize(("items", "chunksize"), [(0, 2), (7, 2), (4, 2), (5, 0), (5, -2)])
def test_a_seal_that_does_not_fit_what_was_submitted_breaks_the_rules(
    broker: Broker, items: int, chunksize: int
) -> None:
    client = broker.client("s", job="j")
    broker.submit(client, b"0", b"1", b"2")
    broker.say(client, ("seal", items, chunksize))
    assert broker.closed[client].broke_rules


def test_only_a_job_is_sealed_and_only_by_a_collector_collected(broker: Broker) -> None:
    client = broker.client("s")
    broker.submit(client, b"0")
    broker.say(client, ("seal", 1, 1))
    assert broker.closed[client].broke_rules
    other = begin(broker, session="t")
    broker.say(other, ("collect", 0))
    assert broker.closed[other].broke_rules


def test_a_seal_that_is_repeated_changes_nothing(broker: Broker) -> None:
    client = begin(broker)
    known = [*broker.core.snapshot()]
    broker.say(client, ("seal", 5, 2))
    assert broker.take(client) == [("sealed",)]
    assert [*broker.core.snapshot()] == known


def test_the_time_to_live_begins_when_nothing_runs_and_nobody_is_there(broker: Broker) -> None:
    broker.leave(begin(broker))
    broker.pass_time(2 * JOB_TTL)
    run(broker)
    broker.pass_time(0.8 * JOB_TTL)
    collector = broker.collector("j")
    broker.pass_time(2 * JOB_TTL)
    broker.leave(collector)
    broker.pass_time(0.8 * JOB_TTL)
    assert broker.count("sessions") == 1
    broker.pass_time(0.3 * JOB_TTL)
    assert broker.count("sessions") == 0
    assert broker.notes[-1].text == "detached job j ended: its time to live is over"


def test_the_time_to_live_goes_on_over_a_restart(broker: Broker) -> None:
    broker.leave(begin(broker))
    run(broker)
    broker.pass_time(0.6 * JOB_TTL)
    broker.restart()
    broker.pass_time(0.5 * JOB_TTL)
    assert broker.count("sessions") == 0


def test_a_job_that_runs_is_recorded_as_in_use_now_and_then_only(broker: Broker) -> None:
    broker.leave(begin(broker))
    broker.pass_time(JOB_TTL)
    assert 5 <= sum(name == "use_job" for name in map(name_of, broker.records)) <= 10


def test_a_dropped_job_is_gone_with_its_tasks(broker: Broker) -> None:
    broker.leave(begin(broker))
    collector = broker.collector("j")
    broker.say(collector, ("drop",))
    assert ("dropped",) in broker.take(collector)
    assert (broker.count("sessions"), broker.count("queued"), broker.count("cancelled")) == (0, 0, 3)


def test_what_a_job_has_is_in_the_journal_at_any_moment(broker: Broker) -> None:
    client = broker.client("s", job="j")
    check_replay(broker)
    broker.submit(client, b"0", b"1", b"2")
    check_replay(broker)
    broker.say(client, ("seal", 5, 2))
    check_replay(broker)
    run(broker, 2)
    collector = broker.collector("j")
    broker.say(collector, ("taken", 1))
    check_replay(broker)
    broker.say(collector, ("taken", 4))
    check_replay(broker)


def test_results_are_sent_in_portions(broker: Broker) -> None:
    broker.leave(begin(broker))
    worker = broker.worker(slots=3, want=3)
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token, content=bytes(700_000))
    collector = broker.collector("j")
    for number in range(3):
        broker.say(collector, ("collect", number))
        assert set(broker.results(collector)) == {number}


def test_a_collector_asks_for_no_chunk_that_is_gone(broker: Broker) -> None:
    broker.leave(begin(broker))
    run(broker)
    collector = broker.collector("j")
    broker.say(collector, ("taken", 2), ("collect", 0))
    assert broker.closed[collector].broke_rules
