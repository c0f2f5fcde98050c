"""How much the master takes: what is beyond a bound is refused whole, and those who wait hear when there is room."""

from typing import Any

import pytest

from multihost.broker.bounds import LEASES_PER_SLOT, MAX_SLOTS, Bounds
from multihost.client.core import ClientCore
from multihost.errors import ClusterFull, ProtocolError
from multihost.options import PLAIN
from tests.unit.brokers import ARCHIVE, Broker, Function, check_replay, make_core
from tests.unit.test_client_core import CODE_OF_F, NOW

FULL = ("tasks", 3, "MULTIHOST_MAX_TASKS")


def broker_with(**bounds: int) -> Broker:
    return Broker(make_core(Bounds(**bounds)))


def said(broker: Broker, client: int) -> list[Any]:
    return [message for message in broker.take(client) if message[0] in ("accepted", "full", "room", "outcomes")]


# --- the master ------------------------------------------------------------------------------------------------------


def test_submit_is_taken_up_to_the_bound_and_the_rest_is_refused() -> None:
    broker = broker_with(tasks=3)
    client = broker.client()
    broker.submit(client, b"0", b"1", b"2", b"3", b"4")
    assert broker.take(client) == [("full", 3, *FULL)]
    assert (broker.count("submitted"), broker.count("queued")) == (3, 3)


def test_what_follows_a_refused_submit_is_refused_too_until_the_client_knows() -> None:
    """Otherwise a task with a lower number could not be submitted again."""
    broker = broker_with(tasks=2)
    client = broker.client()
    worker = broker.worker(want=2)
    broker.submit(client, b"0", b"1", b"2")
    assert said(broker, client) == [("full", 2, "tasks", 2, "MULTIHOST_MAX_TASKS")]
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token)
    broker.take(client)
    broker.submit(client, b"3", first=3)  # it was under way
    assert broker.take(client) == []
    assert broker.count("submitted") == 2
    broker.say(client, ("waits",))
    assert broker.take(client) == [("room",)]
    broker.submit(client, b"2", b"3", first=2)
    assert said(broker, client) == [("accepted", 4)]


def test_those_who_were_refused_hear_of_room_once_when_there_is_some() -> None:
    broker = broker_with(tasks=20)
    one, two, other = broker.client("a"), broker.client("b"), broker.client("c")
    broker.submit(one, *[b"."] * 21)
    broker.submit(two, b".")
    for client in (one, two):
        broker.say(client, ("waits",))
    worker = broker.worker(want=20)
    grants = broker.grants(worker)
    for client in (one, two, other):
        broker.take(client)
    broker.settle(worker, grants[0].token)
    assert [message[0] for message in said(broker, one)] == ["outcomes"]  # one in ten is to be free
    broker.settle(worker, grants[1].token)
    assert [message[0] for message in said(broker, one)] == ["outcomes", "room"]
    assert said(broker, two) == [("room",)]
    broker.settle(worker, grants[2].token)
    assert said(broker, two) == said(broker, other) == []
    broker.submit(two, b".", b".", b".")
    assert said(broker, two) == [("accepted", 3)]


def test_client_that_left_hears_nothing_of_room() -> None:
    broker = broker_with(tasks=1)
    client = broker.client()
    broker.submit(client, b"0", b"1")
    broker.say(client, ("waits",))
    broker.leave(client)
    client = broker.client()
    broker.take(client)
    broker.say(client, ("cancel", [0], False))
    assert [message[0] for message in broker.take(client)] == ["outcomes"]


def test_submit_repeated_after_a_lost_answer_is_no_new_task_at_the_bound() -> None:
    broker = broker_with(tasks=3)
    client = broker.client()
    broker.submit(client, b"0", b"1", b"2")
    broker.submit(client, b"0", b"1", b"2")
    assert broker.take(client) == [("accepted", 3), ("accepted", 3)]


def test_tasks_of_tasks_are_taken_at_the_bound() -> None:
    """Those that wait for them would wait for ever."""
    broker = broker_with(tasks=1)
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    nested = broker.open(worker, 1)
    broker.take(nested.link)
    nested.submit(b"n")
    assert ("accepted", 1) in broker.take(nested.link)


def test_bound_holds_over_a_restart_of_the_master() -> None:
    broker = broker_with(task_bytes=4)
    client = broker.client()
    broker.submit(client, b"12345")
    broker.restart()
    assert broker.core._ledger.task_bytes == 5
    broker.records += broker.core.take_records()
    check_replay(broker)


