"""The plain task_master / task_worker pair over ``multiprocessing.managers``: two queues served by a master."""

import multiprocessing
import os
import queue
import secrets
from collections.abc import Sequence
from multiprocessing.managers import BaseManager
from typing import Any

import programs
from system import Function, System


class QueueManager(BaseManager):
    """What master, workers and client have in common."""


def _serve(address: tuple[str, int], authkey: bytes) -> None:
    tasks: queue.Queue[Any] = queue.Queue()
    results: queue.Queue[Any] = queue.Queue()
    QueueManager.register("get_task_queue", callable=lambda: tasks)
    QueueManager.register("get_result_queue", callable=lambda: results)
    QueueManager(address, authkey).get_server().serve_forever()


def _connect(address: tuple[str, int], authkey: bytes) -> tuple[Any, Any]:
    for name in ("get_task_queue", "get_result_queue"):
        QueueManager.register(name)
    manager: Any = QueueManager(address, authkey)

    def reached() -> bool:
        try:
            manager.connect()
        except ConnectionRefusedError:
            return False
        return True

    programs.wait_until(reached, "the master answered")
    return manager.get_task_queue(), manager.get_result_queue()


def _work(address: tuple[str, int], authkey: bytes) -> None:
    multiprocessing.current_process().authkey = authkey
    tasks, results = _connect(address, authkey)
    while True:
        number, function, args = tasks.get()
        results.put((number, function(*args)))


class Peer(System):
    """See the module."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        where = ("127.0.0.1", programs.free_port()), secrets.token_bytes(16)
        self._master = multiprocessing.Process(target=_serve, args=where, daemon=True)
        self._others = [multiprocessing.Process(target=_work, args=where, daemon=True) for _ in range(workers)]
        for process in (self._master, *self._others):
            process.start()
        multiprocessing.current_process().authkey = where[1]
        self._tasks, self._results = _connect(*where)
        self._submitted = 0
        self._arrived: dict[int, Any] = {}

    def submit(self, function: Function, *args: Any) -> int:
        self._submitted += 1
        self._tasks.put((self._submitted, function, args))
        return self._submitted

    def collect(self, handles: Sequence[int]) -> list[Any]:
        results = []
        for number in handles:
            while number not in self._arrived:
                arrived, result = self._results.get()
                self._arrived[arrived] = result
            results.append(self._arrived.pop(number))
        return results

    def roles(self) -> dict[str, list[int]]:
        workers = [process.pid for process in self._others if process.pid is not None]
        return {"client": [os.getpid()], "master": [self._master.pid or 0], "workers": workers}

    def close(self) -> None:
        for process in (*self._others, self._master):
            process.terminate()
            process.join()
