"""What a child process is made of, each part by itself: chunks, output, the backlog, the door, stacks."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.pool import MaybeEncodingError  # type: ignore[attr-defined]
from typing import Any

import pytest

from multihost.errors import ProtocolError, ResultTooLarge
from multihost.payload import Large, dump_error, load_part
from multihost.runner.backlog import Backlog, Order
from multihost.runner.chunk import ChunkRun
from multihost.runner.door import RelayDoor
from multihost.runner.interrupts import stack_of_tasks
from multihost.runner.outbox import Outbox
from multihost.runner.output import LEFT_OUT, MAX_TASK_CHARACTERS, Output
from multihost.wire.messages import Message

# --- outcomes --------------------------------------------------------------------------------------------------------


def test_tiny_outcomes_may_gather_and_large_ones_are_to_be_handed_over_at_once() -> None:
    nothing: Any = None
    outbox = Outbox(nothing, nothing, nothing)
    assert not outbox.put(1, "result", bytes(100_000), 0.0)
    assert outbox.put(2, "result", bytes(300_000), 0.0)
    assert outbox.put(3, "result", Large([bytes(300_000)]).stand_in(), 0.0)


# --- chunks ----------------------------------------------------------------------------------------------------------


def run_chunk(
    call: Callable[[Any], object],
    items: list[Any],
    done: int = 0,
    max_payload: int = 1 << 20,
    gather_seconds: float = 0.0,
) -> list[tuple[int, list[tuple[bool, object]]]]:
    """(Where it starts, rows) of each part that is handed over, the last one being the chunk's own outcome."""
    chunk = ChunkRun(done, max_payload, dump_error)
    parts: list[tuple[int, bytes]] = []
    chunk.run(call, items, lambda: parts.extend(chunk.take()), gather_seconds, lambda error: False)
    rest, last = chunk.take_last()
    loaded = [load_part(content) for content in [*(content for _, content in [*parts, *rest]), last]]
    assert [len(outcomes) for _, _, outcomes in loaded[:-1]] == [count for count, _ in [*parts, *rest]]
    return [(start, outcomes.pairs()) for start, _, outcomes in loaded]


def test_slow_items_are_handed_over_one_by_one_and_the_last_one_with_the_outcome_of_the_chunk() -> None:
    parts = run_chunk(lambda x: x * x, [1, 2, 3], done=4)
    assert parts == [(4, [(True, 1)]), (5, [(True, 4)]), (6, [(True, 9)])]


def test_tiny_items_are_gathered() -> None:
    assert run_chunk(str, [1, 2], gather_seconds=60.0) == [(0, [(True, "1"), (True, "2")])]


def test_last_item_is_not_handed_over_before_the_chunk_has_ended() -> None:
    chunk = ChunkRun(0, 1 << 20, dump_error)
    chunk.run(str, [1, 2], lambda: None, 60.0, lambda error: False)
    ((_, first),) = chunk.take()
    assert (load_part(first)[0], chunk.take()) == (0, []), "a thread takes what has ended, at any moment"
    parts, last = chunk.take_last()
    assert (parts, load_part(last)[0], load_part(last)[2].pairs()) == ([], 1, [(True, "2")])


def test_chunk_of_which_all_items_have_ended_gives_an_empty_outcome() -> None:
    assert run_chunk(str, [], done=3) == [(3, [])]