def test_large_function_counts_once_as_long_as_a_task_needs_it() -> None:
    broker = broker_with(task_bytes=100)
    broker.core._ledger.large_bytes = 50
    large = [Function(b"%d" % number * 120, (ARCHIVE,)) for number in range(2)]
    client, worker = broker.client(), broker.worker(want=1)
    for function in large:
        broker.say(client, *function.messages)
    broker.say(client, ("submit", 0, large[0].id, {}, [b"0", b"1"]), ("submit", 2, large[0].id, {}, [b"2"]))
    assert said(broker, client) == [("accepted", 2), ("accepted", 3)], "its own size keeps no task of it out"
    broker.say(client, ("submit", 3, large[1].id, {}, [b"3"]))
    assert said(broker, client) == [("full", 3, "bytes of tasks", 100, "MULTIHOST_MAX_TASK_BYTES")]
    broker.say(client, ("waits",))
    for left in (2, 1, 0):
        (grant,) = broker.grants(worker)
        broker.settle(worker, grant.token)
        broker.want(worker, 1)
        told = [message[0] for message in said(broker, client)]
        assert told == (["outcomes"] if left else ["outcomes", "room"])
    assert broker.core._ledger.function_bytes == 0


def test_session_beyond_the_bound_is_refused_and_nothing_of_it_stays() -> None:
    broker = broker_with(sessions=2)
    one = broker.client("a")
    broker.client("b")
    with pytest.raises(ClusterFull, match="2 sessions"):
        broker.client("c")
    assert broker.count("sessions") == 2
    broker.leave(one)
    broker.client("a")  # one that is known comes back
    broker.say(len(broker.roles), ("close",))
    broker.client("c")


def test_tasks_of_a_program_that_is_away_wait_while_too_much_waits_for_it() -> None:
    broker = broker_with(result_bytes=10)
    client, other, worker = broker.client("a"), broker.client("b"), broker.worker(want=1)
    broker.submit(client, b"a0", b"a1")
    broker.submit(other, b"b0", b"b1", b"b2")
    broker.leave(client)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "result", b"x" * 11)
    assert grant.payload == b"a0"
    broker.pass_time(1.0, worker)
    assert "11 bytes of results wait" in broker.notes[-1].text
    broker.want(worker, 2)
    assert broker.payloads(worker) == [b"b0", b"b1"]
    broker.want(worker, 2)
    assert broker.payloads(worker) == [b"b2"]
    broker.client("a")  # with nothing acknowledged yet
    assert broker.payloads(worker) == [b"a1"]


def test_program_that_is_away_is_served_while_little_waits_for_it() -> None:
    broker = broker_with(result_bytes=10)
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", b"1")
    broker.leave(client)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "result", b"x" * 10)
    broker.pass_time(1.0, worker)
    broker.want(worker, 1)
    assert broker.payloads(worker) == [b"1"]


def test_tasks_of_a_program_that_does_not_read_wait_until_it_has_acknowledged_half() -> None:
    broker = broker_with(result_bytes=1_000_000)
    client, other, worker = broker.client("a"), broker.client("b"), broker.worker(want=3)
    broker.submit(client, *[b"a"] * 6)
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token, "result", bytes(400_000))
    assert [note.text for note in broker.notes if "wait to be read" in note.text] == [
        "1,200,000 bytes of results wait to be read by program a; its tasks wait, too"
    ]
    broker.submit(other, b"b0")
    broker.want(worker, 2)
    (grant,) = broker.grants(worker)
    assert grant.payload == b"b0", "who reads is served"
    broker.settle(worker, grant.token)
    assert broker.results(other) == {0: ("result", b"")}
    broker.say(client, ("acknowledge", [0]))
    assert broker.payloads(worker) == []
    broker.say(client, ("acknowledge", [1]))
    assert broker.payloads(worker) == [b"a"], "at once"
    assert len(broker.results(client)) == 3, "nothing was dropped"


def test_program_that_reads_is_not_held_for_what_waits_for_others() -> None:
    broker = broker_with(result_bytes=600_000)
    idle, busy, worker = broker.client("idle"), broker.client("busy"), broker.worker(want=2)
    broker.submit(idle, b"0", b"1", b"2")
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token, "result", bytes(400_000))
    broker.submit(busy, *[b"."] * 20)
    broker.want(worker, 20)
    grants = broker.grants(worker)
    assert {grant.payload for grant in grants} == {b"."}
    for number, grant in enumerate(grants):
        broker.settle(worker, grant.token, "result", bytes(100_000))
        broker.tick()
        broker.say(busy, ("acknowledge", [number]))
        assert not broker.core._ledger.ready.is_held("busy")
    assert broker.core._ledger.ready.is_held("idle")


def test_program_is_never_held_for_parts_that_it_cannot_acknowledge_yet() -> None:
    broker = broker_with(result_bytes=300_000)
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"chunk", chunk=("map", 6))
    (grant,) = broker.grants(worker)
    broker.say(worker, ("parts", [(grant.token, 1, bytes(400_000))]))
    broker.say(worker, ("give_back", [grant.token]))
    broker.tick()
    broker.want(worker, 1)
    assert broker.payloads(worker) == [b"chunk"]


