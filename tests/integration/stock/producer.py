"""Puts the numbers below argv[1] on the task queue."""

import sys

from queues import connect  # type: ignore[import-not-found]  # it lies beside this script

tasks, _ = connect()
for number in range(int(sys.argv[1])):
    tasks.put(number)