def test_item_that_raises_has_its_error_at_its_place() -> None:
    ((_, rows),) = run_chunk(lambda x: 1 // x, [1, 0, 1], gather_seconds=60.0)
    assert [succeeded for succeeded, _ in rows] == [True, False, True]
    assert isinstance(rows[1][1], ZeroDivisionError)


@pytest.mark.parametrize("gather_seconds", [0.0, 60.0])
def test_value_that_cannot_be_pickled_is_an_error_of_its_item_alone(gather_seconds: float) -> None:
    parts = run_chunk(lambda x: threading.Lock() if x == 2 else x, [1, 2, 3], gather_seconds=gather_seconds)
    rows = [row for _, some in parts for row in some]
    assert [value for succeeded, value in rows if succeeded] == [1, 3]
    assert isinstance(rows[1][1], MaybeEncodingError)


def test_part_that_would_be_too_large_is_split_and_a_value_that_is_too_large_by_itself_fails() -> None:
    sizes = [300, 300, 900, 300, 10]
    parts = run_chunk(bytes, sizes, max_payload=500, gather_seconds=60.0)
    rows = [row for _, some in parts for row in some]
    assert [len(value) if isinstance(value, bytes) else type(value) for _, value in rows] == [
        300,
        300,
        ResultTooLarge,
        300,
        10,
    ]
    assert [start for start, _ in parts] == sorted({start for start, _ in parts})


def test_exception_from_outside_ends_the_chunk() -> None:
    class FromOutsideError(Exception):
        pass

    def call(x: int) -> int:
        if x == 2:
            raise FromOutsideError
        return x

    chunk = ChunkRun(0, 1 << 20, dump_error)
    with pytest.raises(FromOutsideError):
        chunk.run(call, [1, 2, 3], lambda: None, 60.0, lambda error: isinstance(error, FromOutsideError))
    assert [rows for _, content in chunk.take() for rows in load_part(content)[2].pairs()] == [(True, 1)]


# --- output ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def running() -> list[int]:
    """The token of the task that runs."""
    return [7]


@pytest.fixture
def output(running: list[int]) -> Output:
    return Output(lambda: running[0] if running else None, forward=True)


def test_only_whole_lines_are_taken_and_the_rest_when_the_task_ends(output: Output) -> None:
    output.write("stdout", "one\ntwo\nthr")
    assert output.take() == [(7, "one\ntwo\n")]
    output.write("stdout", "ee")
    assert output.take() == []
    output.end(7)
    assert output.take() == [(7, "three\n")]


def test_streams_do_not_end_each_others_lines(output: Output) -> None:
    output.write("stdout", "begun ")
    output.write("stderr", "whole\n")
    output.write("stdout", "and ended\n")
    assert output.take() == [(7, "whole\nbegun and ended\n")]


def test_each_task_has_its_own_lines(output: Output, running: list[int]) -> None:
    output.write("stdout", "a\n")
    running[0] = 8
    output.write("stdout", "b\n")
    assert output.take() == [(7, "a\n"), (8, "b\n")]


def test_what_no_task_prints_is_nobodys(output: Output, running: list[int]) -> None:
    running.clear()
    output.write("stdout", "a\n")
    assert not output.some
    assert output.take() == []


def test_task_that_prints_too_much_is_cut_off_once(output: Output) -> None:
    for _ in range(3000):
        output.write("stdout", "x" * 99 + "\n")
    output.end(7)
    ((_, text),) = output.take()
    assert text.endswith("x\n" + LEFT_OUT)
    assert text.count(LEFT_OUT) == 1
    assert MAX_TASK_CHARACTERS - 100 < len(text) <= MAX_TASK_CHARACTERS + len(LEFT_OUT)


def test_endless_line_goes_in_pieces(output: Output) -> None:
    for _ in range(50):
        output.write("stdout", "x" * 1000)
    ((_, text),) = output.take()
    assert text.count("x") >= 45_000


def test_last_lines_of_a_task_are_kept_and_go_with_it(output: Output) -> None:
    for number in range(100):
        output.write("stdout", f"{number}\n")
    assert output.tail(7).split() == [str(number) for number in range(80, 100)]
    output.end(7)
    assert output.tail(7) == ""


def test_output_that_is_not_forwarded_has_its_last_lines_nevertheless() -> None:
    output = Output(lambda: 7, forward=False)
    output.write("stdout", "said\n")
    assert output.tail(7) == "said"
    output.end(7)
    assert output.take() == []


def test_who_takes_is_woken(output: Output) -> None:
    woken: list[None] = []
    output.wake = lambda: woken.append(None)
    output.write("stdout", "begun")
    assert woken == []
    output.write("stdout", "\n")
    assert woken == [None]


# --- the backlog -----------------------------------------------------------------------------------------------------


def test_backlog_gives_tasks_in_order_until_it_is_closed() -> None:
    backlog, order = Backlog(), Order("f", {})
    assert backlog.add(order, [(1, b"a"), (2, b"b")]) == []
    assert [backlog.take(), backlog.take(), backlog.take()] == [(order, 1, b"a"), (order, 2, b"b"), None]
    backlog.close()
    assert not backlog.wait()


def test_threads_that_wait_are_woken_by_tasks_and_by_the_end() -> None:
    backlog, order = Backlog(), Order("f", {})
    got: list[int] = []
    taken = threading.Semaphore(0)

    def work() -> None:
        while backlog.wait():
            if (task := backlog.take()) is not None:
                got.append(task[1])
                taken.release()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    for token in range(3):
        backlog.add(order, [(token, b"")])
        assert taken.acquire(timeout=10.0)
    backlog.close()
    for thread in threads:
        thread.join(10.0)
        assert not thread.is_alive()
    assert got == [0, 1, 2]


def test_backlog_of_a_child_that_lends_its_slot_is_empty_and_stays_so() -> None:
    backlog, order = Backlog(), Order("f", {})
    backlog.add(order, [(1, b""), (2, b"")])
    assert backlog.lend(True) == [1, 2]
    assert backlog.add(order, [(3, b"")]) == [3]
    assert backlog.take() is None
    assert backlog.lend(False) == []
    assert backlog.add(order, [(4, b"")]) == []
    assert backlog.wait()


def test_task_is_either_started_or_given_back_when_the_slot_is_lent_meanwhile() -> None:
    class Racing(Backlog):
        """Another thread takes a task whenever this one does."""

        def take(self) -> tuple[Order, int, bytes] | None:
            if (other := super().take()) is not None:
                started.append(other[1])
            return super().take()

    started: list[int] = []
    backlog = Racing()
    backlog.add(Order("f", {}), [(token, b"") for token in range(9)])
    assert sorted([*backlog.lend(True), *started]) == [*range(9)]


# --- the door --------------------------------------------------------------------------------------------------------


class Worker:
    """The other end of a door: answers every hello at once."""

    def __init__(self, answer: Message | None = None) -> None:
        self.said: list[Message] = []
        self.task: int | None = None  # the token of the one that runs
        self.lent: list[bool] = []
        self.opened = 0
        self._answer = answer
        self.door = RelayDoor(
            ("code",),
            {"max_payload": 5},
            self._hear,
            lambda: 2,
            lambda: self.task,
            self.lent.append,
            self._open,
            nullcontext(),
        )

    def _open(self) -> None:
        self.opened += 1

    def _hear(self, message: Message) -> None:
        self.said.append(message)
        if message[0] == "relay_open":
            self.door.deliver(self._answer or ("relay_open", message[1], {"known": False}))


def submit(first: int, count: int) -> Message:
    return ("submit", first, "f", {}, [b""] * count)


def outcomes(*rows: tuple[int, str]) -> list[Message]:
    return [("outcomes", [(sequence, kind, b"", "") for sequence, kind in rows])]


def test_session_of_a_task_says_which_task_has_opened_it() -> None:
    worker = Worker()
    worker.task = 7
    worker.door.open({"session": "a"})
    assert worker.said == [("relay_open", 1, {"session": "a", "task": 7})]


def test_session_of_a_task_speaks_on_a_channel_of_its_own() -> None:
    worker = Worker()
    first, answer = worker.door.open({"session": "a"})
    second, _ = worker.door.open({"session": "b"})
    assert answer == {"known": False, "max_payload": 5}
    assert worker.opened == 2
    assert worker.door.depth == 2
    second.send_batch([("ping",)])
    worker.door.deliver(("relay", 2, [("pong",)]))
    worker.door.deliver(("relay", 9, [("pong",)]))
    assert second.receive(0) == [[("pong",)]]
    assert first.receive(0) == []
    first.close()
    assert worker.said == [
        ("relay_open", 1, {"session": "a"}),
        ("relay_open", 2, {"session": "b"}),
        ("relay", 2, [("ping",)]),
        ("relay_close", 1),
    ]


def test_slot_is_lent_while_any_task_of_a_task_has_no_outcome() -> None:
    worker = Worker()
    relay, _ = worker.door.open({})
    other, _ = worker.door.open({})
    relay.send_batch([submit(0, 2)])
    other.send_batch([submit(0, 1)])
    assert worker.lent == [True]
    worker.door.deliver(("relay", 1, outcomes((0, "part"), (0, "result"), (1, "cancelled"))))
    assert worker.lent == [True]
    worker.door.deliver(("relay", 2, outcomes((0, "error"))))
    assert worker.lent == [True, False]


def test_session_that_ends_waits_for_nothing_any_more() -> None:
    worker = Worker()
    relay, _ = worker.door.open({})
    relay.send_batch([submit(0, 2)])
    relay.close()
    relay.close()
    assert worker.lent == [True, False]
    assert worker.said.count(("relay_close", 1)) == 1
    with pytest.raises(ConnectionError):
        relay.send_batch([("ping",)])
    with pytest.raises(ConnectionError):
        relay.receive(None)


def test_refused_session_says_why() -> None:
    worker = Worker(("relay", 1, [("refused", "the program has ended")]))
    with pytest.raises(ProtocolError, match="the program has ended"):
        worker.door.open({})
    assert worker.said[-1] == ("relay_close", 1)


# --- stacks ----------------------------------------------------------------------------------------------------------

STACK = """Thread 0x01 (most recent call first):
  File "/lib/threading.py", line 327 in wait
  File "/code/multihost/runner/outbox.py", line 92 in _beat
  File "/lib/threading.py", line 982 in run

Thread 0x02 (most recent call first):
  File "/lib/socket.py", line 3 in read
  File "/program/own.py", line 4 in thread_of_a_task

Current thread 0x03 (most recent call first):
  File "/lib/json.py", line 1 in loads
  File "/program/own.py", line 20 in task
  File "/code/multihost/runner/slot.py", line 236 in _run
  File "/code/multihost/runner/slot.py", line 69 in main
"""


def test_stack_of_a_task_is_told_from_those_of_our_threads() -> None:
    assert stack_of_tasks(STACK) == (
        '  File "/lib/json.py", line 1 in loads\n  File "/program/own.py", line 20 in task'
    )
    assert stack_of_tasks("") == ""
    assert stack_of_tasks("what a task has written over it") == ""
