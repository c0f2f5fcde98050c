"""Puts the numbers below argv[1] on the task queue."""

import sys

from queues import connect

tasks, _ = connect()
for number in range(int(sys.argv[1])):
    tasks.put(number)
