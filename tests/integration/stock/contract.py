"""Checks that the task queue behaves as queue.Queue(maxsize=3); the master must have MULTIHOST_QUEUE_SIZE=3."""

import queue
import time
from collections.abc import Callable

from queues import connect  # type: ignore[import-not-found]  # it lies beside this script

tasks, results = connect()


def raises(error: type[Exception], call: Callable[[], object]) -> bool:
    try:
        call()
    except Exception as raised:
        return type(raised) is error
    return False


def seconds(call: Callable[[], object]) -> float:
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


assert tasks.empty()
assert not tasks.full()
assert tasks.qsize() == 0
assert raises(queue.Empty, tasks.get_nowait)
assert raises(queue.Empty, lambda: tasks.get(False))
assert raises(queue.Empty, lambda: tasks.get(block=False, timeout=-1))
assert seconds(lambda: raises(queue.Empty, lambda: tasks.get(timeout=0.2))) >= 0.2
assert seconds(lambda: raises(queue.Empty, lambda: tasks.get(True, 0.2))) >= 0.2
assert raises(queue.Empty, lambda: tasks.get(timeout=0))
assert raises(ValueError, lambda: tasks.get(timeout=-1))
assert raises(TypeError, lambda: tasks.get(timeout="soon"))
assert raises(TypeError, lambda: tasks.get(nonsense=1))
assert raises(OverflowError, lambda: tasks.get(timeout=10**400))

items = [None, {"a": [1, 2.5, "ü", b"bytes", (True, {1, 2})]}, 10**100]
tasks.put(items[0])
tasks.put_nowait(items[1])
tasks.put(items[2], True, 5)
assert tasks.full()
assert tasks.qsize() == 3
assert not tasks.empty()
assert raises(queue.Full, lambda: tasks.put_nowait(4))
assert raises(queue.Full, lambda: tasks.put(4, block=False))
assert seconds(lambda: raises(queue.Full, lambda: tasks.put(4, timeout=0.2))) >= 0.2
assert [tasks.get(), tasks.get_nowait(), tasks.get(block=True, timeout=5)] == items
assert results.empty()

for _ in items:
    tasks.task_done()
tasks.join()
assert raises(ValueError, tasks.task_done)

# An item that is more than plain data is refused, by name, and the connection goes on.
refusal = ""
try:
    tasks.put(time.struct_time(range(9)))
except Exception as error:
    refusal = str(error)
assert "time.struct_time" in refusal
assert "plain data" in refusal
assert tasks.empty()
print("the contract holds")
