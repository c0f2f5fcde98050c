"""multihost/broker/core.py: who gets which task, and that each ends in one outcome, whoever dies."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from multihost.broker.events import Close, Heard, Send
from multihost.broker.tasks import MAX_DELIVERIES, TRANSITIONS, Task, TaskEvent, TaskState
from multihost.deaths import Death
from multihost.errors import ProtocolError, WorkerDied
from multihost.payload import LARGE_BLOB_BYTES, content_id, load_error, load_part
from tests.unit.brokers import (
    ARCHIVE,
    CUBE,
    LAMBDA,
    LEASE_TIMEOUT,
    SESSION_TIMEOUT,
    SQUARE,
    Broker,
    Function,
    Grant,
    check_invariants,
    check_replay,
)


@pytest.fixture
def broker() -> Iterator[Broker]:
    """At the end, as after every event, the invariants hold."""
    broker = Broker()
    yield broker
    check_invariants(broker.core, broker.restarted)
    check_replay(broker)


def numbers(begin: int, end: int) -> list[bytes]:
    """Payloads that tell the sequence numbers of their tasks."""
    return [str(number).encode() for number in range(begin, end)]


# --- submitting ------------------------------------------------------------------------------------------------------


def test_submit_is_accepted_up_to_the_number_after_its_last(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, *numbers(0, 3))
    assert broker.take(client) == [("accepted", 3)]
    assert broker.count("queued") == 3


def test_submit_repeated_after_a_lost_answer_is_the_same_tasks(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, *numbers(0, 3))
    broker.submit(client, *numbers(0, 3))
    broker.submit(client, *numbers(1, 5), first=1)
    assert broker.take(client) == [("accepted", 3), ("accepted", 3), ("accepted", 5)]
    assert broker.payloads(broker.worker(want=10)) == numbers(0, 5)


def test_task_that_has_ended_is_not_queued_again_by_a_late_repetition(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("settle", [(grant.token, "result", b"r")]))
    broker.say(client, ("acknowledge", [0]))
    broker.submit(client, b"0")
    assert (broker.count("submitted"), broker.count("queued")) == (1, 0)


def test_numbers_may_have_gaps(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"2", b"3", first=2)
    broker.submit(client, b"9", first=9)
    assert broker.take(client) == [("accepted", 4), ("accepted", 10)]
    assert broker.payloads(broker.worker(want=10)) == [b"2", b"3", b"9"]


def test_empty_submit_is_accepted(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client)
    assert broker.take(client) == [("accepted", 0)]


# --- granting --------------------------------------------------------------------------------------------------------


def test_task_goes_at_once_to_a_worker_that_wants_one(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", b"1")
    grants = broker.grants(worker)
    assert [(g.session, g.function_id, g.needs, g.payload) for g in grants] == [("s", SQUARE.id, (ARCHIVE.id,), b"0")]
    assert (broker.count("queued"), broker.count("leased")) == (1, 1)


def test_worker_gets_no_more_than_it_wants_and_no_less(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, *numbers(0, 10))
    assert broker.grants(worker) == []
    broker.want(worker, 4)
    assert broker.payloads(worker) == numbers(0, 4)
    broker.want(worker, 100)
    assert broker.payloads(worker) == numbers(4, 10)


def test_want_replaces_what_was_wanted_before(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=5)
    broker.want(worker, 2)
    broker.submit(client, *numbers(0, 10))
    assert broker.payloads(worker) == numbers(0, 2)
    broker.say(worker, broker.wanting(worker, 3), broker.wanting(worker, 0))
    assert broker.grants(worker) == []


def test_what_was_granted_meanwhile_counts_against_what_is_wanted(broker: Broker) -> None:
    """A worker that wants one more task, and another one before it has the first, gets two in all."""
    client, worker = broker.client(), broker.worker()
    broker.submit(client, *numbers(0, 10))
    one, two = broker.wanting(worker, 1), broker.wanting(worker, 2)
    broker.say(worker, one)
    broker.say(worker, two)
    assert broker.payloads(worker) == numbers(0, 2)
    broker.say(worker, one)  # it would rather have had one
    assert broker.payloads(worker) == []
    broker.want(worker, 1)
    assert broker.payloads(worker) == numbers(2, 3)


def test_tasks_are_shared_evenly_between_hungry_workers(broker: Broker) -> None:
    client = broker.client()
    workers = [broker.worker(want=100) for _ in range(3)]
    broker.submit(client, *numbers(0, 10))
    counts = [len(broker.grants(worker)) for worker in workers]
    assert sorted(counts) == [3, 3, 4]
    broker.submit(client, *numbers(10, 12), first=10)
    assert [len(broker.grants(worker)) for worker in workers].count(1) == 2


def test_what_one_worker_does_not_want_goes_to_the_others(broker: Broker) -> None:
    client = broker.client()
    modest, greedy = broker.worker(want=1), broker.worker(want=100)
    broker.submit(client, *numbers(0, 10))
    assert (len(broker.grants(modest)), len(broker.grants(greedy))) == (1, 9)


def test_worker_that_has_waited_longest_is_served_first(broker: Broker) -> None:
    client = broker.client()
    workers = [broker.worker(want=10) for _ in range(3)]
    served = []
    for number in range(6):
        broker.submit(client, str(number).encode(), first=number)
        served += [worker for worker in workers if broker.grants(worker)]
    assert served == workers * 2


def test_session_has_no_more_tasks_leased_than_its_limit(broker: Broker) -> None:
    client = broker.client(limit=2)
    workers = [broker.worker(want=10) for _ in range(2)]
    broker.submit(client, *numbers(0, 5))
    grants = {worker: broker.grants(worker) for worker in workers}
    assert broker.count("leased") == 2
    worker = next(w for w in workers if grants[w])
    broker.say(worker, ("settle", [(grants[worker][0].token, "result", b"")]))
    assert broker.count("leased") == 2
    assert broker.count("queued") == 2


@pytest.mark.parametrize("ending", ["settle", "give back", "lose", "die"])
def test_session_at_its_limit_goes_on_when_a_lease_ends_in_any_way(broker: Broker, ending: str) -> None:
    client, worker, other = broker.client(limit=1), broker.worker(want=1), broker.worker()
    broker.submit(client, *numbers(0, 2))
    (grant,) = broker.grants(worker)
    broker.want(other, 1)
    assert broker.grants(other) == []
    match ending:
        case "settle":
            broker.say(worker, ("settle", [(grant.token, "error", b"")]))
        case "give back":
            broker.say(worker, ("give_back", [grant.token]))
        case "lose":
            broker.say(worker, ("settle", [(grant.token, "lost", b"killed")]))
        case "die":
            broker.leave(worker)
    assert broker.payloads(other) == [b"1" if ending == "settle" else b"0"]


def test_sessions_take_turns_however_much_one_of_them_has(broker: Broker) -> None:
    busy, quick, worker = broker.client("busy"), broker.client("quick"), broker.worker()
    broker.submit(busy, *[b"busy"] * 1000)
    broker.submit(quick, *[b"quick"] * 3)
    broker.want(worker, 4)
    assert sorted(broker.payloads(worker)) == [b"busy", b"busy", b"quick", b"quick"]
    broker.want(worker, 4)
    assert sorted(broker.payloads(worker)) == [b"busy", b"busy", b"busy", b"quick"]


def test_sessions_take_turns_when_tasks_are_granted_one_by_one(broker: Broker) -> None:
    worker = broker.worker()
    for name in ("a", "b", "c"):
        broker.submit(broker.client(name), *[name.encode()] * 10)
    order = []
    for _ in range(9):
        broker.want(worker, 1)
        order += broker.payloads(worker)
    assert order == [b"a", b"b", b"c"] * 3


def test_session_at_its_limit_does_not_keep_another_waiting(broker: Broker) -> None:
    narrow, wide, worker = broker.client("narrow", limit=1), broker.client("wide"), broker.worker(want=10)
    broker.submit(narrow, *[b"narrow"] * 5)
    broker.submit(wide, *[b"wide"] * 5)
    assert sorted(broker.payloads(worker)) == [b"narrow", *[b"wide"] * 5]


def test_tasks_of_one_function_go_in_one_message_and_those_of_another_apart(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, *numbers(0, 2))
    broker.submit(client, *numbers(2, 4), first=2, function=CUBE)
    broker.submit(client, *numbers(4, 5), first=4)
    broker.want(worker, 10)
    grants = [message for message in broker.take(worker) if message[0] == "grant"]
    assert [message[2] for message in grants] == [SQUARE.id, CUBE.id, SQUARE.id]


# --- code ------------------------------------------------------------------------------------------------------------


def test_code_is_sent_once_to_each_worker_what_it_needs_first(broker: Broker) -> None:
    client, worker, other = broker.client(), broker.worker(want=1), broker.worker()
    broker.submit(client, *numbers(0, 3))
    broker.want(worker, 1)
    assert [message[:2] for message in broker.take(worker)] == [
        ("blob", ARCHIVE.id),
        ("blob", SQUARE.id),
        ("grant", "s"),
        ("grant", "s"),
    ]
    broker.submit(client, b"3", first=3, function=CUBE)
    broker.want(other, 1)
    broker.want(worker, 1)
    assert broker.take(other)[:2] == [("blob", ARCHIVE.id, ARCHIVE.content), ("blob", SQUARE.id, SQUARE.content)]
    assert [message[:2] for message in broker.take(worker)] == [("blob", CUBE.id), ("grant", "s")]


def test_worker_that_registers_anew_is_sent_the_code_anew(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=1)
    broker.submit(client, *numbers(0, 2))
    broker.leave(worker)
    again = broker.worker("w", want=1)
    assert [message[0] for message in broker.take(again)] == ["blob", "blob", "grant"]


def test_code_that_two_sessions_share_stays_until_both_have_ended(broker: Broker) -> None:
    one, two, worker = broker.client("one"), broker.client("two"), broker.worker(want=10)
    broker.submit(one, b"1")
    broker.submit(two, b"2")
    broker.submit(two, b"3", first=1, function=LAMBDA)
    assert [message[0] for message in broker.take(worker)].count("blob") == 3
    broker.say(one, ("close",))
    assert broker.take(worker) == [("forget", "one", [])]
    broker.say(two, ("close",))
    assert broker.take(worker) == [("forget", "two", sorted([ARCHIVE.id, SQUARE.id, LAMBDA.id]))]
    assert broker.count("blobs") == 0


def test_blobs_are_part_of_what_a_compaction_of_the_journal_would_write(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"12345", function=SQUARE)
    assert broker.core.held_bytes() == 5 + len(SQUARE.content) + len(ARCHIVE.content)


def test_worker_is_told_to_drop_only_what_it_has(broker: Broker) -> None:
    client, idle = broker.client(), broker.worker()
    broker.submit(client, b"0")
    broker.say(client, ("close",))
    assert broker.take(idle) == [("forget", "s", [])]


def test_function_that_its_client_releases_is_dropped_by_the_master_and_by_the_workers_that_had_it(
    broker: Broker,
) -> None:
    client, worker, idle = broker.client(), broker.worker(want=1), broker.worker()
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token)
    broker.take(client)
    broker.say(client, ("release", [SQUARE.id, CUBE.id]))  # the other one it never sent
    assert broker.take(client) == [("released", [SQUARE.id, CUBE.id])]
    assert broker.take(worker) == [("forget", "", [SQUARE.id])]
    assert broker.take(idle) == []
    assert broker.count("blobs") == 1
    check_replay(broker)
    broker.submit(client, b"1", first=1)
    broker.want(worker, 1)
    assert [message[0] for message in broker.take(worker)] == ["blob", "grant"]


@pytest.mark.parametrize("place", ["queued", "leased", "delayed"])
def test_what_a_task_or_another_blob_needs_is_not_released(broker: Broker, place: str) -> None:
    client, worker = broker.client(), broker.worker(want=1 if place == "leased" else 0)
    broker.submit(client, b"0", delay=5.0 if place == "delayed" else 0.0)
    broker.say(client, ("release", [SQUARE.id, ARCHIVE.id]))
    assert broker.take(client)[-1] == ("released", [SQUARE.id, ARCHIVE.id])
    assert broker.count("blobs") == 2
    broker.tick(6.0)
    broker.want(worker, 1)
    assert broker.payloads(worker) == [b"0"]


def test_function_that_another_session_or_a_dead_letter_uses_stays_when_it_is_released(broker: Broker) -> None:
    one, two, worker = broker.client("one"), broker.client("two"), broker.worker(want=10)
    broker.submit(one, b"1")
    broker.submit(two, b"2")
    for grant in broker.grants(worker):
        broker.settle(worker, grant.token)
    broker.say(one, ("release", [SQUARE.id]))
    assert broker.take(worker) == []
    broker.submit(two, b"3", first=1)
    for _ in range(MAX_DELIVERIES):
        broker.want(worker, 1)
        (grant,) = broker.grants(worker)
        broker.settle(worker, grant.token, "lost", b"killed")
    broker.say(two, ("release", [SQUARE.id]))
    assert (broker.count("dead_letters"), broker.count("blobs")) == (1, 2)
    broker.say(two, ("close",))
    assert broker.count("blobs") == 2
    check_replay(broker)


def test_large_function_of_a_task_s_session_is_its_own(broker: Broker) -> None:
    """So the program, which may have sent the same, releases its own alone; and it goes with that session."""
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"parent")
    large = Function(bytes(LARGE_BLOB_BYTES), (ARCHIVE,))
    broker.grants(worker)
    nested = broker.open(worker, 1)
    for say in (partial(broker.say, client), nested.say):
        say(*large.messages)
    broker.say(client, ("release", [large.id]))
    assert broker.count("blobs") == 3
    nested.submit(b"child", function=large)
    broker.want(worker, 1)
    assert broker.payloads(worker) == [b"child"]
    check_replay(broker)
    nested.close()
    assert broker.count("blobs") == 2
    assert ("forget", "", [large.id]) in broker.take(worker)
    check_replay(broker)


# --- outcomes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "counted"), [("result", "done"), ("error", "failed")])
def test_outcome_reaches_the_client_and_is_counted(broker: Broker, kind: str, counted: str) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("settle", [(grant.token, kind, b"content")]))
    assert broker.results(client) == {0: (kind, b"content")}
    assert (broker.count(counted), broker.count("leased")) == (1, 0)


def test_outcomes_of_one_message_reach_each_client_in_one_message(broker: Broker) -> None:
    one, two, worker = broker.client("one"), broker.client("two"), broker.worker(want=4)
    for client in (one, two):
        broker.submit(client, b"a", b"b")
    grants = broker.grants(worker)
    broker.say(worker, ("settle", [(grant.token, "result", grant.payload) for grant in grants]))
    for client in (one, two):
        (message,) = [message for message in broker.take(client) if message[0] == "outcomes"]
        assert message[1] == [(0, "result", b"a", ""), (1, "result", b"b", "")]


def test_second_outcome_for_a_token_changes_nothing(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("settle", [(grant.token, "result", b"first"), (grant.token, "error", b"second")]))
    broker.say(worker, ("settle", [(grant.token, "lost", b"third")]))
    assert broker.results(client) == {0: ("result", b"first")}
    assert (broker.count("done"), broker.count("stale")) == (1, 2)


def test_outcome_with_a_stale_token_changes_nothing_after_redelivery(broker: Broker) -> None:
    client, slow = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (old,) = broker.grants(slow)
    broker.say(slow, ("give_back", [old.token]))
    quick = broker.worker(want=1)
    (new,) = broker.grants(quick)
    assert new.token > old.token
    broker.say(slow, ("settle", [(old.token, "result", b"stale")]))
    assert broker.results(client) == {}
    broker.say(quick, ("settle", [(new.token, "result", b"fresh")]))
    assert broker.results(client) == {0: ("result", b"fresh")}


def test_token_of_another_worker_is_worth_nothing(broker: Broker) -> None:
    client, owner, thief = broker.client(), broker.worker(want=1), broker.worker()
    broker.submit(client, b"0")
    (grant,) = broker.grants(owner)
    broker.say(thief, ("settle", [(grant.token, "result", b"forged")]), ("give_back", [grant.token, 999]))
    assert broker.results(client) == {}
    assert broker.count("leased") == 1
    broker.say(owner, ("settle", [(grant.token, "result", b"true")]))
    assert broker.results(client) == {0: ("result", b"true")}


# --- workers that die ------------------------------------------------------------------------------------------------


def test_tasks_of_a_closed_connection_are_first_in_line_again_and_in_order(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=3)
    broker.submit(client, *numbers(0, 6))
    broker.leave(worker)
    assert (broker.count("queued"), broker.count("leased"), broker.count("redelivered")) == (6, 0, 3)
    assert broker.payloads(broker.worker(want=10)) == numbers(0, 6)


def test_tasks_of_a_dead_worker_go_at_once_to_one_that_waits(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, *numbers(0, 2))
    other = broker.worker(want=5)
    broker.leave(worker)
    assert broker.payloads(other) == numbers(0, 2)


def test_worker_that_falls_silent_loses_its_leases_and_its_connection(broker: Broker) -> None:
    client, silent, alive = broker.client(), broker.worker(want=1), broker.worker()
    broker.submit(client, b"0")
    broker.tick()
    broker.pass_time(LEASE_TIMEOUT - 0.5, alive)
    assert broker.count("leased") == 1
    broker.pass_time(1.0, alive)
    assert (broker.count("queued"), broker.count("leased")) == (1, 0)
    assert silent in broker.closed
    assert alive not in broker.closed
    assert not broker.closed[silent].broke_rules


@pytest.mark.parametrize("sign", ["heartbeat", "settle", "part of a large frame"])
def test_any_sign_of_life_renews_all_leases(broker: Broker, sign: str) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, *numbers(0, 2))
    for _ in range(5):
        broker.pass_time(LEASE_TIMEOUT * 0.6)
        match sign:
            case "heartbeat":
                broker.say(worker, ("heartbeat",))
            case "settle":
                broker.say(worker, ("settle", []))
            case _:
                broker.handle(Heard(worker))
    assert broker.count("leased") == 2


def test_worker_that_was_given_up_is_not_believed(broker: Broker) -> None:
    client, frozen = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(frozen)
    broker.tick()
    broker.pass_time(LEASE_TIMEOUT + 1)
    effects = broker.say(frozen, ("settle", [(grant.token, "result", b"late")]))
    assert effects[-1] == Close(frozen, "this connection's worker was given up", broke_rules=True)
    broker.leave(frozen)
    assert broker.results(client) == {}
    assert broker.count("queued") == 1


def test_death_of_a_process_blames_only_its_task(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, *numbers(0, 3))
    first, second = broker.grants(worker)
    broker.say(worker, ("settle", [(first.token, "lost", b"killed by SIGKILL")]))
    broker.want(worker, 1)
    assert broker.payloads(worker) == [b"0"]
    broker.say(worker, ("settle", [(second.token, "result", b"")]))
    assert broker.results(client) == {1: ("result", b"")}


def test_task_that_spent_its_deliveries_is_a_dead_letter_with_each_reason(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("a")
    broker.submit(client, b"0")
    for _ in range(MAX_DELIVERIES - 1):
        broker.want(worker, 1)
        (grant,) = broker.grants(worker)
        death = Death("killed by SIGSEGV", worker="host-a", signal="SIGSEGV", output="line 6")
        broker.say(worker, ("settle", [(grant.token, "lost", death.encode().encode())]))
    assert broker.results(client) == {}
    broker.want(worker, 1)
    broker.say(worker, ("begun", [broker.grants(worker)[0].token]))
    broker.leave(worker)
    ((kind, content),) = broker.results(client).values()
    error = load_error(content)
    assert kind == "error"
    assert isinstance(error, WorkerDied)
    assert error.losses == (
        "killed by SIGSEGV on worker host-a",
        "killed by SIGSEGV on worker host-a",
        "worker host-a was lost: its connection closed",
    )
    assert error.deaths == (death, death, Death(error.losses[2]))
    assert not any("{" in note.text for note in broker.notes)
    assert (broker.count("dead"), broker.count("queued"), broker.count("redelivered")) == (1, 0, 2)
    assert broker.notes[-1].level == "error" or "dead letter" in "".join(note.text for note in broker.notes)


def lose_workers(broker: Broker, count: int, *begin: bytes) -> list[Grant]:
    """As many workers take what there is and die, one after another, when they have begun some; the last grants."""
    grants: list[Grant] = []
    for _ in range(count):
        worker = broker.worker(want=10)
        grants = broker.grants(worker)
        broker.say(worker, ("begun", [grant.token for grant in grants if grant.payload in begin]))
        broker.leave(worker)
    return grants


def test_task_that_only_waited_in_lost_workers_backlogs_is_no_dead_letter(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, *numbers(0, 5))
    grants = lose_workers(broker, 20)
    assert [grant.payload for grant in grants] == numbers(0, 5)
    assert (broker.count("dead"), broker.count("queued"), broker.count("redelivered")) == (0, 5, 5)
    assert broker.results(client) == {}


def test_task_that_begins_on_each_worker_that_is_lost_is_a_dead_letter_and_its_neighbours_are_none(
    broker: Broker,
) -> None:
    client = broker.client()
    broker.submit(client, *numbers(0, 5))
    lose_workers(broker, MAX_DELIVERIES, b"3")
    assert list(broker.results(client)) == [3]
    assert (broker.count("dead"), broker.count("queued")) == (1, 4)


def test_task_that_was_lost_is_granted_to_run_apart_until_it_goes_on(broker: Broker) -> None:
    broker.submit(broker.client(), b"0", chunk=("map", 6), retries=1)
    lose_workers(broker, 1)
    worker = broker.worker(want=1)
    (grant,) = broker.grants(worker)
    assert grant.options["careful"] is True
    broker.say(worker, ("parts", [(grant.token, 1, b"")]), ("give_back", [grant.token]), broker.wanting(worker, 1))
    (grant,) = broker.grants(worker)
    assert "careful" not in grant.options


def test_what_had_begun_is_known_after_a_restart(broker: Broker) -> None:
    broker.submit(broker.client(), b"0", b"1")
    lose_workers(broker, MAX_DELIVERIES - 1, b"0")
    worker = broker.worker("w", want=2)
    (first, _) = broker.grants(worker)
    broker.say(worker, ("begun", [first.token]))
    check_replay(broker)
    broker.restart()
    broker.worker("w")  # it has kept nothing
    assert (broker.count("dead"), broker.count("queued")) == (1, 1)


def test_that_a_task_has_begun_is_of_one_delivery(broker: Broker) -> None:
    broker.submit(broker.client(), b"0")
    lose_workers(broker, MAX_DELIVERIES - 1, b"0")
    lose_workers(broker, 5)
    assert (broker.count("dead"), broker.count("queued")) == (0, 1)


def test_reason_that_is_no_text_does_not_stop_the_broker(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("settle", [(grant.token, "lost", b"\xff\xfe")]))
    assert broker.count("queued") == 1


def test_what_is_given_back_is_first_in_line_in_order_and_not_blamed(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, *numbers(0, 4))
    for _ in range(MAX_DELIVERIES + 2):
        broker.want(worker, 2)
        grants = broker.grants(worker)
        assert [grant.payload for grant in grants] == numbers(0, 2)
        broker.say(worker, ("give_back", [grant.token for grant in grants]))
    assert (broker.count("dead"), broker.count("redelivered"), broker.count("queued")) == (0, 0, 4)


def test_draining_worker_gets_nothing_more_and_may_still_settle(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("drain",))
    broker.submit(client, b"1", first=1)
    broker.want(worker, 5)
    assert broker.grants(worker) == []
    broker.say(worker, ("settle", [(grant.token, "result", b"")]))
    assert broker.results(client) == {0: ("result", b"")}
    ((state),) = [entry["state"] for entry in broker.count("workers")]
    assert state == "draining"


def test_worker_is_told_that_its_drain_is_known_after_all_that_was_granted(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=5)
    broker.submit(client, b"0")
    broker.say(worker, ("drain",))
    assert [message[0] for message in broker.take(worker)][-2:] == ["grant", "draining"]


def test_worker_that_comes_back_under_its_id_replaces_itself(broker: Broker) -> None:
    client, old, other = broker.client(), broker.worker("w", want=2), broker.worker("v")
    broker.submit(client, *numbers(0, 2))
    grants = broker.grants(old)
    broker.want(other, 1)
    new = broker.worker("w")
    assert old in broker.closed
    assert broker.payloads(other) == [b"0"]  # at once, not at the next tick
    broker.say(old, ("settle", [(grants[1].token, "result", b"stale")]))
    broker.leave(old)
    broker.want(new, 1)
    assert broker.payloads(new) == [b"1"]
    assert broker.results(client) == {}
    assert len(broker.count("workers")) == 2


def test_masters_own_pause_is_not_held_against_workers_and_clients(broker: Broker) -> None:
    client, worker, away = broker.client(), broker.worker(want=1), broker.client("away")
    broker.submit(client, b"0")
    broker.tick()
    broker.leave(away)
    broker.tick(SESSION_TIMEOUT + LEASE_TIMEOUT)  # the container was frozen
    assert (broker.count("leased"), broker.count("sessions")) == (1, 2)
    assert any("stood still" in note.text for note in broker.notes)
    broker.pass_time(LEASE_TIMEOUT - 1)
    assert broker.count("leased") == 1
    broker.pass_time(2)
    assert broker.count("leased") == 0
    assert worker in broker.closed


def test_ticks_that_are_a_little_late_are_no_pause(broker: Broker) -> None:
    broker.worker()
    broker.tick()
    for _ in range(8):
        broker.tick(1.5)
    assert broker.count("workers") == []


# --- clients that leave and return -----------------------------------------------------------------------------------


def test_client_that_returns_gets_outcomes_until_it_has_acknowledged_them(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=3)
    broker.submit(client, *numbers(0, 3))
    broker.leave(client)
    for grant in broker.grants(worker):
        broker.say(worker, ("settle", [(grant.token, "result", grant.payload)]))
    again = broker.client()
    everything = {n: ("result", str(n).encode()) for n in range(3)}
    assert broker.results(again) == everything
    broker.leave(again)
    again = broker.client()
    assert broker.results(again) == everything
    broker.say(again, ("acknowledge", [0, 2, 77]))
    broker.leave(again)
    assert broker.results(broker.client()) == {1: ("result", b"1")}


def test_client_that_returns_is_told_what_was_accepted(broker: Broker) -> None:
    client = broker.client()
    assert broker.core.knows("s")
    assert not broker.core.knows("t")
    broker.submit(client, *numbers(0, 3))
    broker.leave(client)
    broker.client()
    assert broker.core.session_state("s") == {"accepted": 3, "workers": 0, "slots": 0}


def test_client_on_a_new_connection_closes_its_old_one(broker: Broker) -> None:
    old = broker.client()
    new = broker.client()
    assert old in broker.closed
    effects = broker.say(old, *SQUARE.messages, ("submit", 0, SQUARE.id, {}, [b"0"]))
    assert effects[-1] == Close(old, "this connection's session has ended", broke_rules=True)
    assert broker.leave(old) == []
    broker.submit(new, b"0")
    assert broker.take(new) == [("accepted", 1)]


def test_code_of_a_session_outlives_its_connection(broker: Broker) -> None:
    broker.say(broker.client(), *SQUARE.messages)
    again = broker.client()
    broker.say(again, ("submit", 0, SQUARE.id, {}, [b"0"]))
    assert broker.take(again) == [("accepted", 1)]


def test_session_ends_when_its_client_stays_away_too_long(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, *numbers(0, 3))
    (grant,) = broker.grants(worker)
    broker.tick()
    broker.leave(client)
    broker.pass_time(SESSION_TIMEOUT, worker)
    assert broker.core.knows("s")
    broker.pass_time(1.0, worker)
    assert not broker.core.knows("s")
    assert (broker.count("cancelled"), broker.count("queued"), broker.count("leased")) == (3, 0, 0)
    assert broker.take(worker) == [("forget", "s", sorted([ARCHIVE.id, SQUARE.id]))]
    broker.say(worker, ("settle", [(grant.token, "result", b"late")]))
    assert broker.count("stale") == 1


def test_client_that_returns_in_time_keeps_its_session(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0")
    broker.tick()
    for _ in range(3):
        broker.leave(client)
        broker.pass_time(SESSION_TIMEOUT - 1)
        client = broker.client()
    broker.pass_time(2 * SESSION_TIMEOUT)
    assert broker.count("queued") == 1


def test_close_cancels_what_is_left_and_has_the_workers_forget(broker: Broker) -> None:
    client, worker, idle = broker.client(), broker.worker(want=2), broker.worker()
    broker.submit(client, *numbers(0, 5))
    first, second = broker.grants(worker)
    broker.say(worker, ("settle", [(first.token, "result", b"")]))
    broker.say(client, ("close",))
    assert (broker.count("done"), broker.count("cancelled"), broker.count("sessions")) == (1, 4, 0)
    assert broker.take(worker) == [("forget", "s", sorted([ARCHIVE.id, SQUARE.id]))]
    assert broker.take(idle) == [("forget", "s", [])]
    assert client in broker.closed
    assert not broker.closed[client].broke_rules
    broker.say(worker, ("settle", [(second.token, "result", b"late")]))
    assert broker.leave(client) == []


def test_session_that_is_closed_while_others_run_leaves_them_alone(broker: Broker) -> None:
    one, two, worker = broker.client("one"), broker.client("two"), broker.worker(want=4)
    broker.submit(one, b"1", b"1")
    broker.submit(two, b"2", b"2")
    grants = broker.grants(worker)
    broker.say(one, ("close",))
    broker.say(worker, ("settle", [(g.token, "result", b"") for g in grants]))
    assert set(broker.results(two)) == {0, 1}
    assert broker.count("stale") == 2


def test_name_of_a_closed_session_starts_anew(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0")
    broker.say(client, ("close",))
    again = broker.client()
    assert broker.core.session_state("s") == {"accepted": 0, "workers": 0, "slots": 0}
    broker.submit(again, b"0")
    assert broker.count("queued") == 1


# --- cancelling ------------------------------------------------------------------------------------------------------


def test_cancel_ends_what_is_queued_and_names_what_it_is_too_late_for(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, *numbers(0, 5))
    running, done = broker.grants(worker)
    broker.say(worker, ("settle", [(done.token, "result", b"")]))
    broker.take(client)
    broker.say(client, ("cancel", [0, 1, 3, 4, 99], False))
    assert broker.take(client) == [
        ("outcomes", [(3, "cancelled", b"", ""), (4, "cancelled", b"", "")]),
        ("too_late", [0, 1, 99]),
    ]
    assert (broker.count("cancelled"), broker.count("queued")) == (2, 1)
    broker.want(worker, 5)
    assert broker.payloads(worker) == [b"2"]
    broker.say(worker, ("settle", [(running.token, "result", b"r")]))
    assert broker.results(client) == {0: ("result", b"r")}


def test_cancel_that_is_repeated_is_too_late_and_its_outcome_stays(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0")
    broker.say(client, ("cancel", [0], False))
    broker.say(client, ("cancel", [0], False))
    assert broker.take(client)[-1] == ("too_late", [0])
    assert broker.results(broker.client()) == {0: ("cancelled", b"")}


def test_cancel_of_what_runs_stops_it_and_its_late_outcome_changes_nothing(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, *numbers(0, 3))
    first, _ = broker.grants(worker)
    broker.take(client)
    broker.say(client, ("cancel", [0, 2, 9], True))
    assert broker.take(worker) == [("stop", [first.token])]
    assert broker.take(client) == [
        ("outcomes", [(0, "cancelled", b"", ""), (2, "cancelled", b"", "")]),
        ("too_late", [9]),
    ]
    broker.settle(worker, first.token)
    assert (broker.count("stale"), broker.count("leased")) == (1, 1)
    assert broker.results(client) == {}


def test_session_at_its_limit_goes_on_when_what_ran_was_cancelled(broker: Broker) -> None:
    client, worker = broker.client(limit=1), broker.worker(want=5)
    broker.submit(client, *numbers(0, 2))
    broker.say(client, ("cancel", [0], True))
    assert broker.payloads(worker) == numbers(0, 2)


# --- retries ---------------------------------------------------------------------------------------------------------


def test_task_that_raised_is_tried_again_after_a_delay_that_doubles(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", retries=3, backoff=1.0)
    for delay in (1.0, 2.0, 4.0):
        (grant,) = broker.grants(worker)
        broker.settle(worker, grant.token, "retry", b"oops")
        broker.want(worker, 1)
        assert broker.core.next_deadline() == broker.now + delay
        broker.pass_time(delay - 0.25, worker)
        assert broker.grants(worker) == []
        broker.tick(0.25)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "retry", b"oops")
    assert broker.take(client)[-1] == ("outcomes", [(0, "error", b"oops", f"on worker host-w{worker}, delivery 4")])
    assert (broker.count("retried"), broker.count("failed"), broker.count("queued")) == (3, 1, 0)


def test_next_try_without_a_delay_is_due_at_once_and_before_the_others(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, *numbers(0, 3), retries=1, backoff=0.0)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "retry")
    broker.tick(0.0)
    broker.want(worker, 1)
    assert broker.payloads(worker) == [b"0"]


def test_retry_that_nobody_asked_for_is_a_failure(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "retry", b"oops")
    assert broker.results(client) == {0: ("error", b"oops")}


def test_task_that_waits_for_its_next_try_can_be_cancelled(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", retries=1, backoff=5.0)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "retry")
    assert broker.count("queued") == 1
    broker.say(client, ("cancel", [0], False))
    assert broker.results(client) == {0: ("cancelled", b"")}
    broker.pass_time(6.0, worker)
    assert broker.count("queued") == 0


def test_session_that_ends_takes_its_waiting_tries_with_it(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", retries=1, backoff=5.0)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "retry")
    broker.say(client, ("close",))
    assert (broker.count("cancelled"), broker.count("queued")) == (1, 0)
    broker.pass_time(6.0, worker)
    assert broker.count("queued") == 0


def test_next_try_is_not_early_because_a_task_of_that_name_once_waited(broker: Broker) -> None:
    worker = broker.worker()
    for delay in (1.0, 30.0):
        client = broker.client()
        broker.submit(client, b"0", retries=1, backoff=delay)
        broker.want(worker, 1)
        broker.settle(worker, broker.grants(worker)[0].token, "retry")
        if delay == 1.0:
            broker.say(client, ("close",))
    broker.want(worker, 1)
    broker.pass_time(29.0, worker)
    assert broker.payloads(worker) == []
    broker.pass_time(1.0, worker)
    assert broker.payloads(worker) == [b"0"]


# --- priorities and labels -------------------------------------------------------------------------------------------


def test_higher_priority_goes_first_and_none_waits_for_ever(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, *[b"low"] * 3, priority=-1)
    broker.submit(client, *[b"high"] * 50, first=3, priority=5)
    order = []
    for _ in range(30):
        broker.want(worker, 1)
        order += broker.payloads(worker)
    assert [place for place, payload in enumerate(order, start=1) if payload == b"low"] == [10, 20, 30]


def test_task_with_labels_goes_only_to_a_worker_that_has_them_all(broker: Broker) -> None:
    client, plain = broker.client(), broker.worker(want=5)
    broker.submit(client, b"gpu", labels=("gpu",))
    broker.submit(client, b"both", first=1, labels=("big", "gpu"))
    broker.submit(client, b"any", first=2)
    assert broker.payloads(plain) == [b"any"]
    assert broker.payloads(broker.worker(want=5, labels=["gpu"])) == [b"gpu"]
    assert broker.payloads(broker.worker(want=5, labels=["gpu", "big", "fast"])) == [b"both"]


def test_program_is_told_once_what_waits_for_labels_that_no_worker_has(broker: Broker) -> None:
    client = broker.client()
    broker.worker(want=5)
    broker.take(client)
    broker.submit(client, b"0", labels=("gpu",))
    broker.submit(client, b"1", first=1, labels=("gpu",))
    assert [message for message in broker.take(client) if message[0] == "lacking"] == [("lacking", [["gpu"]])]
    gpu = broker.worker(labels=["gpu"])
    broker.take(client)
    broker.leave(gpu)
    assert broker.take(client)[-1] == ("lacking", [["gpu"]])


@pytest.mark.parametrize(
    "options",
    [
        {"retries": -1},
        {"retries": 1.5},
        {"backoff": 1},
        {"timeout": 0.0},
        {"timeout": float("nan")},
        {"labels": ["gpu"]},
        {"labels": (1,)},
        {"chunk": ("all", 1)},
        {"chunk": ("map", 0)},
        {"chunk": "map"},
        {"name": b""},
        {"priority": 10**6},
        {"unknown": 1},
        {1: 1},
    ],
)
def test_submit_with_an_option_that_is_wrong_is_refused(broker: Broker, options: dict[Any, object]) -> None:
    client = broker.client()
    broker.say(client, *SQUARE.messages, ("submit", 0, SQUARE.id, options, [b"0"]))
    assert broker.closed[client].broke_rules
    assert broker.count("submitted") == 0


def test_worker_is_told_the_options_that_are_its_business(broker: Broker) -> None:
    client, worker = broker.client(lifetime=7), broker.worker(want=1)
    broker.submit(client, b"0", timeout=2.5, name="nightly", retries=2, backoff=1.0, priority=3)
    (grant,) = broker.grants(worker)
    assert grant.options == {"timeout": 2.5, "name": "nightly", "lifetime": 7}


# --- chunks ----------------------------------------------------------------------------------------------------------


def rows_told(broker: Broker, client: int) -> list[tuple[object, ...]]:
    """Number, kind and content of each row of outcomes that a client was sent since it was asked last."""
    told: list[Any] = [message[1] for message in broker.take(client) if message[0] == "outcomes"]
    return [row[:3] for rows in told for row in rows]


def test_items_of_a_chunk_that_have_ended_are_not_run_again_when_its_worker_dies(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", chunk=("map", 6))
    (grant,) = broker.grants(worker)
    assert grant.options == {"chunk": "map"}
    broker.say(worker, ("parts", [(grant.token, 3, b"a"), (grant.token, 1, b"b")]))
    assert rows_told(broker, client) == [(0, "part", b"a"), (0, "part", b"b")]
    broker.leave(worker)
    other = broker.worker(want=1)
    (grant,) = broker.grants(other)
    assert grant.options == {"chunk": "map", "done": 4, "careful": True}
    broker.settle(other, grant.token, "result", b"c")
    assert broker.results(client) == {0: ("result", b"c")}


def test_parts_are_told_again_to_a_client_that_returns_until_it_has_acknowledged_the_chunk(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", chunk=("map", 6))
    (grant,) = broker.grants(worker)
    broker.say(worker, ("parts", [(grant.token, 1, b"a")]))
    broker.leave(client)
    broker.settle(worker, grant.token, "result", b"b")
    client = broker.client()
    assert rows_told(broker, client) == [(0, "part", b"a"), (0, "result", b"b")]
    broker.say(client, ("acknowledge", [0]))
    broker.leave(client)
    assert broker.take(broker.client()) == []


def test_chunk_that_has_not_ended_cannot_be_acknowledged(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", chunk=("map", 6))
    (grant,) = broker.grants(worker)
    broker.say(worker, ("parts", [(grant.token, 1, b"one")]))
    broker.say(client, ("acknowledge", [0]))
    assert [row[2] for row in broker.take(broker.client())[-1][1]] == [b"one"]  # type: ignore[attr-defined]


def test_item_that_kills_every_process_is_given_up_and_the_chunk_goes_on_behind_it(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, b"0", chunk=("map", 6))
    for _ in range(MAX_DELIVERIES):
        broker.want(worker, 1)
        (grant,) = broker.grants(worker)
        if "done" not in grant.options:
            broker.say(worker, ("parts", [(grant.token, 2, b"first two")]))
        broker.settle(worker, grant.token, "lost", b"killed")
    start, _, outcomes = load_part(broker.parts["s", 0][-1])
    assert (start, len(outcomes)) == (2, 1)
    error = outcomes.errors[0]
    assert isinstance(error, WorkerDied)
    assert len(error.losses) == MAX_DELIVERIES
    broker.want(worker, 1)
    (grant,) = broker.grants(worker)
    assert grant.options["done"] == 3
    assert broker.count("dead") == 0


def test_progress_within_a_chunk_forgets_the_losses_of_the_items_before(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, b"0", chunk=("map", 6))
    for delivery in range(3 * MAX_DELIVERIES):
        broker.want(worker, 1)
        (grant,) = broker.grants(worker)
        assert grant.options.get("done", 0) == delivery // 2
        if delivery % 2:
            broker.say(worker, ("parts", [(grant.token, 1, b"")]))
        broker.settle(worker, grant.token, "lost", b"killed")
    assert broker.results(client) == {}


def test_parts_of_what_is_no_chunk_break_the_rules_and_stale_ones_change_nothing(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    broker.say(worker, ("parts", [(99, 1, b"")]))
    assert broker.count("stale") == 1
    (grant,) = broker.grants(worker)
    broker.say(worker, ("parts", [(grant.token, 1, b"")]))
    assert broker.closed[worker].broke_rules


# --- what tasks print ------------------------------------------------------------------------------------------------


def test_parts_of_which_one_breaks_the_rules_are_not_applied_at_all(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, b"0", chunk=("map", 6))
    broker.submit(client, b"1", first=1)
    (chunk, plain) = broker.grants(worker)
    broker.say(worker, ("parts", [(chunk.token, 1, b"one"), (plain.token, 1, b"none")]))
    broker.leave(worker)
    (again, _) = broker.grants(broker.worker(want=2))
    assert "done" not in again.options  # its client was told of no part
    assert broker.parts == {}


def test_what_a_task_prints_goes_to_its_client_and_nobody_else(broker: Broker) -> None:
    client, other, worker = broker.client(), broker.client("other"), broker.worker("a", want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.take(client)
    broker.say(worker, ("output", [(grant.token, "hello"), (99, "stale")]))
    assert broker.take(client) == [("output", 0, "host-a", "hello")]
    broker.leave(client)
    broker.say(worker, ("output", [(grant.token, "nobody listens")]))
    assert not [message for message in broker.take(other) if message[0] == "output"]


# --- tasks that submit tasks -----------------------------------------------------------------------------------------


def parent_of(broker: Broker, limit: int | None = None) -> tuple[int, int]:
    """A program's session with one task that runs; the connections of client and worker."""
    client, worker = broker.client(limit=limit), broker.worker(want=1)
    broker.submit(client, b"parent")
    assert broker.payloads(worker) == [b"parent"]
    return client, worker


