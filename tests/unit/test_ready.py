"""multihost/broker/ready.py: what the broker's own tests do not show of the order of tasks."""

import time

from multihost.broker.ready import ReadyQueue
from multihost.broker.tasks import Task


def queue_of(count: int) -> ReadyQueue:
    ready = ReadyQueue()
    ready.open("s", None)
    ready.extend("s", [Task("s", sequence, "f", b"") for sequence in range(count)])
    return ready


def test_withdrawing_one_by_one_does_not_look_at_the_whole_line_each_time() -> None:
    ready = queue_of(20_000)
    before = time.process_time()
    for sequence in reversed(range(20_000)):
        assert len(ready.withdraw("s", {sequence, 99_999})) == 1
    assert time.process_time() - before < 2  # 20 s when each one looked at all the others
    assert len(ready) == ready.available() == 0


def test_withdrawn_tasks_come_in_order_and_leave_the_others_in_theirs() -> None:
    ready = queue_of(6)
    first, second, *_ = ready.take(3)
    ready.take_back(second)
    ready.take_back(first)
    assert [task.sequence for task in ready.withdraw("s", {4, 1, 2, 7})] == [1, 4]
    assert [task.sequence for task in ready.take(9)] == [0, 3, 5]
