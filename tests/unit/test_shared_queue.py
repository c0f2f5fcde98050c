"""multihost/broker/queues.py: as queue.Queue behaves, and no item is lost or doubled however callers come and go."""

import pickle
import queue
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from multihost.broker.queues import METHODS, Opaque, Reply, SharedQueue
from multihost.errors import ProtocolError

A, B, C, D = 1, 2, 3, 4  # connections


def call(
    shared: SharedQueue, connection: int, method: str, *args: object, now: float = 0.0, **kwds: object
) -> list[Reply]:
    return shared.call(connection, method, args, kwds, now)


def returned(connection: int, value: object = None) -> Reply:
    return Reply(connection, "#RETURN", value)


def raised(replies: list[Reply]) -> type[BaseException] | None:
    """The type of the only reply's error."""
    (reply,) = replies
    return type(reply.value) if reply.kind == "#ERROR" and isinstance(reply.value, BaseException) else None


@pytest.fixture
def shared() -> SharedQueue:
    return SharedQueue()


@pytest.fixture
def small() -> SharedQueue:
    """Has room for one item, and it is taken."""
    small = SharedQueue(1)
    call(small, A, "put", "first")
    return small


# --- what is answered at once ----------------------------------------------------------------------------------------


def _outcome(function: Callable[..., object], args: tuple[object, ...]) -> tuple[object, type[Exception] | None]:
    try:
        return function(*args), None
    except (queue.Empty, queue.Full, ValueError) as error:
        return None, type(error)


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("put_nowait"), st.tuples(st.integers())),
        st.tuples(st.just("put"), st.tuples(st.integers(), st.just(False))),
        st.tuples(st.sampled_from(["get_nowait", "qsize", "empty", "full", "task_done"]), st.just(())),
        st.tuples(st.just("get"), st.just((False,))),
    ),
    max_size=30,
)


@given(st.integers(0, 3), CALLS)
def test_calls_that_do_not_wait_are_answered_as_by_queue_queue(
    maxsize: int, calls: list[tuple[str, tuple[object, ...]]]
) -> None:
    model: queue.Queue[object] = queue.Queue(maxsize)
    ours = SharedQueue(maxsize)
    for method, args in calls:
        expected, error = _outcome(getattr(model, method), args)
        replies = call(ours, A, method, *args)
        assert raised(replies) is error
        assert error or replies == [returned(A, expected)]
        assert len(ours) == model.qsize()


def test_waiting_calls_that_can_be_answered_at_once_are(shared: SharedQueue) -> None:
    assert call(shared, A, "put", "item", True, 5.0) == [returned(A)]
    assert call(shared, A, "get", timeout=5) == [returned(A, "item")]
    assert call(shared, A, "task_done") == [returned(A)]
    assert call(shared, A, "join") == [returned(A)]


def test_every_served_method_is_one_of_queue_queue_or_our_own() -> None:
    assert set(METHODS) - {"put_pickled"} <= set(dir(queue.Queue))


# --- waiting ---------------------------------------------------------------------------------------------------------


def test_getters_are_served_in_the_order_in_which_they_came(shared: SharedQueue) -> None:
    for connection in (B, A, C):
        assert call(shared, connection, "get") == []
    assert call(shared, D, "put", 1) == [returned(D), returned(B, 1)]
    assert call(shared, D, "put", 2) == [returned(D), returned(A, 2)]
    assert call(shared, D, "put", 3) == [returned(D), returned(C, 3)]


def test_putters_are_let_in_in_the_order_in_which_they_came(small: SharedQueue) -> None:
    assert call(small, B, "put", "second") == []
    assert call(small, C, "put", "third") == []
    assert call(small, D, "get") == [returned(D, "first"), returned(B)]
    assert call(small, D, "get") == [returned(D, "second"), returned(C)]
    assert call(small, D, "get") == [returned(D, "third")]


@pytest.mark.parametrize("timeout", [0, 0.5, 3])
def test_get_gives_up_when_its_time_is_over_and_not_before(shared: SharedQueue, timeout: float) -> None:
    assert call(shared, A, "get", True, timeout, now=10.0) == []
    assert shared.next_deadline() == 10.0 + timeout
    assert shared.expire(10.0 + timeout - 0.01) == []
    assert raised(shared.expire(10.0 + timeout)) is queue.Empty
    assert shared.next_deadline() is None
    assert call(shared, B, "put", "late") == [returned(B)]
    assert len(shared) == 1


