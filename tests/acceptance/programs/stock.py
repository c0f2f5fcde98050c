"""The tutorial's two programs, by the standard library alone.

    stock.py master COUNT    puts the numbers below COUNT on the task queue and prints what comes on the result queue
    stock.py worker COUNT    takes COUNT tasks and puts a result for each

The key is in MULTIHOST_AUTHKEY, or in the file where the cluster's volume is mounted.
"""

import os
import sys
from multiprocessing.managers import BaseManager
from pathlib import Path


class QueueManager(BaseManager):
    pass


QueueManager.register("get_task_queue")
QueueManager.register("get_result_queue")

host, port = os.environ["MULTIHOST_ADDRESS"].split(":")
key = os.environ.get("MULTIHOST_AUTHKEY") or Path("/run/multihost/authkey").read_text().strip()
manager = QueueManager(address=(host, int(port)), authkey=key.encode())
manager.connect()
tasks = manager.get_task_queue()  # type: ignore[attr-defined]
results = manager.get_result_queue()  # type: ignore[attr-defined]

role, count = sys.argv[1], int(sys.argv[2])
if role == "master":
    for number in range(count):
        tasks.put(number)
    for _ in range(count):
        print("Result:", results.get(timeout=30))
else:
    for _ in range(count):
        number = tasks.get(timeout=30)
        print(f"run task {number} * {number}...")
        results.put(f"{number} * {number} = {number * number}")