def test_task_submits_tasks_through_its_worker_with_the_code_of_its_program(broker: Broker) -> None:
    _, worker = parent_of(broker, limit=1)
    nested = broker.open(worker, 1)
    answer = {"known": False, "accepted": 0, "workers": 1, "slots": 1}
    assert broker.take(worker) == [("relay_open", 1, answer)]
    nested.submit(b"child")
    broker.want(worker, 1)
    (grant,) = broker.grants(worker)
    assert (grant.session, grant.payload, grant.options) == ("s", b"child", {"depth": 1})
    broker.settle(worker, grant.token, "result", b"r")
    assert broker.results(nested.link) == {0: ("result", b"r")}


def test_deeper_tasks_go_before_those_that_wait_for_them(broker: Broker) -> None:
    client, worker = parent_of(broker)
    broker.submit(client, b"0a", b"0b", first=1)
    one, two = broker.open(worker, 1), broker.open(worker, 2, depth=2)
    one.submit(b"1a", b"1b")
    two.submit(b"2a")
    broker.submit(broker.client("other"), *[b"other"] * 9)
    order = []
    for _ in range(8):
        broker.want(worker, 1)
        order += broker.payloads(worker)
    assert [payload for payload in order if payload != b"other"] == [b"2a", b"1a", b"1b", b"0a"]
    assert order.count(b"other") == 4, "another program has its turns"


