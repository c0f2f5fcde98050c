"""Shared queues lose nothing when clients die, carry any object between QueueManagers, and offer nothing else."""

import operator
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from multiprocessing.managers import RemoteError
from pathlib import Path
from typing import Any

import pytest

from multihost import QueueManager
from tests.integration.clients import Bomb, ask, authenticated, is_closed, stock_queues
from tests.integration.cluster import Cluster, Program, wait_until

GETTER = Path(__file__).parent / "stock" / "getter.py"


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("logs")) as cluster:
        cluster.start_master()
        yield cluster


@pytest.fixture
def getter(master: Cluster) -> Iterator[Program]:
    """A client that waits inside get()."""
    getter = master.start_python(GETTER)
    getter.wait_for_log("asked")
    yield getter
    if getter.running:
        getter.kill()


def our_queues(cluster: Cluster) -> tuple[Any, Any]:
    manager = QueueManager(cluster.address.pair, cluster.authkey.encode())
    manager.connect()
    return manager.get_task_queue(), manager.get_result_queue()


@dataclass(frozen=True)
class Point:
    x: Fraction
    y: object


# --- clients that die ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("repetition", range(20))
def test_an_item_put_after_a_client_was_killed_inside_get_goes_to_a_living_one(
    master: Cluster, getter: Program, repetition: int
) -> None:
    tasks, _ = stock_queues(master)
    getter.kill()
    tasks.put(repetition)
    assert tasks.get(timeout=10) == repetition
    assert tasks.empty()


def test_an_item_sent_to_a_frozen_client_that_is_then_killed_comes_back_to_the_front(
    master: Cluster, getter: Program
) -> None:
    tasks, _ = stock_queues(master)
    getter.stop()
    state = Path(f"/proc/{getter.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(") ")[2].startswith("T"), "the client froze")
    tasks.put("first")
    wait_until(tasks.empty, "the first item was sent to the frozen client")
    tasks.put("second")
    getter.kill()
    wait_until(lambda: tasks.qsize() == 2, "the first item came back")
    assert [tasks.get(timeout=10), tasks.get(timeout=10)] == ["first", "second"]
    assert tasks.empty()


def test_an_item_that_a_client_read_before_it_was_killed_is_not_delivered_again(
    master: Cluster, getter: Program
) -> None:
    tasks, _ = stock_queues(master)
    tasks.put("read")
    getter.wait_for_log("got")
    assert getter.wait() == 0
    tasks.put("next")
    assert tasks.get(timeout=10) == "next"
    assert tasks.empty()


def test_a_client_frozen_inside_get_receives_its_item_when_it_goes_on(master: Cluster, getter: Program) -> None:
    tasks, _ = stock_queues(master)
    getter.stop()
    tasks.put("late")
    wait_until(tasks.empty, "the item was sent")
    os.kill(getter.pid, signal.SIGCONT)
    assert getter.wait() == 0
    assert "late" in getter.log()


# --- QueueManager of ours --------------------------------------------------------------------------------------


@pytest.mark.parametrize("receive", [our_queues, stock_queues], ids=["ours", "stock"])
def test_any_picklable_object_put_by_our_manager_is_received_by_either(
    master: Cluster, receive: Callable[[Cluster], tuple[Any, Any]]
) -> None:
    sent = [Point(Fraction(1, 3), operator.itemgetter(1)), ValueError("as itself"), Point, None]
    mine, theirs = our_queues(master)[1], receive(master)[1]
    for item in sent:
        mine.put(item)
    point, error, kind, nothing = (theirs.get(timeout=10) for _ in sent)
    assert point.x == Fraction(1, 3)
    assert point.y("ab") == "b"
    assert str(error) == "as itself"
    assert kind is Point
    assert nothing is None


def test_what_a_stock_client_puts_is_received_by_our_manager(master: Cluster) -> None:
    theirs, mine = stock_queues(master)[0], our_queues(master)[0]
    theirs.put({"n": [1, 2, (3, None)]})
    assert mine.get(timeout=10) == {"n": [1, 2, (3, None)]}


def test_a_callable_cannot_be_registered() -> None:
    class Mine(QueueManager):
        pass

    with pytest.raises(TypeError, match="leave the callable out"):
        Mine.register("get_dict", callable=dict)


def test_the_master_never_unpickles_an_item(master: Cluster, tmp_path: Path) -> None:
    mine = our_queues(master)[0]
    mine.put(Bomb(tmp_path / "exploded"))
    assert mine.qsize() == 1
    assert not (tmp_path / "exploded").exists()
    os.close(mine.get(timeout=10))
    assert (tmp_path / "exploded").exists(), "the receiver, who asked for any object, unpickles it"


# --- what the stock server would serve -------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["shutdown", "debug_info", "number_of_objects", "get_methods", "serve_client"])
def test_the_stock_servers_own_methods_are_not_served(master: Cluster, method: str) -> None:
    with authenticated(master) as connection, pytest.raises(RemoteError, match="not served"):
        ask(connection, method)
    _assert_serves(master)


@pytest.mark.parametrize("typeid", ["dict", "Namespace", "get_other_queue", "__class__", 7])
def test_objects_of_unknown_types_cannot_be_created(master: Cluster, typeid: object) -> None:
    with authenticated(master) as connection, pytest.raises(RemoteError, match="no shared queue"):
        ask(connection, "create", typeid)
    _assert_serves(master)


@pytest.mark.parametrize("method", ["#GETVALUE", "__class__", "__reduce__", "_settle", "call", "__init__"])
def test_a_queues_inside_cannot_be_reached(master: Cluster, method: str) -> None:
    with authenticated(master) as connection:
        ask(connection, "accept_connection", "me")
        with pytest.raises(RemoteError, match="no method"):
            ask(connection, method, ident="get_task_queue")
        assert ask(connection, "qsize", ident="get_task_queue") == 0
    _assert_serves(master)


def test_a_second_request_while_the_first_waits_closes_the_connection(master: Cluster) -> None:
    with authenticated(master) as connection:
        ask(connection, "accept_connection", "me")
        connection.send(("get_task_queue", "get", (), {}))
        connection.send(("get_task_queue", "get", (), {}))
        wait_until(lambda: is_closed(connection), "the connection was closed")
    _assert_serves(master)


def test_an_item_nested_too_deeply_is_refused_and_nobody_who_waits_is_harmed(master: Cluster) -> None:
    levels = 200_000
    item = b"]" * levels + b"a" * (levels - 1)
    with authenticated(master) as connection, authenticated(master) as waiting:
        for each in (connection, waiting):
            ask(each, "accept_connection", "me")
        waiting.send(("get_task_queue", "get", (), {}))
        connection.send_bytes(b"\x80\x04(\x8c\x0eget_task_queue\x8c\x03put(" + item + b"t}t.")
        kind, error = connection.recv()
        assert kind == "#ERROR"
        assert isinstance(error, ValueError)
        stock_queues(master)[0].put("shallow")
        assert waiting.recv() == ("#RETURN", "shallow")
    _assert_serves(master)


def _assert_serves(cluster: Cluster) -> None:
    tasks, _ = stock_queues(cluster)
    tasks.put("still here")
    assert tasks.get(timeout=10) == "still here"