def test_put_gives_up_when_its_time_is_over_and_its_item_is_not_put(small: SharedQueue) -> None:
    assert call(small, B, "put", "second", timeout=2.0, now=10.0) == []
    assert raised(small.expire(12.0)) is queue.Full
    assert call(small, C, "get") == [returned(C, "first")]
    assert raised(call(small, C, "get_nowait")) is queue.Empty


def test_time_of_a_call_that_was_served_ends_nothing_else(shared: SharedQueue) -> None:
    call(shared, A, "get", timeout=1.0)
    call(shared, B, "put", "item")
    assert call(shared, A, "get", timeout=5.0, now=0.5) == []
    assert shared.expire(1.0) == []
    assert raised(shared.expire(5.5)) is queue.Empty


def test_calls_without_a_timeout_never_expire(shared: SharedQueue) -> None:
    call(shared, A, "get")
    call(shared, B, "join")
    assert shared.next_deadline() is None
    assert shared.expire(1e12) == []


def test_get_that_does_not_wait_does_not_overtake_nor_wait(shared: SharedQueue) -> None:
    assert raised(call(shared, A, "get", False, 5.0)) is queue.Empty
    assert shared.next_deadline() is None


def test_join_waits_until_every_item_was_reported_done(shared: SharedQueue) -> None:
    call(shared, A, "put", 1)
    call(shared, A, "put", 2)
    assert call(shared, B, "join") == []
    assert call(shared, C, "join") == []
    call(shared, A, "get")
    assert call(shared, A, "task_done") == [returned(A)]
    call(shared, A, "get")
    replies = call(shared, A, "task_done")
    assert replies[0] == returned(A)
    assert sorted(replies[1:]) == [returned(B), returned(C)]
    assert call(shared, A, "put", 3) == [returned(A)]  # and whoever joined is not answered twice


def test_waiting_put_is_unfinished_only_once_it_is_in(small: SharedQueue) -> None:
    call(small, B, "put", "second", timeout=1.0)
    small.expire(1.0)
    assert call(small, A, "task_done") == [returned(A)]
    assert raised(call(small, A, "task_done")) is ValueError


# --- connections that end --------------------------------------------------------------------------------------------


def test_getter_that_leaves_takes_no_item_along(shared: SharedQueue) -> None:
    call(shared, A, "get")
    call(shared, B, "get")
    assert shared.leave(A, delivered=True) == []
    assert call(shared, C, "put", "item") == [returned(C), returned(B, "item")]


def test_putter_that_leaves_puts_nothing(small: SharedQueue) -> None:
    call(small, B, "put", "second")
    assert small.leave(B, delivered=False) == []
    assert call(small, C, "get") == [returned(C, "first")]
    assert len(small) == 0


def test_joiner_that_leaves_is_not_answered(shared: SharedQueue) -> None:
    call(shared, A, "put", 1)
    call(shared, B, "join")
    shared.leave(B, delivered=False)
    assert call(shared, A, "task_done") == [returned(A)]


def test_item_that_did_not_arrive_is_the_first_again(shared: SharedQueue) -> None:
    for item in (1, 2, 3):
        call(shared, A, "put", item)
    call(shared, B, "get")
    assert shared.leave(B, delivered=False) == []
    assert [call(shared, C, "get")[0].value for _ in range(3)] == [1, 2, 3]


def test_item_that_did_not_arrive_goes_to_whoever_waits(shared: SharedQueue) -> None:
    call(shared, A, "put", 1)
    call(shared, B, "get")
    call(shared, C, "get")
    assert shared.leave(B, delivered=False) == [returned(C, 1)]


def test_item_that_did_not_arrive_is_put_back_even_when_the_queue_is_full(small: SharedQueue) -> None:
    call(small, B, "get")
    call(small, C, "put", "second")
    small.leave(B, delivered=False)
    assert [call(small, C, "get")[0].value for _ in range(2)] == ["first", "second"]


def test_item_that_arrived_stays_with_whoever_got_it(shared: SharedQueue) -> None:
    call(shared, A, "put", 1)
    call(shared, B, "get")
    assert shared.leave(B, delivered=True) == []
    assert len(shared) == 0