def test_session_of_a_task_ends_with_its_channel_and_leaves_its_family_alone(broker: Broker) -> None:
    client, worker = parent_of(broker)
    nested, helper = broker.open(worker, 1), broker.worker(want=1)
    nested.submit(b"a", b"b")
    (grant,) = broker.grants(helper)
    nested.close()
    assert broker.take(helper) == [("stop", [grant.token])]
    assert (broker.count("cancelled"), broker.count("leased"), broker.count("sessions")) == (2, 1, 1)
    assert nested.submit(b"late") == []
    broker.submit(client, b"1", first=1)
    assert broker.count("queued") == 1


def test_session_of_a_task_can_say_goodbye_itself(broker: Broker) -> None:
    _, worker = parent_of(broker)
    nested = broker.open(worker, 1)
    nested.submit(b"a")
    nested.say(("close",))
    assert (broker.count("cancelled"), broker.count("sessions")) == (1, 1)
    nested.close()
    assert worker not in broker.closed


def test_sessions_of_tasks_end_with_their_worker_and_with_their_program(broker: Broker) -> None:
    client, worker = parent_of(broker)
    broker.open(worker, 1).submit(b"a")
    broker.leave(worker)
    assert (broker.count("cancelled"), broker.count("sessions"), broker.count("queued")) == (1, 1, 1)
    again = broker.worker(want=1)
    assert broker.payloads(again) == [b"parent"]
    broker.open(again, 1).submit(b"a")
    broker.take(again)
    broker.say(client, ("close",))
    assert (broker.count("sessions"), broker.count("queued"), broker.count("leased")) == (0, 0, 0)
    assert [message[0] for message in broker.take(again)] == ["forget"]