def test_tasks_of_a_job_wait_while_its_collector_uses_none_and_go_on_when_it_asks_for_one() -> None:
    broker = broker_with(result_bytes=300_000)
    submitter = broker.client("j", job="job")
    broker.submit(submitter, b"0", b"1", b"2")
    broker.say(submitter, ("seal", 3, 1))
    broker.say(submitter, ("close",))
    worker = broker.worker(want=2)
    first, second = broker.grants(worker)
    broker.settle(worker, second.token, "result", bytes(400_000))
    broker.say(worker, ("give_back", [first.token]))
    collector = broker.collector("job")
    broker.tick()
    broker.want(worker, 1)
    assert broker.payloads(worker) == []
    broker.say(collector, ("collect", 0))
    assert broker.payloads(worker) == [b"0"]


def test_bytes_of_results_are_those_not_acknowledged_over_a_restart_of_the_master() -> None:
    broker = broker_with()
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, b"0", b"1")
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token, "result", b"xyz")
    broker.say(client, ("acknowledge", [0]))
    broker.restart()
    assert broker.core._ledger.sessions["s"].result_bytes == 3
    check_replay(broker)


@pytest.mark.parametrize("slots", [0, -1, MAX_SLOTS + 1, 1 << 80])
def test_worker_that_claims_an_absurd_number_of_slots_is_refused_with_the_bound_and_the_settings(slots: int) -> None:
    broker = broker_with()
    with pytest.raises(ProtocolError, match=r"1 to 10,000 slots.*MULTIHOST_SLOTS.*MULTIHOST_THREADS"):
        broker.worker(slots=slots)
    assert broker.count("workers") == []


def test_worker_is_leased_no_more_than_its_slots_are_worth_however_often_it_wants_more() -> None:
    broker = broker_with()
    client, honest = broker.client(), broker.worker(slots=1)
    rogue = broker.worker(slots=1)
    broker.submit(client, *[b"."] * (LEASES_PER_SLOT + 10))
    for _ in range(3):
        broker.want(rogue, 1_000_000)
    grants = broker.grants(rogue)
    assert len(grants) == LEASES_PER_SLOT
    broker.want(honest, 20)
    assert len(broker.payloads(honest)) == 10, "what is left is for others"
    broker.submit(client, b"more", first=LEASES_PER_SLOT + 10)
    broker.settle(rogue, grants[0].token)
    broker.want(rogue, 1_000_000)
    assert broker.payloads(honest) + broker.payloads(rogue) == [b"more"]


# --- the client ------------------------------------------------------------------------------------------------------


def payloads(client: ClientCore) -> list[bytes]:
    return [payload for name, *fields in client.next_batch(NOW) if name == "submit" for payload in fields[3]]  # type: ignore[attr-defined]


def add(client: ClientCore, payload: bytes, patient: bool) -> int:
    return client.add(CODE_OF_F, PLAIN.wire, payload, patient=patient)


def test_call_that_is_refused_fails_and_a_patient_one_is_sent_again_when_there_is_room() -> None:
    client = ClientCore()
    for payload, patient in ((b"0", False), (b"1", True), (b"2", False), (b"3", True)):
        add(client, payload, patient)
    assert payloads(client) == [b"0", b"1", b"2", b"3"]
    add(client, b"4", patient=True)
    add(client, b"5", patient=False)
    assert client.refused(1) == [2, 5]
    assert client.next_batch(NOW) == [("waits",)]
    assert client.next_batch(NOW) == []
    client.room()
    assert payloads(client) == [b"1", b"3", b"4"]
    client.accepted(5)
    assert set(client.pending) == {0, 1, 3, 4}


def test_batch_that_left_behind_a_refused_task_is_sent_again_with_it() -> None:
    client = ClientCore()
    add(client, b"0", patient=True)
    assert payloads(client) == [b"0"]
    add(client, b"1", patient=True)
    add(client, b"2", patient=False)
    assert payloads(client) == [b"1", b"2"]
    assert client.refused(0) == [2]
    client.room()
    assert payloads(client) == [b"0", b"1"]


def test_outcome_before_the_refusal_of_what_followed_counts() -> None:
    client = ClientCore()
    add(client, b"0", patient=True)
    add(client, b"1", patient=True)
    payloads(client)
    client.finished(0, 1)
    assert client.refused(1) == []
    client.room()
    assert payloads(client) == [b"1"]


def test_call_that_the_master_had_taken_does_not_fail_because_the_next_master_is_full() -> None:
    client = ClientCore()
    add(client, b"0", patient=False)
    payloads(client)
    client.accepted(1)
    client.reconnected(known=False, accepted=0)
    assert payloads(client) == [b"0"]
    assert client.refused(0) == []
    client.room()
    assert payloads(client) == [b"0"]


def test_full_master_is_asked_again_after_a_new_connection() -> None:
    client = ClientCore()
    add(client, b"0", patient=True)
    payloads(client)
    client.refused(0)
    client.reconnected(known=True, accepted=0)
    assert payloads(client) == [b"0"]
