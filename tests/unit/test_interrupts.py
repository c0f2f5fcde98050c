"""What a process does when it is told something in the middle of a task."""

import faulthandler
import os
import pickle
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from multihost.runner.interrupts import INTERRUPT, RECALL, Interrupts, TaskStopped

TOKEN = 7


class Process:
    """This process, as a child that runs the task ``TOKEN``; the worker's end of its socket is ``control``."""

    def __init__(self, stack: Path) -> None:
        self.control, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._other = other
        self.interrupts = Interrupts(other, str(stack), "w1")
        self.interrupts.running = TOKEN

    def tell(self, token: int, seconds: float | None = None) -> None:
        self.control.send(pickle.dumps((token, seconds)))
        os.kill(os.getpid(), INTERRUPT)

    def close(self) -> None:
        self.control.close()
        self._other.close()
        faulthandler.unregister(INTERRUPT)
        self.interrupts._stack.close()  # in a child it stays open


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    before = signal.getsignal(INTERRUPT)
    process = Process(tmp_path / "stack")
    yield process
    process.close()
    signal.signal(INTERRUPT, before)


def test_a_cancelled_task_is_interrupted_where_it_is(process: Process) -> None:
    with pytest.raises(TaskStopped):
        process.tell(TOKEN)


def test_a_cancel_waits_until_a_recall_has_been_answered(process: Process) -> None:
    answered = []

    def recall() -> None:
        process.tell(TOKEN)
        answered.append("all of it")

    process.interrupts.recall = recall
    with pytest.raises(TaskStopped):
        process.tell(RECALL)
    assert answered == ["all of it"]


def test_a_recall_waits_until_what_is_being_written_is_written(process: Process) -> None:
    order: list[str] = []
    process.interrupts.recall = lambda: order.append("recalled")
    with process.interrupts:
        process.tell(RECALL)
        order.append("written")
    assert order == ["written", "recalled"]