def test_worker_opens_sessions_only_for_programs_whose_tasks_it_was_granted(broker: Broker) -> None:
    parent_of(broker)
    stranger = broker.worker()
    nested = broker.open(stranger, 1)
    assert [message[0] for message in broker.take(nested.link)] == ["refused"]
    assert stranger not in broker.closed
    assert broker.count("sessions") == 1


def test_task_that_breaks_the_rules_loses_its_session_and_its_worker_serves_on(broker: Broker) -> None:
    _, worker = parent_of(broker)
    nested = broker.open(worker, 1)
    nested.submit(b"a")
    nested.say(("submit", 1, ALIEN.id, {}, [b"b"]))
    assert broker.take(nested.link)[-1][0] == "refused"
    assert broker.count("sessions") == 1
    nested.say(("want", 5))
    assert worker not in broker.closed


def test_session_of_a_task_is_not_for_a_client_that_knows_its_name(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    nested = broker.open(worker, 1)
    with pytest.raises(ProtocolError, match="through its worker"):
        broker.client(nested.session)
    nested.submit(b"1")
    assert ("accepted", 1) in broker.take(nested.link)


def test_task_whose_session_introduces_itself_wrongly_is_refused(broker: Broker) -> None:
    _, worker = parent_of(broker)
    broker.say(worker, ("relay_open", 1, "s", {"session": 5}))
    assert [message[0] for message in broker.take((worker, 1))] == ["refused"]
    assert worker not in broker.closed


# --- notices and questions -------------------------------------------------------------------------------------------


def test_clients_are_told_how_many_workers_and_slots_there_are_when_that_changes(broker: Broker) -> None:
    client, other = broker.client("one"), broker.client("two")
    first = broker.worker(slots=2)
    broker.worker(slots=3)
    assert broker.take(client) == broker.take(other) == [("workers", 1, 2), ("workers", 2, 5)]
    broker.leave(first)
    assert broker.take(client) == broker.take(other) == [("workers", 1, 3)]


@pytest.mark.parametrize(("role", "message"), [("client", "ping"), ("worker", "heartbeat")])
def test_ping_is_answered(broker: Broker, role: str, message: str) -> None:
    connection = broker.client() if role == "client" else broker.worker()
    broker.say(connection, (message,))
    assert broker.take(connection) == [("pong",)]


def test_monitor_is_told_what_the_master_knows_in_plain_data(broker: Broker) -> None:
    client, worker, monitor = broker.client(), broker.worker("a", slots=4, want=1), broker.monitor()
    broker.submit(client, b"0", b"1")
    broker.call(99, "put", "item")
    broker.say(monitor, ("ask",))
    assert broker.take(monitor) == [
        (
            "statistics",
            {
                "queued": 1,
                "leased": 1,
                "sessions": 1,
                "blobs": 2,
                "dead_letters": 0,
                "submitted": 2,
                "done": 0,
                "failed": 0,
                "dead": 0,
                "cancelled": 0,
                "expired": 0,
                "redelivered": 0,
                "retried": 0,
                "stale": 0,
                "queues": {"get_task_queue": 1, "get_result_queue": 0},
                "workers": [
                    {
                        "id": "a",
                        "name": "host-a",
                        "state": "ready",
                        "slots": 4,
                        "python": "3.11",
                        "labels": [],
                        "leases": 1,
                        "settled": 0,
                    }
                ],
            },
        )
    ]
    assert broker.leave(monitor) == []
    assert worker not in broker.closed


def test_arguments_and_results_are_never_in_the_log(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"secret argument")
    (grant,) = broker.grants(worker)
    broker.say(worker, ("settle", [(grant.token, "error", b"secret result")]))
    broker.leave(worker)
    broker.say(client, ("close",))
    assert not any("secret" in f"{note.text} {note.fields}" for note in broker.notes)


# --- shared queues ---------------------------------------------------------------------------------------------------


def test_shared_queues_are_served_by_name_and_apart(broker: Broker) -> None:
    broker.call(50, "put", "task")
    broker.call(51, "get", queue="get_result_queue")
    broker.call(52, "get")
    assert [(reply.connection, reply.value) for reply in broker.replies] == [(50, None), (52, "task")]
    assert broker.core.exposed("get_task_queue") is not None
    assert broker.core.exposed("other") is None


@pytest.mark.parametrize("method", ["qsize", "__repr__"])
def test_who_asks_one_queue_has_read_the_answer_of_another(broker: Broker, method: str) -> None:
    broker.call(50, "put", "task")
    broker.call(51, "get")
    broker.call(51, method, queue="get_result_queue")
    broker.leave(51, delivered=False)
    assert broker.core.statistics()["queues"] == {"get_task_queue": 0, "get_result_queue": 0}


def test_shared_queue_describes_itself(broker: Broker) -> None:
    broker.call(50, "put", "task")
    broker.call(50, "__repr__")
    assert broker.replies[-1].value == "<shared queue 'get_task_queue', 1 items>"


def test_item_goes_back_when_its_getter_died_before_reading_it(broker: Broker) -> None:
    broker.call(50, "put", "task")
    broker.call(51, "get")
    broker.leave(51, delivered=False)
    broker.call(52, "get")
    assert (broker.replies[-1].connection, broker.replies[-1].value) == (52, "task")


def test_waiting_call_has_a_deadline_and_a_tick_ends_it(broker: Broker) -> None:
    assert broker.core.next_deadline() is None
    broker.call(50, "get", True, 3)
    broker.call(51, "get", True, 2, queue="get_result_queue")
    assert broker.core.next_deadline() == broker.now + 2
    broker.tick(2.0)
    assert [reply.connection for reply in broker.replies] == [51]


def test_second_request_of_a_waiting_caller_closes_its_connection(broker: Broker) -> None:
    broker.call(50, "get")
    broker.call(50, "qsize")
    assert broker.closed[50].broke_rules


# --- broken rules ----------------------------------------------------------------------------------------------------

ALIEN = Function(b"never sent")
BAD_OF_A_CLIENT: dict[str, tuple[object, ...]] = {
    "function that was not sent": ("submit", 0, ALIEN.id, {}, [b"0"]),
    "negative number": ("submit", -1, SQUARE.id, {}, [b"0"]),
    "content of another hash": ("blob", ALIEN.id, b"other content", ()),
    "other needs than those in the hash": ("blob", content_id(b"x"), b"x", (ARCHIVE.id,)),
    "need that was not sent": ("blob", content_id(b"x", (ALIEN.id,)), b"x", (ALIEN.id,)),
}
BAD_OF_A_WORKER = {
    "negative want": ("want", -1),
    "want beyond reason": ("want", 10**12),
    "unknown outcome": ("settle", [(1, "result", b""), (2, "cancelled", b"")]),
}


@pytest.mark.parametrize("message", BAD_OF_A_CLIENT.values(), ids=list(BAD_OF_A_CLIENT))
def test_client_that_breaks_the_rules_is_cut_off_and_nothing_of_its_message_holds(
    broker: Broker, message: tuple[object, ...]
) -> None:
    client = broker.client()
    broker.say(client, *SQUARE.messages)
    before = broker.core.statistics()
    good: tuple[object, ...] = ("submit", 0, SQUARE.id, {}, [b"0"])
    effects = broker.say(client, message, good)
    reason = broker.closed[client].reason
    assert effects == [Send(client, ("refused", reason)), Close(client, reason, broke_rules=True)]
    assert broker.core.statistics() == before  # what follows in the batch does not hold either
    assert broker.core.knows("s")  # a new connection goes on with the session


@pytest.mark.parametrize("message", BAD_OF_A_WORKER.values(), ids=list(BAD_OF_A_WORKER))
def test_worker_that_breaks_the_rules_is_cut_off_and_nothing_of_its_message_holds(
    broker: Broker, message: tuple[object, ...]
) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, b"0", b"1")
    assert [grant.token for grant in broker.grants(worker)] == [1, 2]
    broker.take(client)
    broker.say(worker, message, broker.wanting(worker, 5))
    assert broker.closed[worker].broke_rules
    assert broker.results(client) == {}
    assert broker.count("queued") == 2


