"""Dead letters in the broker's core: kept with what they need, bounded, shown, dropped, and run again."""

import functools
from typing import Any

import pytest

from multihost.broker.bounds import Bounds
from multihost.broker.tasks import MAX_DELIVERIES, TaskOptions
from multihost.deaths import Death
from multihost.errors import ProtocolError, WorkerDied
from multihost.payload import Retrying, bind, by_value, dumps, load_error, load_part, name_in, one_item
from multihost.replay import replay
from multihost.saved import SavedTask
from tests.unit.brokers import ARCHIVE, CUBE, EPOCH, SQUARE, Broker, Function, check_replay, make_core


@pytest.fixture
def broker() -> Broker:
    return Broker()


def kill(broker: Broker, worker: int, times: int = MAX_DELIVERIES) -> None:
    """Have the worker's next task die so often."""
    for number in range(1, times + 1):
        broker.want(worker, 1)
        (grant,) = broker.grants(worker)
        broker.settle(worker, grant.token, "lost", Death(f"death {number}", signal="SIGKILL").encode().encode())


def kill_at_item(broker: Broker, worker: int, place: int) -> None:
    """Have a chunk, which the worker is granted, die of that item as often as it may."""
    (grant,) = broker.grants(worker)
    broker.say(worker, ("parts", [(grant.token, place, b"part")]))
    broker.settle(worker, grant.token, "lost", b"killed")
    kill(broker, worker, MAX_DELIVERIES - 1)


def ask(broker: Broker, name: str, *fields: object) -> Any:
    """The last thing that a watcher is answered."""
    monitor = broker.monitor()
    broker.say(monitor, (name, *fields))
    return broker.take(monitor)[-1][1]


def listed(broker: Broker) -> list[tuple[int, str]]:
    return [(row["letter"], row["state"]) for row in ask(broker, "dead_list")]


def with_letter(broker: Broker, payload: bytes = b"0", **options: Any) -> tuple[int, int]:
    """A client and a worker whose only task has died."""
    client, worker = broker.client(), broker.worker("a")
    broker.submit(client, payload, **options)
    kill(broker, worker)
    return client, worker


def test_task_that_spent_its_deliveries_is_kept_with_its_certificate(broker: Broker) -> None:
    client, _ = with_letter(broker, b"arguments", name="crash", priority=2)
    told = ask(broker, "dead_show", 1)
    assert [Death.decode(loss).reason for loss in told.pop("losses")] == ["death 1", "death 2", "death 3"]
    assert told == {
        "letter": 1,
        "state": "dead",
        "function": "",
        "name": "crash",
        "program": "program s",
        "session": "s",
        "task": 0,
        "item": None,
        "died_at": broker.now + EPOCH,
        "deaths": 3,
        "reason": "death 3",
        "payload_bytes": 9,
        "requeues": 0,
        "options": {"name": "crash", "priority": 2},
        "error": b"",
    }
    ((kind, content),) = broker.results(client).values()
    assert kind == "error"
    assert isinstance(load_error(content), WorkerDied)
    check_replay(broker)


def test_letter_keeps_its_code_when_its_program_is_gone_and_no_longer_than_itself(broker: Broker) -> None:
    client, worker = with_letter(broker)
    broker.submit(client, b"1", first=1, function=CUBE)
    broker.say(client, ("close",))
    assert broker.count("blobs") == 2  # not that of the other function
    monitor = broker.monitor()
    broker.say(monitor, ("dead_save", 1))
    *code, (_, task) = broker.take(monitor)
    assert code == [("dead_code", ARCHIVE.id, ARCHIVE.content, ()), ("dead_code", SQUARE.id, b"square", (ARCHIVE.id,))]
    assert isinstance(task, dict)
    assert (task["function_id"], task["payload"], task["options"]) == (SQUARE.id, b"0", {})
    check_replay(broker)
    broker.take(worker)
    assert ask(broker, "dead_drop", [1]) == [(1, "")]
    assert broker.take(worker) == [("forget", "", sorted([ARCHIVE.id, SQUARE.id]))]
    assert (broker.count("blobs"), broker.count("dead_letters"), broker.core._ledger.letters.size_bytes) == (0, 0, 0)
    check_replay(broker)


def test_letters_share_code(broker: Broker) -> None:
    client, worker = with_letter(broker)
    broker.submit(client, b"1", first=1, function=CUBE)
    kill(broker, worker)
    broker.say(client, ("close",))
    assert broker.count("blobs") == 3
    ask(broker, "dead_drop", [1])
    assert broker.count("blobs") == 2
    assert listed(broker) == [(2, "dead")]