@pytest.mark.parametrize("method", ["get", "get_nowait", "qsize", "task_done", "no_such_method"])
def test_who_asks_again_has_read_the_last_answer(shared: SharedQueue, method: str) -> None:
    call(shared, A, "put", 1)
    call(shared, B, "get")
    call(shared, B, method)
    shared.leave(B, delivered=False)
    assert len(shared) == 0


def test_item_put_back_is_still_unfinished_once(shared: SharedQueue) -> None:
    call(shared, A, "put", 1)
    call(shared, B, "get")
    shared.leave(B, delivered=False)
    call(shared, A, "get")
    assert call(shared, A, "task_done") == [returned(A)]
    assert raised(call(shared, A, "task_done")) is ValueError


# --- bad requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "args", "kwds", "error"),
    [
        ("put", (), {}, TypeError),
        ("put", (1, True, None, "more"), {}, TypeError),
        ("put", (1,), {"urgent": True}, TypeError),
        ("put", (1,), {"now": 5.0}, TypeError),
        ("put", (1,), {"connection": B}, TypeError),
        ("get", (True, "soon"), {}, TypeError),
        ("get", (True, True), {}, TypeError),
        ("get", (True, [1]), {}, TypeError),
        ("get", (True, -1), {}, ValueError),
        ("get", (True, float("nan")), {}, ValueError),
        ("get", (True, 10**400), {}, OverflowError),
        ("get_nowait", (1,), {}, TypeError),
        ("put_pickled", ("text",), {}, TypeError),
        ("put_pickled", ([b"x"],), {}, TypeError),
        ("task_done", (), {}, ValueError),
        ("join", (1.0,), {}, TypeError),
    ],
)
def test_bad_argument_is_the_callers_error_and_changes_nothing(
    shared: SharedQueue, method: str, args: tuple[object, ...], kwds: dict[str, object], error: type[Exception]
) -> None:
    assert raised(shared.call(A, method, args, kwds, 0.0)) is error
    assert len(shared) == 0
    assert shared.next_deadline() is None
    assert call(shared, B, "put", 1) == [returned(B)]  # nobody waits for it


@pytest.mark.parametrize("method", ["__len__", "_put", "put_", "leave", "expire", "mutex", "__class__", "call", ""])
def test_method_that_is_not_served_is_named_in_a_traceback(shared: SharedQueue, method: str) -> None:
    (reply,) = call(shared, A, method)
    assert reply.kind == "#TRACEBACK"
    assert repr(method) in str(reply.value)


@pytest.mark.parametrize("waiting", ["get", "join"])
def test_second_request_before_the_first_is_answered_breaks_the_protocol(shared: SharedQueue, waiting: str) -> None:
    call(shared, A, "put", 1)
    call(shared, B, "get")
    call(shared, C, waiting)
    with pytest.raises(ProtocolError, match="not answered yet"):
        call(shared, C, "qsize")


def test_item_nested_too_deeply_to_be_sent_is_refused_to_whoever_puts_it(shared: SharedQueue) -> None:
    item: object = 1
    for _ in range(100_000):
        item = (item,)
    assert raised(call(shared, A, "put", item)) is ValueError
    item = frozenset()
    for _ in range(20_000):
        item = frozenset([item])
    assert raised(call(shared, A, "put", item)) is ValueError
    assert len(shared) == 0
    item = 1
    for _ in range(100):
        item = [item]
    assert call(shared, A, "put", item) == [returned(A)]


# --- items that the master does not look into ------------------------------------------------------------------------


@pytest.mark.parametrize("value", [Fraction(1, 3), {"a": [1]}, len])
def test_opaque_item_is_bytes_here_and_the_object_at_the_receiver(shared: SharedQueue, value: object) -> None:
    assert call(shared, A, "put_pickled", pickle.dumps(value)) == [returned(A)]
    (reply,) = call(shared, B, "get")
    assert isinstance(reply.value, Opaque)
    assert pickle.loads(pickle.dumps(("#RETURN", reply.value), protocol=5)) == ("#RETURN", value)


def test_opaque_item_is_not_opened_here(shared: SharedQueue) -> None:
    call(shared, A, "put_pickled", b"no pickle at all", False)
    (reply,) = call(shared, B, "get")
    assert reply.value == Opaque(b"no pickle at all")


# --- no item is lost or doubled --------------------------------------------------------------------------------------

CONNECTIONS = st.integers(1, 5)
TIMEOUTS = st.none() | st.integers(0, 5)


