"""Tasks with ``delay`` and ``expires``: the master holds what may not begin yet, ends what may not any more."""

from collections.abc import Iterator
from typing import Any

import pytest

from multihost.broker.expiring import ExpiringTasks
from multihost.broker.tasks import Task, TaskOptions
from multihost.client.core import ClientCore
from multihost.errors import ProtocolError, TaskExpired
from multihost.options import Options
from multihost.payload import load_error
from tests.unit.brokers import EPOCH, Broker, check_invariants, check_replay
from tests.unit.test_client_core import CODE_OF_F


@pytest.fixture
def broker() -> Iterator[Broker]:
    """At the end, as after every event, the invariants hold."""
    broker = Broker()
    yield broker
    check_invariants(broker.core, broker.restarted)
    check_replay(broker)


def expired(broker: Broker, client: int) -> dict[int, float]:
    """The tasks of which a client was told now that they have expired, and what their ``expires`` was."""
    told = {}
    for sequence, (kind, content) in broker.results(client).items():
        error = load_error(content)
        assert kind == "error"
        assert isinstance(error, TaskExpired)
        told[sequence] = error.seconds
    return told


# --- delay -----------------------------------------------------------------------------------------------------------


def test_delayed_task_is_granted_when_its_time_has_come_and_not_before(broker: Broker) -> None:
    worker, client = broker.worker(want=5), broker.client()
    broker.submit(client, b"0", delay=5.0)
    assert broker.take(client) == [("accepted", 1)]
    assert broker.core.next_deadline() == broker.now + 5.0
    assert (broker.count("queued"), broker.count("leased")) == (1, 0)
    broker.pass_time(4.75, worker)
    assert broker.grants(worker) == []
    broker.tick(0.25)
    assert broker.payloads(worker) == [b"0"]


def test_delayed_tasks_keep_their_order_and_go_behind_those_that_wait(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, b"0", b"1", b"2", delay=1.0)
    broker.submit(client, b"3", first=3)
    broker.pass_time(1.5, worker)
    broker.want(worker, 10)
    assert broker.payloads(worker) == [b"3", b"0", b"1", b"2"]


def test_delay_counts_from_the_call_however_late_its_submit_comes(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=5)
    broker.submit(client, b"0", delay=5.0, age=3.0)
    assert broker.core.next_deadline() == broker.now + 2.0
    broker.submit(client, b"1", first=1, delay=5.0, age=5.0)
    assert broker.payloads(worker) == [b"1"]


