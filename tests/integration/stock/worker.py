"""Squares what is on the task queue until it has been empty for a second."""

import queue

from queues import connect  # type: ignore[import-not-found]  # it lies beside this script

tasks, results = connect()
try:
    while True:
        number = tasks.get(timeout=1)
        results.put((number, number * number))
except queue.Empty:
    print("no more tasks")