class Callers(RuleBasedStateMachine):
    """Callers that put, get, wait, give up and die at random; every item is somewhere, once."""

    @initialize(maxsize=st.integers(0, 3))
    def start(self, maxsize: int) -> None:
        self.maxsize = maxsize
        self.queue = SharedQueue(maxsize)
        self.now = 0.0
        self.next_item = 0
        self.waiting: dict[int, tuple[str, object]] = {}  # connection -> method, item it puts
        self.in_queue: Counter[object] = Counter()
        self.unread: dict[int, object] = {}  # handed to a connection, which gave no sign yet
        self.read: Counter[object] = Counter()

    def take(self, replies: list[Reply]) -> None:
        for connection, kind, value in replies:
            method, item = self.waiting.pop(connection)
            if kind == "#ERROR":
                assert isinstance(value, queue.Empty | queue.Full | ValueError)
            elif method.startswith("put"):
                self.in_queue[item] += 1
            elif method.startswith("get"):
                self.in_queue[value] -= 1
                self.unread[connection] = value

    def confirm(self, connection: int) -> None:
        if connection in self.unread:
            self.read[self.unread.pop(connection)] += 1

    def call(self, connection: int, method: str, *args: object, item: object = None) -> None:
        if connection in self.waiting:
            return
        self.confirm(connection)
        self.waiting[connection] = method, item
        self.take(self.queue.call(connection, method, args, {}, self.now))

    @rule(connection=CONNECTIONS, block=st.booleans(), timeout=TIMEOUTS)
    def put(self, connection: int, block: bool, timeout: float | None) -> None:
        self.next_item += 1
        self.call(connection, "put", self.next_item, block, timeout, item=self.next_item)

    @rule(connection=CONNECTIONS, block=st.booleans(), timeout=TIMEOUTS)
    def get(self, connection: int, block: bool, timeout: float | None) -> None:
        self.call(connection, "get", block, timeout)

    @rule(connection=CONNECTIONS, method=st.sampled_from(["join", "task_done", "qsize"]))
    def ask(self, connection: int, method: str) -> None:
        self.call(connection, method)

    @rule(connection=CONNECTIONS, delivered=st.booleans())
    def die(self, connection: int, delivered: bool) -> None:
        self.waiting.pop(connection, None)
        if connection in self.unread:
            if delivered:
                self.confirm(connection)
            else:
                self.in_queue[self.unread.pop(connection)] += 1
        self.take(self.queue.leave(connection, delivered))

    @rule(seconds=st.integers(0, 4))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        self.take(self.queue.expire(self.now))

    @invariant()
    def every_item_is_somewhere_once(self) -> None:
        if not hasattr(self, "queue"):
            return
        assert len(self.queue) == self.in_queue.total()
        assert all(count >= 0 for count in self.in_queue.values())
        everywhere = self.in_queue + self.read + Counter(self.unread.values())
        assert all(count == 1 for count in everywhere.values())

    @invariant()
    def nobody_waits_who_could_go_on(self) -> None:
        if not hasattr(self, "queue"):
            return
        methods = Counter(method for method, _ in self.waiting.values())
        assert not (methods["get"] and len(self.queue))
        assert not (methods["put"] and not 0 < self.maxsize <= len(self.queue))

    def teardown(self) -> None:
        """All that is left can be taken."""
        if not hasattr(self, "queue"):
            return
        for connection in [*self.waiting]:
            self.die(connection, True)
        while len(self.queue):
            self.get(99, False, None)
        self.confirm(99)
        assert not self.in_queue.total()


TestCallers: Callable[[], Any] = Callers.TestCase
TestCallers.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)  # type: ignore[attr-defined]


def test_calls_that_are_answered_in_time_leave_no_deadlines_behind() -> None:
    queue = SharedQueue()
    for now in range(5000):
        queue.call(1, "put", (now,), {"timeout": 1e6}, float(now))
        queue.call(2, "get", (), {"timeout": 1e6}, float(now))
    assert queue.next_deadline() is None  # neither had to wait
    for now in range(5000):
        queue.call(2, "get", (), {"timeout": 1e6}, float(now))
        queue.call(1, "put", (now,), {}, float(now))
    assert len(queue._deadlines) < 2000  # these waited, and were served
    queue.call(2, "get", (), {"timeout": 5.0}, 6000.0)
    assert queue.next_deadline() == 6005.0
    assert [reply.connection for reply in queue.expire(6005.0)] == [2]
