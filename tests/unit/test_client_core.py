"""multihost/client/core.py: what goes into the next batch, and what is sent again to whichever master there is."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from multihost.client.code import Blob
from multihost.client.core import ClientCore
from multihost.client.values import AT_ONCE_BYTES
from multihost.options import PLAIN
from multihost.payload import LARGE_BLOB_BYTES, LARGE_BYTES, Places, content_id, dumps_large
from multihost.wire.messages import Message, check_batch, encode
from tests.unit.brokers import Broker

MIB = 1024 * 1024
NOW = 1000.0


def blob(content: bytes, *needs: Blob) -> Blob:
    ids = tuple(need.blob_id for need in needs)
    return Blob(content_id(content, ids), content, ids)


ARCHIVE = blob(b"archive")
F, G = blob(b"f", ARCHIVE), blob(b"g", ARCHIVE)
CODE_OF_F, CODE_OF_G = [ARCHIVE, F], [ARCHIVE, G]
CONTENTS = {F.blob_id: b"f", G.blob_id: b"g"}


@pytest.fixture
def client() -> ClientCore:
    return ClientCore()


def add(client: ClientCore, *payloads: bytes, code: list[Blob] | None = None) -> list[int]:
    return [client.add(code or CODE_OF_F, PLAIN.wire, payload) for payload in payloads]


def batch(client: ClientCore) -> list[Message]:
    return check_batch("client", client.next_batch(NOW))


def submits(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message[0] == "submit"]


def sizes_of(messages: list[Message]) -> list[int]:
    """How many tasks each submit has."""
    return [len(cast(list[bytes], payloads)) for _, _, _, _, payloads in submits(messages)]


def names(messages: list[Message]) -> list[object]:
    return [message[0] for message in messages]


# --- detached jobs ---------------------------------------------------------------------------------------------------


def test_seal_leaves_when_every_task_was_accepted(client: ClientCore) -> None:
    add(client, b"0", b"1")
    client.seal(2, 1)
    assert names(batch(client)) == ["blob", "blob", "submit"]
    assert batch(client) == []
    client.accepted(2)
    assert batch(client) == [("seal", 2, 1)]
    assert batch(client) == []
    assert not client.sealed
    client.seal_answered()
    assert client.sealed


def test_seal_waits_for_tasks_that_the_master_has_no_room_for(client: ClientCore) -> None:
    for payload in (b"0", b"1"):
        client.add(CODE_OF_F, PLAIN.wire, payload, patient=True)
    batch(client)
    client.seal(2, 1)
    client.refused(1)
    assert names(batch(client)) == ["waits"]
    client.room()
    assert submits(batch(client)) == [("submit", 1, F.blob_id, {}, [b"1"])]
    client.accepted(2)
    assert batch(client) == [("seal", 2, 1)]


@pytest.mark.parametrize("known", [True, False])
def test_seal_is_said_again_over_a_new_connection(client: ClientCore, known: bool) -> None:
    add(client, b"0")
    client.seal(1, 1)
    batch(client)
    client.accepted(1)
    assert batch(client) == [("seal", 1, 1)]
    client.reconnected(known, 1 if known else 0)
    if not known:
        assert names(batch(client)) == ["blob", "blob", "submit"]
        client.accepted(1)
    assert batch(client) == [("seal", 1, 1)]


# --- batches ---------------------------------------------------------------------------------------------------------


def test_task_alone_leaves_at_once_with_its_code_before_it(client: ClientCore) -> None:
    add(client, b"0")
    assert batch(client) == [
        ("blob", ARCHIVE.blob_id, b"archive", ()),
        ("blob", F.blob_id, b"f", (ARCHIVE.blob_id,)),
        ("submit", 0, F.blob_id, {}, [b"0"]),
    ]


def test_nothing_new_leaves_before_the_last_batch_is_accepted(client: ClientCore) -> None:
    add(client, b"0", b"1")
    batch(client)
    add(client, b"2", b"3")
    assert batch(client) == []
    client.accepted(1)
    assert batch(client) == []
    client.accepted(2)
    assert batch(client) == [("submit", 2, F.blob_id, {}, [b"2", b"3"])]
    assert client.unsent == 0


def test_behind_a_task_that_left_alone_one_more_batch_leaves_at_once(client: ClientCore) -> None:
    add(client, b"0")
    batch(client)
    add(client, b"1")
    assert batch(client) == [("submit", 1, F.blob_id, {}, [b"1"])]
    add(client, b"2")
    assert batch(client) == []
    client.accepted(1)
    assert batch(client) == []
    client.accepted(2)
    assert batch(client) == [("submit", 2, F.blob_id, {}, [b"2"])]


def test_while_nothing_is_accepted_each_batch_that_leaves_is_much_larger_than_the_one_before(
    client: ClientCore,
) -> None:
    sizes: list[int] = []
    for _ in range(2000):
        add(client, b"x")
        sizes += sizes_of(batch(client))
    assert sizes == [1, 1, 16, 64, 256, 1024]
    client.accepted(1362)
    assert sizes_of(batch(client)) == [2000 - 1362]


@pytest.mark.parametrize(("tasks", "starting"), [(1, True), (16, True), (64, True), (65, False), (1000, False)])
def test_only_the_small_batches_are_the_first_ones_of_a_loop(client: ClientCore, tasks: int, starting: bool) -> None:
    add(client, *[b"1"] * tasks)
    batch(client)
    assert client.starting is starting


def test_behind_a_batch_of_many_bytes_none_leaves_before_it_is_accepted(client: ClientCore) -> None:
    add(client, bytes(50_000), bytes(50_000))
    batch(client)
    add(client, *[b"x"] * 100)
    assert batch(client) == []
    client.accepted(2)
    assert names(batch(client)) == ["submit"]


def test_an_outcome_says_that_its_task_was_accepted_and_those_before_it(client: ClientCore) -> None:
    add(client, b"0", b"1")
    batch(client)
    add(client, b"2")
    client.finished(0, 10)
    assert batch(client) == []
    client.finished(1, 10)
    assert names(batch(client)) == ["acknowledge", "submit"]


def test_numbers_rise_by_one_from_0(client: ClientCore) -> None:
    assert add(client, b"", b"", b"") == [0, 1, 2]
    assert [*client.pending] == [0, 1, 2]


def test_blob_is_sent_once_whatever_needs_it(client: ClientCore) -> None:
    add(client, b"0")
    add(client, b"1", code=CODE_OF_G)
    add(client, b"2")
    messages = batch(client)
    assert names(messages) == ["blob", "blob", "submit", "blob", "submit", "submit"]
    assert [message[1:] for message in submits(messages)] == [
        (0, F.blob_id, {}, [b"0"]),
        (1, G.blob_id, {}, [b"1"]),
        (2, F.blob_id, {}, [b"2"]),
    ]
    client.accepted(3)
    add(client, b"3")
    assert names(batch(client)) == ["submit"]


def test_tasks_with_other_options_go_in_a_message_of_their_own(client: ClientCore) -> None:
    urgent: dict[str, object] = {"priority": 5}
    client.add(CODE_OF_F, PLAIN.wire, b"0")
    client.add(CODE_OF_F, urgent, b"1")
    client.add(CODE_OF_F, urgent, b"2")
    assert [message[1:] for message in submits(batch(client))] == [
        (0, F.blob_id, {}, [b"0"]),
        (1, F.blob_id, urgent, [b"1", b"2"]),
    ]


def test_blobs_that_a_task_has_inherited_are_not_sent() -> None:
    client = ClientCore(frozenset({ARCHIVE.blob_id}))
    client.add([F], PLAIN.wire, b"0")
    assert [message[:2] for message in batch(client)] == [("blob", F.blob_id), ("submit", 0)]


def test_cancelling_asks_apart_for_what_is_queued_and_for_what_may_run(client: ClientCore) -> None:
    add(client, b"0", b"1", b"2")
    batch(client)
    client.cancel([0], running=False)
    client.cancel([1, 2], running=True)
    assert batch(client) == [("cancel", [0], False), ("cancel", [1, 2], True)]
    client.cancel([0], running=False)
    assert batch(client) == []
    client.cancel([0], running=True)  # more than what was asked for before
    assert batch(client) == [("cancel", [0], True)]
    client.cancel_answered([0, 1, 2])
    client.reconnected(known=True, accepted=3)
    assert batch(client) == []


def test_batch_has_a_bounded_number_of_tasks(client: ClientCore) -> None:
    add(client, *[b""] * 5000)
    ((*_, payloads),) = submits(batch(client))
    assert isinstance(payloads, list)
    assert len(payloads) == 4096
    client.accepted(4096)
    ((_, first, _, _, rest),) = submits(batch(client))
    assert (first, rest) == (4096, [b""] * 904)


def test_batch_has_a_bounded_number_of_bytes(client: ClientCore) -> None:
    add(client, *[bytes(MIB)] * 6)
    sizes: list[int] = []
    while client.unsent:
        ((_, first, _, _, payloads),) = submits(batch(client))
        assert isinstance(payloads, list)
        assert first == sum(sizes)
        sizes.append(len(payloads))
        client.accepted(sum(sizes))
    assert sizes == [4, 2]


def test_tasks_that_do_not_fill_a_batch_leave_when_those_that_were_sent_are_accepted(client: ClientCore) -> None:
    add(client, *[bytes(3 * MIB)] * 4)
    for number in range(4):
        ((_, first, _, _, payloads),) = submits(batch(client))
        assert isinstance(payloads, list)
        assert (first, len(payloads)) == (number, 1)
        client.accepted(number + 1)


def test_task_larger_than_a_batch_goes_alone(client: ClientCore) -> None:
    add(client, b"small", bytes(9 * MIB), b"small")
    for number in range(3):
        ((_, first, _, _, payloads),) = submits(batch(client))
        assert isinstance(payloads, list)
        assert (first, len(payloads)) == (number, 1)
        client.accepted(number + 1)


# --- acknowledgements ------------------------------------------------------------------------------------------------


def test_outcome_is_news_once(client: ClientCore) -> None:
    add(client, b"0", b"1")
    batch(client)
    assert client.finished(1, 10)
    assert not client.finished(1, 10)
    assert not client.finished(77, 10)
    assert [*client.pending] == [0]


def test_acknowledgements_ride_on_the_next_submit(client: ClientCore) -> None:
    add(client, b"0", b"1")
    batch(client)
    client.accepted(2)
    client.finished(1, 10)
    client.finished(0, 10)
    assert batch(client) == []
    add(client, b"2")
    assert batch(client) == [("acknowledge", [1, 0]), ("submit", 2, F.blob_id, {}, [b"2"])]


def test_outcome_that_came_twice_is_acknowledged_twice(client: ClientCore) -> None:
    add(client, b"0")
    client.finished(0, 1)
    assert client.acknowledgement() == [("acknowledge", [0])]
    client.finished(0, 1)
    assert client.acknowledgement() == [("acknowledge", [0])]
    assert client.acknowledgement() == []


@pytest.mark.parametrize(("count", "size"), [(256, 1), (1, 64 * 1024), (4, 16 * 1024)])
def test_many_acknowledgements_or_large_outcomes_do_not_wait_for_a_submit(
    client: ClientCore, count: int, size: int
) -> None:
    add(client, *[b""] * count, b"not accepted yet")
    batch(client)
    for sequence in range(count - 1):
        client.finished(sequence, size)
        assert batch(client) == []
    client.finished(count - 1, size)
    assert batch(client) == [("acknowledge", [*range(count)])]
    assert batch(client) == []


# --- withdrawing -----------------------------------------------------------------------------------------------------


def test_withdrawn_task_is_never_sent_and_its_number_left_out(client: ClientCore) -> None:
    add(client, b"0")
    batch(client)
    add(client, b"1", b"2", b"3")
    assert client.withdraw([0, 2, 9]) == [2]
    client.accepted(1)
    assert [message[1:] for message in submits(batch(client))] == [
        (1, F.blob_id, {}, [b"1"]),
        (3, F.blob_id, {}, [b"3"]),
    ]
    client.reconnected(False, 0)
    assert [message[1:] for message in submits(batch(client))] == [
        (0, F.blob_id, {}, [b"0", b"1"]),
        (3, F.blob_id, {}, [b"3"]),
    ]


# --- large functions -------------------------------------------------------------------------------------------------

HUGE = [blob(b"%d" % number * LARGE_BLOB_BYTES, ARCHIVE) for number in range(3)]


def run(client: ClientCore, *functions: Blob) -> list[Message]:
    """Have one task of each run, one after another; what was said."""
    said: list[Message] = []
    for function in functions:
        (sequence,) = add(client, b"x", code=[ARCHIVE, function])
        said += batch(client)
        client.finished(sequence, 1)
    return said + batch(client)


def released(messages: list[Message]) -> list[object]:
    return [message[1] for message in messages if message[0] == "release"]


def sent(messages: list[Message]) -> list[object]:
    return [message[1] for message in messages if message[0] == "blob"]


def test_large_functions_that_no_task_needs_are_released_but_for_those_used_last() -> None:
    client = ClientCore(kept_bytes=2 * LARGE_BLOB_BYTES)
    said = run(client, *HUGE, F, HUGE[1])
    assert (len(sent(said)), released(said)) == (5, [[HUGE[0].blob_id]])
    client.released([HUGE[0].blob_id])
    said = run(client, HUGE[0])
    assert (sent(said), released(said)) == ([HUGE[0].blob_id], [[HUGE[2].blob_id]])


def test_the_function_used_last_is_kept_however_large() -> None:
    client = ClientCore(kept_bytes=0)
    said = run(client, HUGE[0], HUGE[0], HUGE[1])
    assert (sent(said), released(said)) == ([ARCHIVE.blob_id, HUGE[0].blob_id, HUGE[1].blob_id], [[HUGE[0].blob_id]])


def test_function_that_a_task_needs_is_not_released() -> None:
    client = ClientCore(kept_bytes=0)
    first, second = add(client, b"0", b"1", code=[ARCHIVE, HUGE[0]])
    batch(client)
    client.accepted(2)
    client.finished(first, 1)
    assert released(run(client, HUGE[1], HUGE[2])) == [[HUGE[1].blob_id]]
    client.reconnected(False, 0)
    assert sent(batch(client)) == [ARCHIVE.blob_id, HUGE[0].blob_id], "a master that has forgotten it gets it again"
    client.finished(second, 1)
    assert released(batch(client)) == [[HUGE[2].blob_id]]


def test_function_of_tasks_that_were_withdrawn_is_released() -> None:
    client = ClientCore(kept_bytes=0)
    run(client, F)
    withdrawn = add(client, b"0", b"1", code=[ARCHIVE, HUGE[0]])
    assert client.withdraw(withdrawn) == withdrawn
    assert released(run(client, HUGE[1])) == [[HUGE[0].blob_id]]


@pytest.mark.parametrize("known", [True, False])
def test_release_is_said_again_over_a_new_connection_unless_it_was_answered_or_is_to_no_purpose(known: bool) -> None:
    client = ClientCore(kept_bytes=0)
    run(client, *HUGE)
    client.released([HUGE[0].blob_id])
    client.reconnected(known, 3)
    assert released(batch(client)) == ([[HUGE[1].blob_id]] if known else [])


def test_function_that_is_used_again_is_not_released_by_what_was_said_before() -> None:
    client = ClientCore(kept_bytes=0)
    run(client, HUGE[0], HUGE[1])
    add(client, b"x", code=[ARCHIVE, HUGE[0]])
    assert sent(batch(client)) == [HUGE[0].blob_id]
    client.reconnected(True, 3)
    assert released(batch(client)) == []


# --- large values ----------------------------------------------------------------------------------------------------

BOUND = [ARCHIVE, replace(HUGE[0], passing=True)]


def bind(client: ClientCore, *values: bytes) -> int:
    """Add a task whose function is bound to these values, which others have already; its number."""
    places: Places = dict(enumerate(values))
    assert client.shared(F.blob_id, places) == places
    assert client.bound(F.blob_id, places) is None
    return client.add(BOUND, {}, b"x", values=values, bound=(F.blob_id, places))


def test_value_is_shared_as_long_as_a_task_has_it_that_has_not_ended(client: ClientCore) -> None:
    value, equal = (bytes(bytearray(LARGE_BLOB_BYTES)) for _ in range(2))
    first = client.add(CODE_OF_F, {}, b"x", values=(value,))
    batch(client)
    second = client.add(CODE_OF_F, {}, b"x", values=(value,))
    assert client.shared(F.blob_id, {0: value, 1: b"other", "key": value}) == {0: value, "key": value}
    assert client.shared(F.blob_id, {0: equal}) == {}
    client.finished(first, 1)
    assert client.shared(F.blob_id, {0: value})
    assert client.withdraw([second]) == [second]
    assert client.shared(F.blob_id, {0: value}) == {}


def test_function_is_bound_to_the_same_values_at_the_same_places_once(client: ClientCore) -> None:
    one, two = b"1" * LARGE_BLOB_BYTES, b"2" * LARGE_BLOB_BYTES
    client.add(CODE_OF_F, {}, b"x", values=(one, two))
    bind(client, one, two)
    assert client.bound(F.blob_id, {0: one, 1: two}) is BOUND
    others: list[Places] = [{0: two, 1: one}, {0: one}, {0: one, 2: two}, {0: one, 1: bytes(bytearray(two))}]
    assert [client.bound(F.blob_id, places) for places in others] == [None] * 4
    assert client.bound(G.blob_id, {0: one, 1: two}) is None


def test_bound_function_is_released_with_the_last_task_that_has_its_value(client: ClientCore) -> None:
    value = b"1" * LARGE_BLOB_BYTES
    first = client.add(CODE_OF_F, {}, b"x", values=(value,))
    said = batch(client)
    second = bind(client, value)
    for _ in range(2):
        said += batch(client)
        client.finished(second, 1)
        second = client.add(BOUND, {}, b"x", values=(value,), bound=(F.blob_id, {0: value}))
    assert client.withdraw([second]) == [second]
    assert (sent(said), released(said)) == ([ARCHIVE.blob_id, F.blob_id, BOUND[-1].blob_id], [])
    client.finished(first, 1)
    assert released(batch(client)) == [[BOUND[-1].blob_id]]


def test_very_large_value_is_shared_from_its_first_task_on_and_goes_with_its_last() -> None:
    client, value = ClientCore(at_once_bytes=LARGE_BLOB_BYTES + 1), b"1" * (LARGE_BLOB_BYTES + 1)
    assert client.shared(F.blob_id, {0: value[:-1]}) == {}
    for number in (1, 2):
        said: list[Message] = []
        for _ in range(number):
            bind_once = client.bound(F.blob_id, {0: value}) is None
            assert client.shared(F.blob_id, {0: value}) == {0: value}
            client.add(BOUND, {}, b"x", values=(value,), bound=(F.blob_id, {0: value}))
            assert bind_once == (client.unsent == 1)
        said += batch(client)
        assert sent(said)[-1] == BOUND[-1].blob_id
        for sequence in [*client.pending]:
            client.finished(sequence, 1)
        said = batch(client)
        assert released(said) == [[BOUND[-1].blob_id]]
        client.released([BOUND[-1].blob_id])


def test_value_that_is_held_is_sent_once_though_for_a_while_no_task_has_it(client: ClientCore) -> None:
    value = b"1" * LARGE_BLOB_BYTES
    client.hold([value])
    said = []
    for _ in range(3):
        assert client.shared(F.blob_id, {0: value})
        only = client.add(BOUND, {}, b"x", values=(value,), bound=(F.blob_id, {0: value}))
        said += batch(client)
        client.finished(only, 1)
    assert (sent(said), released(said)) == ([ARCHIVE.blob_id, BOUND[-1].blob_id], [])
    client.let_go([value])
    assert client.shared(F.blob_id, {0: value}) == {}
    assert released(batch(client)) == [[BOUND[-1].blob_id]]


def test_very_large_value_that_comes_once_is_not_bound_with_one_that_a_task_has(client: ClientCore) -> None:
    model, *parts = (bytes(bytearray(AT_ONCE_BYTES)) for _ in range(3))
    client.add(CODE_OF_F, {}, b"x", values=(model,))
    for part in parts:
        assert client.shared(F.blob_id, {0: model, 1: part}) == {0: model}


def given_once(client: ClientCore, *values: bytes) -> list[bool]:
    """One task after another of F; which of their values are shared."""
    shared = []
    for value in values:
        places = client.shared(F.blob_id, {0: value})
        bound = blob(b"f" + value[:9], ARCHIVE)
        code, binding = ([ARCHIVE, replace(bound, passing=True)], (F.blob_id, places)) if places else (CODE_OF_F, None)
        number = client.add(code, {}, b"x", values=(value,), bound=binding)
        batch(client)
        client.finished(number, 1)
        shared.append(bool(places))
    return shared


def test_values_that_come_once_to_a_function_are_not_shared_at_once_any_more_until_one_comes_again() -> None:
    client = ClientCore(at_once_bytes=1)
    values = [b"%d" % number for number in range(10)]
    assert given_once(client, *values[:6]) == [True] * 4 + [False] * 2
    assert client.shared(G.blob_id, {0: values[6]}), "another function may have others"
    first = client.add(CODE_OF_F, {}, b"x", values=(values[6],))
    places = client.shared(F.blob_id, {0: values[6]})
    second = client.add(BOUND, {}, b"x", values=(values[6],), bound=(F.blob_id, places))
    batch(client)
    for sequence in (first, second):
        client.finished(sequence, 1)
    assert given_once(client, *values[7:9]) == [True] * 2


def test_equal_values_do_not_count_as_such_that_come_once() -> None:
    client = ClientCore(at_once_bytes=1)
    for _ in range(6):
        for value in [bytes(bytearray(b"equal")) for _ in range(2)]:
            places = client.shared(F.blob_id, {0: value})
            assert places
            client.add(BOUND, {}, b"x", values=(value,), bound=(F.blob_id, places))
        batch(client)
        for sequence in [*client.pending]:
            client.finished(sequence, 1)


def test_large_functions_under_way_count_in_the_size_of_a_batch(client: ClientCore) -> None:
    many = [replace(blob(b"%d" % number + bytes(MIB), ARCHIVE), passing=True) for number in range(6)]
    for function in many:
        add(client, b"x", b"x", code=[ARCHIVE, function])
    said = []
    while client.unsent:
        said.append([blob_id for blob_id in sent(batch(client)) if blob_id != ARCHIVE.blob_id])
        client.accepted(MIB)
    assert said == [[function.blob_id for function in some] for some in (many[:3], many[3:])]


# --- reconnecting ----------------------------------------------------------------------------------------------------


def test_master_that_knows_the_session_gets_what_it_has_not_accepted(client: ClientCore) -> None:
    add(client, b"0", b"1", b"2", b"3")
    batch(client)
    client.finished(0, 1)
    client.reconnected(True, 2)
    ((_, first, _, _, payloads),) = submits(batch(client))
    assert (first, payloads) == (2, [b"2", b"3"])
    client.accepted(4)
    add(client, b"4")
    assert names(batch(client)) == ["submit"]


def test_master_that_has_forgotten_the_session_gets_all_that_has_no_outcome_and_its_code(client: ClientCore) -> None:
    add(client, *[b"%d" % number for number in range(6)])
    batch(client)
    client.accepted(6)
    for sequence in (0, 3):
        client.finished(sequence, 1)
    client.acknowledgement()
    client.reconnected(False, 0)
    assert batch(client) == [
        ("blob", ARCHIVE.blob_id, b"archive", ()),
        ("blob", F.blob_id, b"f", (ARCHIVE.blob_id,)),
        ("submit", 1, F.blob_id, {}, [b"1", b"2"]),
        ("submit", 4, F.blob_id, {}, [b"4", b"5"]),
    ]


def test_large_task_is_sent_again_whole(client: ClientCore) -> None:
    content = dumps_large(((b"x" * LARGE_BYTES,), {}))
    client.add([ARCHIVE, F], {}, content)
    first = b"".join(encode(client.next_batch(0.0)))
    assert len(first) > LARGE_BYTES
    client.reconnected(False, 0)
    assert b"".join(encode(client.next_batch(0.0))) == first


def test_code_that_may_have_been_lost_with_its_batch_is_sent_again(client: ClientCore) -> None:
    add(client, b"0")
    first = batch(client)
    client.reconnected(True, 0)  # the session had begun, the batch never arrived
    assert batch(client) == first


def test_nothing_is_sent_again_when_all_was_accepted(client: ClientCore) -> None:
    add(client, b"0")
    batch(client)
    client.reconnected(True, 1)
    assert batch(client) == []
    add(client, b"1")
    assert [message[1] for message in submits(batch(client))] == [1]


def test_acknowledgement_that_was_not_sent_goes_over_the_next_connection(client: ClientCore) -> None:
    add(client, b"0")
    batch(client)
    client.finished(0, 1)
    client.reconnected(True, 1)
    assert client.acknowledgement() == [("acknowledge", [0])]


# --- both cores, and connections that break at any message -----------------------------------------------------------


VALUES = [b"first value", b"second value", b"third value"]


class Session(RuleBasedStateMachine):
    """A client and a broker: whatever of a batch or of the answers is lost, each task runs to one outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientCore(large_bytes=1, kept_bytes=0, at_once_bytes=len(VALUES[1]))
        self.broker = Broker()
        self.worker = self.broker.worker(want=1_000_000)
        self.connection = self.broker.client()
        self.seen: dict[int, bytes] = {}
        self.payloads: dict[int, bytes] = {}
        self.codes = itertools.count()

    def read(self) -> None:
        """The client reads what the broker has sent."""
        for name, *fields in self.broker.take(self.connection):
            match name, fields:
                case "accepted", [int(below)]:
                    self.client.accepted(below)
                case "released", [list(blob_ids)]:
                    self.client.released(blob_ids)
                case "outcomes", [list(rows)]:
                    for sequence, _, content, _ in rows:
                        if self.client.finished(sequence, len(content)):
                            assert sequence not in self.seen, "an outcome is delivered twice"
                            self.seen[sequence] = content
        assert self.connection not in self.broker.closed, self.broker.closed[self.connection].reason

    @rule(payloads=st.lists(st.binary(max_size=5), min_size=1, max_size=5), code=st.sampled_from([F, G, None]))
    def submit(self, payloads: list[bytes], code: Blob | None) -> None:
        content = CONTENTS[code.blob_id] if code else b"closure %d" % next(self.codes)
        for payload in payloads:
            number = self.client.add([ARCHIVE, blob(content, ARCHIVE)], PLAIN.wire, payload)
            self.payloads[number] = payload + content

    @rule(count=st.integers(1, 3), which=st.integers(0, 2), code=st.sampled_from([F, G]))
    def submit_with_value(self, count: int, which: int, code: Blob) -> None:
        """As a session does, whose value goes with the function once a task has it, or at once if it is long."""
        value = VALUES[which]
        for _ in range(count):
            blobs, content, binding = [ARCHIVE, code], CONTENTS[code.blob_id], None
            if shared := self.client.shared(code.blob_id, {0: value}):
                content, binding = content + value, (code.blob_id, shared)
                bound = [ARCHIVE, replace(blob(content, ARCHIVE), passing=True)]
                blobs = self.client.bound(code.blob_id, shared) or bound
            number = self.client.add(blobs, PLAIN.wire, b"p", values=(value,), bound=binding)
            self.payloads[number] = b"p" + content

    @rule()
    def send(self) -> None:
        messages = batch(self.client)
        if messages:
            self.broker.say(self.connection, *messages)
        self.read()

    @rule(arrives=st.integers(0, 6), known=st.booleans())
    def connection_breaks(self, arrives: int, known: bool) -> None:
        """After some messages of a batch have arrived; the answers are lost. Sometimes the master has forgotten all."""
        messages = batch(self.client)[:arrives]
        if messages:
            self.broker.say(self.connection, *messages)
        self.broker.leave(self.connection)
        if not known:
            self.broker.pass_time(0.5, self.worker)
            self.broker.pass_time(61, self.worker)
        self.reconnect()

    def reconnect(self) -> None:
        known = self.broker.core.knows("s")
        self.connection = self.broker.client()
        accepted = self.broker.core.session_state("s")["accepted"]
        assert isinstance(accepted, int)
        self.client.reconnected(known, accepted)
        self.read()

    @precondition(lambda self: self.broker.inbox.get(self.worker))
    @rule(some=st.integers(1, 5))
    def work(self, some: int) -> None:
        contents = {message[1]: message[2] for message in self.broker.inbox[self.worker] if message[0] == "blob"}
        self.contents: dict[Any, Any] = {**getattr(self, "contents", {}), **contents}
        rows = [
            (grant.token, "result", grant.payload + self.contents[grant.function_id])
            for grant in self.broker.grants(self.worker)
        ]
        for begin in range(0, len(rows), some):
            self.broker.say(self.worker, ("settle", rows[begin : begin + some]))
        self.read()

    def teardown(self) -> None:
        for _ in range(2 * len(self.payloads) + 5):
            self.send()
            if self.broker.inbox.get(self.worker):
                self.work(3)
        assert self.seen == self.payloads
        assert not self.client.pending
        values = self.client._values
        assert not any((values._values, values._bound, values._repeated))
        self.send()
        assert self.broker.count("blobs") <= 2, "a function stays that no task needs, besides the last one"
        self.broker.say(self.connection, *self.client.acknowledgement())
        self.broker.leave(self.connection)
        self.connection = self.broker.client()
        assert self.broker.results(self.connection) == {}


TestSession: Callable[[], Any] = Session.TestCase
TestSession.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)  # type: ignore[attr-defined]