def test_dead_item_of_a_chunk_is_a_letter_of_its_own_and_the_chunk_goes_on(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("a", want=1)
    broker.submit(client, b"chunk", chunk=("starmap", 6))
    kill_at_item(broker, worker, 4)
    assert [(row["item"], row["state"], row["deaths"]) for row in ask(broker, "dead_list")] == [(4, "dead", 3)]
    broker.want(worker, 2)
    (grant,) = broker.grants(worker)
    assert grant.options == {"chunk": "starmap", "done": 5}
    assert ask(broker, "dead_requeue", [1]) == [(1, "")]
    (again,) = broker.grants(worker)
    assert (again.options, again.payload) == ({"item": (4, "starmap")}, b"chunk")
    check_replay(broker)


def test_chunk_whose_last_item_is_given_up_has_ended_and_is_not_run_again(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("a", want=1)
    broker.submit(client, b"chunk", chunk=("map", 2))
    kill_at_item(broker, worker, 1)
    assert [(row["item"], row["deaths"]) for row in ask(broker, "dead_list")] == [(1, 3)]
    kind, content = broker.results(client)[0]
    assert (kind, load_part(content)[0]) == ("result", 2)
    broker.want(worker, 1)
    assert broker.grants(worker) == []
    check_replay(broker)


def test_chunk_whose_items_have_all_ended_is_not_given_up_for_a_worker_that_is_lost_before_it_says_so(
    broker: Broker,
) -> None:
    client, worker = broker.client(), broker.worker("a", want=1)
    broker.submit(client, b"chunk", chunk=("map", 2))
    broker.say(worker, ("parts", [(broker.grants(worker)[0].token, 2, b"part")]))
    broker.leave(worker)
    assert broker.results(client)[0][0] == "result"
    assert ask(broker, "dead_list") == []


@pytest.mark.parametrize(
    "bounds", [Bounds(dead_letters=2), Bounds(dead_letter_bytes=10 + 2 * 150)], ids=["number", "bytes"]
)
def test_beyond_the_bounds_the_oldest_letter_is_dropped(bounds: Bounds) -> None:
    broker = Broker(make_core(bounds))
    client, worker = broker.client(), broker.worker("a")
    for number in range(4):
        broker.submit(client, b"x" * 10, first=number, function=Function(b"f"))
        kill(broker, worker)
    assert listed(broker) == [(3, "dead"), (4, "dead")]
    assert sum("was dropped" in note.text for note in broker.notes) == 2
    check_replay(broker)


def test_with_a_bound_of_none_no_letter_is_kept_and_the_outcome_is_the_same() -> None:
    broker = Broker(make_core(Bounds(dead_letters=0)))
    client, _ = with_letter(broker)
    assert listed(broker) == []
    assert broker.results(client)[0][0] == "error"
    assert ask(broker, "dead_show", 1) is None
    assert ask(broker, "dead_save", 1) is None


def test_letters_survive_a_restart_and_numbers_are_not_given_twice(broker: Broker) -> None:
    client, _ = with_letter(broker)
    broker.say(client, ("close",))
    before = ask(broker, "dead_show", 1)
    broker.restart()
    assert ask(broker, "dead_show", 1) == before
    ask(broker, "dead_drop", [1])
    broker.records = [*broker.core.snapshot()]  # compacted
    broker.restart()
    with_letter(broker)
    assert listed(broker) == [(2, "dead")]


# --- run again -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "state"), [("result", "done"), ("error", "failed")])
@pytest.mark.parametrize("restarts", [False, True])
def test_requeued_letter_runs_in_a_session_of_the_masters_that_ends_with_it(
    broker: Broker, kind: str, state: str, restarts: bool
) -> None:
    client, worker = with_letter(broker, retries=2, priority=1, delay=0.0, expires=1.0, timeout=5.0)
    broker.say(client, ("close",))
    assert ask(broker, "dead_requeue", [1]) == [(1, "")]
    assert listed(broker) == [(1, "requeued")]
    if restarts:
        broker.restart()
        worker = broker.worker("b")
    broker.pass_time(100.0, worker)  # no client of it ever comes
    broker.want(worker, 1)
    (grant,) = broker.grants(worker)
    assert (grant.session, grant.function_id, grant.payload) == ("dead-letter-1", SQUARE.id, b"0")
    assert (grant.needs, grant.options) == ((ARCHIVE.id,), {"timeout": 5.0})
    assert ask(broker, "dead_requeue", [1]) == [(1, "it was requeued, and has not ended yet")]
    broker.settle(worker, grant.token, kind, b"content")
    assert ("forget", "dead-letter-1", []) in broker.take(worker)
    told = ask(broker, "dead_show", 1)
    assert (told["state"], told["requeues"]) == (state, 1)
    assert told["error"] == (b"content" if kind == "error" else b"")
    assert (broker.count("sessions"), broker.count("blobs")) == (0, 2)
    check_replay(broker)
    assert ask(broker, "dead_drop", [1]) == [(1, "")]
    assert broker.count("blobs") == 0


def test_requeued_letter_that_dies_again_is_dead_again_with_all_its_deaths(broker: Broker) -> None:
    _, worker = with_letter(broker)
    ask(broker, "dead_requeue", [1])
    broker.now += 5.0
    kill(broker, worker)
    told = ask(broker, "dead_show", 1)
    assert (told["state"], told["deaths"], told["requeues"]) == ("dead", 6, 1)
    assert told["died_at"] == broker.now + EPOCH
    assert listed(broker) == [(1, "dead")]
    assert (broker.count("dead"), broker.count("sessions")) == (2, 1)
    assert ask(broker, "dead_requeue", [1, 2]) == [(1, ""), (2, "there is no such dead letter")]
    check_replay(broker)


@pytest.mark.parametrize("runs", [False, True])
def test_requeued_letter_that_is_dropped_is_cancelled(broker: Broker, runs: bool) -> None:
    client, worker = with_letter(broker)
    broker.say(client, ("close",))
    ask(broker, "dead_requeue", [1])
    if runs:
        broker.want(worker, 1)
    broker.take(worker)
    assert ask(broker, "dead_drop", [1]) == [(1, "")]
    assert ("forget", "dead-letter-1", []) in broker.take(worker)  # which ends the process that runs it
    counts = {name: broker.count(name) for name in ("dead", "cancelled", "leased", "queued", "sessions", "blobs")}
    assert counts == {"dead": 1, "cancelled": 1, "leased": 0, "queued": 0, "sessions": 0, "blobs": 0}
    check_replay(broker)


def test_letter_that_runs_is_not_the_one_that_the_bound_drops() -> None:
    broker = Broker(make_core(Bounds(dead_letters=1)))
    client, worker = with_letter(broker)
    ask(broker, "dead_requeue", [1])
    broker.want(worker, 1)
    (grant,) = broker.grants(worker)
    broker.submit(client, b"1", first=1)
    kill(broker, worker)
    assert listed(broker) == [(1, "requeued")]
    broker.settle(worker, grant.token)
    assert listed(broker) == [(1, "done")]


@pytest.mark.parametrize("session", ["dead-letters", "dead-letter-1"])
def test_no_program_may_have_the_masters_own_session(broker: Broker, session: str) -> None:
    with pytest.raises(ProtocolError, match="for itself"):
        broker.client(session)
    broker.submit(broker.client(), b"0")
    worker = broker.worker(want=1)
    broker.take(worker)
    info: dict[str, object] = {"session": session, "limit": None, "name": "a task", "depth": 1}
    broker.say(worker, ("relay_open", 1, "s", info))
    assert [message[0] for message in broker.take((worker, 1))] == ["refused"]


# --- payloads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("definition", "name"),
    [
        (dumps(check_replay), "tests.unit.brokers.check_replay"),
        (dumps(Retrying(check_replay, (ValueError,))), "tests.unit.brokers.check_replay"),
        (dumps(functools.partial(kill, times=1)), f"{__name__}.kill"),
        (dumps(Broker.tick), "tests.unit.brokers.Broker.tick"),
        (by_value(check_replay), ""),
        (b"square", ""),
        (b"", ""),
        (b"\x80\x05\x93.", ""),
    ],
)
def test_name_of_a_function_is_read_without_unpickling_it(definition: bytes, name: str) -> None:
    assert name_in(definition) == name


def test_one_item_of_a_chunk_is_a_call() -> None:
    assert one_item([1, 2], (1, "map")) == ((2,), {})
    assert one_item([(1, 2), (3, 4)], (1, "starmap")) == ((3, 4), {})


@pytest.mark.parametrize("value", [(-1, "map"), (1, "reduce"), 1, ("1", "map"), [1, "map"]])
def test_item_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="'item'"):
        TaskOptions.parse({"item": value})


@pytest.mark.parametrize(
    ("payload", "item"), [(((None, b"x"), {}), None), ([(None, b"y"), (None, b"x"), (None, b"")], (1, "starmap"))]
)
def test_saved_task_whose_function_is_bound_to_a_large_value_is_run_with_it(
    payload: object, item: tuple[int, str] | None, capsys: pytest.CaptureFixture[str]
) -> None:
    content = b"".join(bind(dumps(bytes.count), {0: b"x" * 1000}).parts)
    options = {} if item is None else {"chunk": (item[1], 3)}
    place = None if item is None else item[0]
    told: dict[str, Any] = {"function_id": "f", "payload": dumps(payload), "item": place, "options": options}
    assert replay(SavedTask(told, {"f": ("f", content, ())}), debugger=False) == 0
    assert capsys.readouterr().out == "it returned 1000\n"