def test_worker_that_was_cut_off_is_granted_nothing_that_would_count_as_lost(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, b"0", b"1")
    tokens = [grant.token for grant in broker.grants(worker)]
    broker.say(worker, ("give_back", tokens), broker.wanting(worker, 5), ("want", -1))
    broker.leave(worker)
    assert (broker.count("queued"), broker.count("redelivered")) == (2, 0)


def test_what_precedes_a_broken_rule_in_its_batch_holds(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=5)
    broker.say(client, *SQUARE.messages, ("submit", 0, SQUARE.id, {}, [b"0"]), ("submit", -1, SQUARE.id, {}, []))
    assert broker.closed[client].broke_rules
    assert broker.payloads(worker) == [b"0"]


def test_function_of_another_session_must_be_sent_again(broker: Broker) -> None:
    broker.say(broker.client("one"), *SQUARE.messages)
    two = broker.client("two")
    broker.say(two, ("submit", 0, SQUARE.id, {}, [b"0"]))
    assert broker.closed[two].broke_rules


# --- restarts of the master ------------------------------------------------------------------------------------------


def test_work_goes_on_under_its_tokens_after_a_restart(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=2)
    broker.submit(client, b"0", b"1")
    tokens = [grant.token for grant in broker.grants(worker)]
    broker.restart()
    client = broker.client()
    worker = broker.worker("w", want=2, holds=tokens)
    assert broker.payloads(worker) == [], "nothing is run again"
    broker.settle(worker, tokens[0])
    assert broker.results(client) == {0: ("result", b"")}
    assert broker.count("redelivered") == 0