def test_delay_goes_on_over_a_restart_of_the_master(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", delay=5.0)
    broker.now += 3.0
    broker.restart()
    broker.client()
    worker = broker.worker(want=1)
    assert broker.core.next_deadline() == pytest.approx(broker.now + 2.0)
    broker.pass_time(1.5, worker)
    assert broker.grants(worker) == []
    broker.pass_time(0.5, worker)
    assert broker.payloads(worker) == [b"0"]


def test_delayed_task_can_be_cancelled(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", delay=5.0)
    broker.say(client, ("cancel", [0], False))
    assert broker.results(client) == {0: ("cancelled", b"")}
    broker.pass_time(6.0, worker)
    assert broker.grants(worker) == []


def test_client_is_told_when_the_time_of_a_task_has_come_and_no_worker_has_its_labels(broker: Broker) -> None:
    worker, client = broker.worker(want=1), broker.client()
    broker.submit(client, b"0", delay=1.0, labels=("gpu",))
    assert broker.take(client) == [("accepted", 1)]
    broker.pass_time(1.0, worker)
    assert broker.take(client) == [("lacking", [["gpu"]])]


# --- expires ---------------------------------------------------------------------------------------------------------


def test_task_that_nobody_has_taken_in_time_ends_with_an_error_and_is_never_granted(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", b"1", expires=60.0)
    broker.submit(client, b"2", first=2)
    assert broker.core.next_deadline() == broker.now + 60.0
    broker.pass_time(59.75)
    assert broker.count("expired") == 0
    broker.tick(0.25)
    assert expired(broker, client) == {0: 60.0, 1: 60.0}
    assert (broker.count("expired"), broker.count("queued")) == (2, 1)
    assert broker.payloads(broker.worker(want=5)) == [b"2"]


def test_task_that_has_expired_is_not_granted_even_before_the_tick_that_says_so(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker()
    broker.submit(client, b"0", expires=1.0)
    broker.now += 1.5
    broker.want(worker, 1)
    assert broker.grants(worker) == []
    assert expired(broker, client) == {0: 1.0}


def test_task_that_a_worker_has_is_left_alone_when_it_expires(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", expires=1.0)
    (grant,) = broker.grants(worker)
    broker.pass_time(5.0, worker)
    assert broker.count("leased") == 1
    broker.settle(worker, grant.token, "result", b"r")
    assert broker.results(client) == {0: ("result", b"r")}


def test_task_that_is_given_back_unstarted_after_it_has_expired_is_not_granted_again(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    other = broker.worker(want=1)
    broker.submit(client, b"0", expires=1.0)
    (grant,) = broker.grants(worker)
    broker.pass_time(2.0, worker, other)
    broker.say(worker, ("give_back", [grant.token]))
    assert broker.grants(other) == []
    assert expired(broker, client) == {0: 1.0}


@pytest.mark.parametrize("kind", ["lost", "retry"])
def test_task_that_has_begun_in_time_is_delivered_again_after_that(broker: Broker, kind: str) -> None:
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", expires=1.0, retries=1, backoff=0.5)
    (grant,) = broker.grants(worker)
    broker.settle(worker, grant.token, kind)
    broker.pass_time(2.0, worker)
    broker.want(worker, 1)
    (again,) = broker.grants(worker)
    broker.say(worker, ("give_back", [again.token]), broker.wanting(worker, 1))
    assert broker.payloads(worker) == [b"0"]
    assert broker.count("expired") == 0


def test_delayed_task_can_expire_before_its_time_has_come(broker: Broker) -> None:
    """Its call was made long ago, when the master was away."""
    client, worker = broker.client(), broker.worker(want=1)
    broker.submit(client, b"0", delay=5.0, expires=10.0, age=10.0)
    assert broker.grants(worker) == []
    assert expired(broker, client) == {0: 10.0}


def test_expiry_goes_on_over_a_restart_of_the_master(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", expires=5.0)
    broker.submit(client, b"1", first=1, expires=1.0)
    broker.now += 3.0
    broker.restart()
    client = broker.client()
    broker.tick(0.0)
    assert expired(broker, client) == {1: 1.0}
    broker.tick(2.0)
    assert expired(broker, client) == {0: 5.0}


def test_lease_over_a_restart_of_the_master_does_not_expire(broker: Broker) -> None:
    client, worker = broker.client(), broker.worker("w", want=1)
    broker.submit(client, b"0", expires=1.0)
    (grant,) = broker.grants(worker)
    broker.restart()
    client, worker = broker.client(), broker.worker("w", holds=[grant.token])
    broker.pass_time(2.0, worker)
    broker.settle(worker, grant.token, "result", b"r")
    assert broker.results(client) == {0: ("result", b"r")}


def test_session_that_ends_takes_what_would_expire_with_it(broker: Broker) -> None:
    client = broker.client()
    broker.submit(client, b"0", expires=5.0)
    broker.say(client, ("close",))
    broker.pass_time(6.0)
    assert (broker.count("cancelled"), broker.count("expired")) == (1, 0)


@pytest.mark.parametrize("options", [{"delay": -1.0}, {"delay": 1}, {"expires": 0.0}, {"age": "1"}])
def test_wrong_times_end_the_connection(broker: Broker, options: dict[Any, Any]) -> None:
    client = broker.client()
    broker.submit(client, b"0", **options)
    assert broker.closed[client].broke_rules
    with pytest.raises(ProtocolError):
        TaskOptions.parse(options)


def test_tasks_that_were_leased_do_not_pile_up_until_they_expire() -> None:
    expiring = ExpiringTasks()
    for number in range(10_000):
        task = Task("s", number, "f", b"", expires_at=EPOCH + 1e9)
        expiring.add(task)
        expiring.discard(task)
    assert len(expiring) == 0
    assert len(expiring._heap) <= 101


# --- the client ------------------------------------------------------------------------------------------------------


def test_client_says_how_long_ago_a_call_with_a_delay_was_made() -> None:
    client = ClientCore()
    options = Options(delay=5, expires=60)
    for payload, since in ((b"0", 100.0), (b"1", 100.0), (b"2", 101.5)):
        client.add(CODE_OF_F, options.wire, payload, since)
    *_, first, second = client.next_batch(102.0)
    assert first == ("submit", 0, CODE_OF_F[-1].blob_id, {"delay": 5.0, "expires": 60.0, "age": 2.0}, [b"0", b"1"])
    assert second == ("submit", 2, CODE_OF_F[-1].blob_id, {"delay": 5.0, "expires": 60.0, "age": 0.5}, [b"2"])


def test_only_options_that_count_from_the_call_note_when_that_was() -> None:
    assert Options(retries=3).from_now().since is None
    begun = Options(expires=3).from_now()
    assert begun.since is not None
    assert begun == Options(expires=3)
