"""What the three scripts beside this one share: the two queues, by the standard library alone."""

import os
from multiprocessing.managers import BaseManager
from typing import Any


class QueueManager(BaseManager):
    pass


QueueManager.register("get_task_queue")
QueueManager.register("get_result_queue")


def connect() -> tuple[Any, Any]:
    """The task queue and the result queue."""
    host, _, port = os.environ["MULTIHOST_ADDRESS"].rpartition(":")
    manager: Any = QueueManager(address=(host, int(port)), authkey=os.environ["MULTIHOST_AUTHKEY"].encode())
    manager.connect()
    return manager.get_task_queue(), manager.get_result_queue()