def test_fencing_tokens_rise_over_a_restart(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=2)
    broker.submit(client, b"0", b"1")
    before = [grant.token for grant in broker.grants(worker)]
    broker.restart()
    after = [grant.token for grant in broker.grants(broker.worker("w", want=2, holds=[]))]
    assert min(after) > max(before)


def test_what_did_not_reach_its_worker_before_a_restart_is_queued_again_unblamed(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=2)
    broker.submit(client, b"0", b"1")
    (first, _) = broker.grants(worker)
    broker.restart()
    broker.worker("w", holds=[first.token])
    assert (broker.count("leased"), broker.count("queued"), broker.count("redelivered")) == (1, 1, 0)


def test_worker_that_keeps_nothing_over_a_restart_has_lost_what_it_ran(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=2)
    broker.submit(client, b"0", b"1")
    assert len(broker.grants(worker)) == 2
    broker.restart()
    broker.worker("w")
    assert (broker.count("queued"), broker.count("redelivered")) == (2, 2)


def test_worker_that_does_not_come_back_is_lost_after_the_lease_timeout(broker: Broker) -> None:
    client = broker.client()
    broker.worker("w", want=1)
    broker.submit(client, b"0")
    broker.restart()
    other = broker.worker("other", want=1)
    broker.pass_time(LEASE_TIMEOUT, other)
    assert broker.payloads(other) == []
    broker.pass_time(1.0, other)
    assert broker.payloads(other) == [b"0"]


