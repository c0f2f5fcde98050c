"""Why a task has not started or not ended: as the master knows it, and in words."""

import pytest

from multihost.broker.bounds import Bounds
from multihost.broker.core import BrokerCore
from multihost.client.core import ClientCore
from multihost.explain import _WORDS, Explanation
from multihost.options import PLAIN
from tests.unit.brokers import SQUARE, Broker
from tests.unit.test_client_core import CODE_OF_F, NOW


@pytest.fixture
def broker() -> Broker:
    return Broker()


def ask(broker: Broker, client: int, sequence: int = 0) -> Explanation:
    broker.take(client)
    broker.say(client, ("explain", 7, sequence))
    ((name, question, plain),) = [message for message in broker.take(client) if message[0] == "explained"]
    assert (name, question) == ("explained", 7)
    assert isinstance(plain, dict)
    told = Explanation.of(plain)
    assert (told.task, told.session, told.program) == (sequence, "s", "program s")
    assert (told.state, told.reason) in _WORDS
    return told


def where(broker: Broker, client: int, sequence: int = 0) -> tuple[str, str]:
    told = ask(broker, client, sequence)
    return told.state, told.reason


def test_task_waits_because_there_is_no_worker_and_then_for_its_turn(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", b"1", b"2")
    broker.submit(client, b"3", first=3, priority=5)
    assert where(broker, client) == ("queued", "no worker")
    broker.worker()
    told = ask(broker, client, 1)
    assert (told.state, told.reason, told.position) == ("queued", "turn", 2)
    assert str(told) == "task 1: it waits for a free slot; of its program's tasks, 2 go before it"
    assert ask(broker, client, 3).position == 0


def test_task_waits_because_no_worker_has_its_labels(broker: Broker) -> None:
    client = broker.client()
    broker.worker(want=1)
    broker.submit(client, b"0", labels=("big", "gpu"))
    told = ask(broker, client)
    assert (told.state, told.reason, told.labels) == ("queued", "labels", ("big", "gpu"))
    assert "start one with MULTIHOST_LABELS=big,gpu" in str(told)
    worker = broker.worker(labels=("gpu", "big"))
    assert where(broker, client) == ("queued", "turn")
    broker.say(worker, ("drain",))
    assert where(broker, client) == ("queued", "draining")


def test_task_waits_because_its_program_has_reached_its_limit(broker: Broker) -> None:
    client = broker.client(limit=1)
    broker.worker(want=5, slots=5)
    broker.submit(client, b"0", b"1")
    assert where(broker, client, 0) == ("leased", "running")
    assert where(broker, client, 1) == ("queued", "limit")


def test_task_is_delayed_first_by_its_delay_and_then_by_its_retry(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", delay=5.0, retries=1, backoff=10.0)
    broker.now += 2.0
    told = ask(broker, client)
    assert (told.state, told.reason) == ("delayed", "delay")
    assert told.seconds == pytest.approx(3.0)
    assert "for 3.0 s more" in str(told)
    broker.tick(3.0)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "retry")
    told = ask(broker, client)
    assert (told.state, told.reason, told.delivery) == ("delayed", "retry", 2)
    assert told.seconds == pytest.approx(10.0)


def test_task_runs_on_a_worker_or_waits_in_its_backlog(broker: Broker) -> None:
    client = broker.client()
    broker.worker("a", want=4, slots=2)
    broker.submit(client, b"0", b"1", b"2", b"3")
    broker.now += 3.0
    told = ask(broker, client, 1)
    assert (told.state, told.reason, told.worker, told.seconds) == ("leased", "running", "host-a", 3.0)
    assert str(told) == "task 1: worker host-a has it for 3.0 s, and runs it"
    assert [ask(broker, client, number).position for number in (2, 3)] == [1, 2]
    assert where(broker, client, 3) == ("leased", "backlog")


def test_task_that_was_lost_says_why(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("a", want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, "lost", b"killed by SIGKILL")
    told = ask(broker, client)
    assert (told.state, told.delivery, told.losses) == ("queued", 2, ("killed by SIGKILL on worker host-a",))
    assert str(told).endswith("lost before: killed by SIGKILL on worker host-a")


def test_task_of_a_worker_that_is_not_back_after_a_restart_of_the_master_says_so(broker: Broker) -> None:
    client = broker.client()
    broker.worker("a", want=1)
    broker.submit(client, b"0")
    broker.restart()
    client = broker.client()
    assert where(broker, client) == ("leased", "absent")
    broker.worker("a", holds=[1])
    told = ask(broker, client)
    assert (told.reason, told.seconds) == ("running", None)
    assert str(told) == "task 0: worker host-a has it, and runs it"


def test_task_that_has_ended_or_never_was_says_so(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=2)
    broker.submit(client, b"0", b"1", b"2")
    for grant, kind in zip(broker.grants(worker), ("result", "error"), strict=True):
        broker.settle(worker, grant.token, kind)
    broker.say(client, ("cancel", [2], False))
    assert [where(broker, client, number)[1] for number in range(3)] == ["result", "error", "cancelled"]
    broker.say(client, ("acknowledge", [0]))
    assert where(broker, client, 0) == ("ended", "acknowledged")
    assert where(broker, client, 9) == ("unknown", "no task")
    assert where(broker, client, -1) == ("unknown", "no task")


def test_task_of_a_task_can_be_explained(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0")
    nested = broker.open(worker, 1)
    nested.submit(b"n")
    broker.take(nested.link)
    nested.say(("explain", 1, 0))
    ((_, _, plain),) = broker.take(nested.link)
    assert isinstance(plain, dict)
    assert (plain["state"], plain["reason"]) == ("queued", "turn")


def test_task_waits_for_tasks_that_it_has_submitted(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("a", want=1)
    broker.submit(client, b"0")
    (grant,) = broker.grants(worker)
    nested = broker.open(worker, 1, token=grant.token)
    assert where(broker, client) == ("leased", "running")
    nested.submit(*[b"n"] * 12)
    nested.say(("submit", 12, SQUARE.id, {"delay": 5.0}, [b"late"]))
    other = broker.worker("b", want=1)
    broker.settle(other, broker.grants(other)[0].token)
    told = ask(broker, client)
    assert (told.state, told.reason, told.worker, told.waits_for) == ("leased", "children", "host-a", 12)
    assert told.children == tuple(f"{nested.session}/{number}" for number in range(1, 11))
    named = [f"{nested.session[:8]}/{number}" for number in range(1, 11)]
    assert str(told).endswith("waits for 12 of the tasks that it has submitted: " + ", ".join(named) + ", ...")
    nested.say(("cancel", [*range(1, 12)], False))
    assert ask(broker, client).children == (f"{nested.session}/12",)
    assert not str(ask(broker, client)).endswith("...")
    nested.close()
    assert where(broker, client) == ("leased", "running")


def test_task_that_waits_takes_no_slot_so_what_came_behind_it_runs(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("a", want=2)
    broker.submit(client, b"0", b"1")
    first, _ = broker.grants(worker)
    assert where(broker, client, 1) == ("leased", "backlog")
    broker.open(worker, 1, token=first.token).submit(b"n")
    assert where(broker, client, 1) == ("leased", "running")


def test_token_that_its_worker_does_not_hold_opens_no_session_for_another_task(broker: Broker) -> None:
    client = broker.client()
    workers = [broker.worker(name, want=1) for name in ("a", "b")]
    broker.submit(client, b"0", b"1")
    (first,), _ = (broker.grants(worker) for worker in workers)
    broker.open(workers[1], 1, token=first.token).submit(b"n")
    assert [where(broker, client, number) for number in (0, 1)] == [("leased", "running")] * 2


def test_task_waits_because_the_hosts_of_the_workers_have_no_room_for_a_process(broker: Broker) -> None:
    client = broker.client()
    resting = [broker.worker(), broker.worker()]
    broker.worker(labels=["gpu"])
    broker.submit(client, b"0")
    broker.submit(client, b"1", first=1, labels=("gpu",))
    broker.say(resting[0], ("rest", 2.0))
    assert where(broker, client) == ("queued", "turn")
    broker.say(resting[1], ("rest", 8.0))
    broker.say(broker.worker(), ("rest", 4.0), ("drain",))
    assert where(broker, client) == ("queued", "turn"), "the one with the label does not rest"
    broker.leave(broker.core._workers.known_as("w4").connection)  # type: ignore[union-attr]
    told = ask(broker, client)
    assert (told.state, told.reason, told.seconds) == ("queued", "resting", 2.0)
    assert "the first tries again in 2.0 s" in str(told)
    broker.now += 3.0
    assert where(broker, client) == ("queued", "turn")


def test_task_is_held_because_too_much_waits_for_its_program(broker: Broker) -> None:
    broker = Broker(BrokerCore(10.0, 60.0, [], bounds=Bounds(result_bytes=1)))
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", b"1")
    (grant,) = broker.grants(worker)
    broker.leave(client)
    broker.settle(worker, grant.token, "result", b"large")
    broker.tick(1.0)
    monitor = broker.monitor()
    broker.say(monitor, ("find", "s", 1))
    ((_, rows),) = broker.take(monitor)
    told = Explanation.of(rows[0])  # type: ignore[index]
    assert (told.state, told.reason) == ("queued", "results")
    assert "its program is away" in str(told)


def test_watcher_finds_tasks_by_their_number_and_the_beginning_of_their_session(broker: Broker) -> None:
    for name in ("abc", "abd", "x"):
        broker.submit(broker.client(name), b"0", b"1")
    monitor = broker.monitor()

    def found(prefix: str, sequence: int) -> list[str]:
        broker.say(monitor, ("find", prefix, sequence))
        ((_, rows),) = broker.take(monitor)
        return [row["session"] for row in rows]  # type: ignore[attr-defined]

    assert found("", 1) == ["abc", "abd", "x"]
    assert found("ab", 0) == ["abc", "abd"]
    assert found("abc", 0) == ["abc"]
    assert found("", 2) == found("y", 0) == []


def test_asking_changes_nothing(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0")
    records, known = len(broker.records), [*broker.core.snapshot()]
    ask(broker, client)
    assert (len(broker.records), [*broker.core.snapshot()]) == (records, known)


@pytest.mark.parametrize(("state", "reason"), _WORDS)
def test_each_reason_has_words_that_need_nothing_else(state: str, reason: str) -> None:
    assert "{" not in str(Explanation(state, reason))


def test_what_a_newer_master_says_beyond_that_is_left_out() -> None:
    told = Explanation.of({"state": "queued", "reason": "moon", "phase": 3})
    assert str(told) == "the task: queued: moon"


def test_client_asks_once_and_again_after_a_new_connection() -> None:
    client = ClientCore()
    client.add(CODE_OF_F, PLAIN.wire, b"0")
    client.next_batch(NOW)
    client.accepted(1)
    client.ask(4, 0)
    assert client.next_batch(NOW) == [("explain", 4, 0)]
    assert client.next_batch(NOW) == []
    client.reconnected(known=True, accepted=1)
    assert client.next_batch(NOW) == [("explain", 4, 0)]
    client.answered(4)
    client.reconnected(known=True, accepted=1)
    assert client.next_batch(NOW) == []