def test_worker_is_told_what_has_ended_while_it_was_away(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.restart()
    broker.say(broker.client(), ("close",))
    worker = broker.worker("w", holds=[grant.token], families=["s"])
    assert broker.take(worker) == [("stop", [grant.token]), ("forget", "s", [])]


def test_session_of_a_task_goes_on_when_it_is_opened_again_after_a_restart(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    nested = broker.open(worker, 1)
    nested.submit(b"1", b"2")
    broker.restart()
    worker = broker.worker("w", holds=[grant.token])
    info: dict[str, object] = {"session": nested.session, "limit": None, "name": "a task", "depth": 1}
    broker.say(worker, ("relay_open", 7, "s", info))
    assert broker.take(worker) == [("relay_open", 7, {"known": True, "accepted": 2, "workers": 1, "slots": 1})]
    broker.pass_time(LEASE_TIMEOUT + 1, worker)
    assert broker.core.knows(nested.session)


def test_session_of_a_task_that_is_not_opened_again_ends(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    nested = broker.open(worker, 1)
    broker.restart()
    worker = broker.worker("w", holds=[grant.token])
    broker.pass_time(LEASE_TIMEOUT + 1, worker)
    assert not broker.core.knows(nested.session)
    assert broker.count("leased") == 1


def test_clients_have_their_time_anew_after_a_restart(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0")
    broker.leave(client)
    broker.pass_time(SESSION_TIMEOUT - 1)
    broker.restart()
    broker.pass_time(SESSION_TIMEOUT - 1)
    assert broker.core.knows("s")
    broker.pass_time(2.0)
    assert not broker.core.knows("s")


def test_next_try_is_due_after_a_restart_as_it_was_before(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=1)
    broker.submit(client, b"0", retries=1, backoff=5.0)
    broker.settle(worker, broker.grants(worker)[0].token, "retry")
    broker.restart()
    worker = broker.worker("w", want=1)
    assert broker.core.next_deadline() == broker.now + 5.0
    broker.pass_time(5.0, worker)
    assert broker.payloads(worker) == [b"0"]


def test_item_whose_arrival_is_not_known_is_next_again_after_a_restart(broker: Broker) -> None:
    broker.call(1, "put", "first")
    broker.call(1, "put", "second")
    broker.call(2, "get")
    broker.restart()
    broker.call(3, "get")
    broker.call(3, "get")
    broker.restart()
    broker.call(4, "get")
    told = [reply.value for reply in broker.replies[-3:]]
    assert told == ["first", "second", "second"], "whoever asked again has read what he got before"


def test_worker_that_keeps_what_it_said_is_told_what_is_recorded(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=2, holds=[])
    broker.submit(client, b"0", b"1")
    first, second = (grant.token for grant in broker.grants(worker))
    broker.say(worker, ("settle", [(first, "result", b"")]), ("settle", [(second, "result", b"")]))
    assert broker.take(worker) == [("recorded", 2)]
    broker.want(worker, 1)
    assert broker.take(worker) == []


# --- the table of transitions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", TaskEvent)
@pytest.mark.parametrize("state", TaskState)
def test_task_goes_only_where_the_table_says(state: TaskState, event: TaskEvent) -> None:
    task = Task("s", 0, SQUARE.id, b"", state=state)
    if (state, event) in TRANSITIONS:
        task.apply(event)
        assert task.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            task.apply(event)
        assert task.state is state


def test_settled_task_has_no_way_out() -> None:
    ends = {TaskState.DONE, TaskState.FAILED, TaskState.CANCELLED, TaskState.DEAD}
    assert ends.isdisjoint({state for state, _ in TRANSITIONS})
    assert ends <= set(TRANSITIONS.values())


def test_delivery_counts_losses_alone() -> None:
    task = Task("s", 0, SQUARE.id, b"", losses=("a", "b"))
    assert task.delivery == 3
