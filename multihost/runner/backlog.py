"""The tasks that a child has been given and has not started."""

import threading
from collections import deque
from typing import NamedTuple


class Order(NamedTuple):
    """What the tasks of one message have in common."""

    function_id: str
    options: dict[str, object]


class Backlog:
    """Any thread may use it. While the child lends its slot, it takes nothing in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting = 0  # threads
        self._tasks: deque[tuple[Order, int, bytes]] = deque()
        self._lending = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, order: Order, tasks: list[tuple[int, bytes]]) -> list[int]:
        """Take tasks (token, payload) in; the tokens of those that are not accepted."""
        with self._lock:
            if self._lending:
                return [token for token, _ in tasks]
            for token, payload in tasks:
                self._tasks.append((order, token, payload))
            if self._waiting:
                self._changed.notify(len(tasks))
        return []

    def take(self) -> tuple[Order, int, bytes] | None:
        """The next task; None if there is none now."""
        if not self._tasks:
            return None
        try:
            return self._tasks.popleft()
        except IndexError:  # another thread was faster
            return None

    def wait(self) -> bool:
        """Wait for a task; False if none will come any more."""
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: self._tasks or self._closed)
            self._waiting -= 1
            return bool(self._tasks)

    def lend(self, lending: bool) -> list[int]:
        """The child begins or ends to lend its slot; the tokens of the tasks that it will not run therefore."""
        with self._changed:
            self._lending = lending
            # One by one, for another thread may take one of them at this moment.
            return self.give_up() if lending else []

    def give_up(self) -> list[int]:
        """The tokens of the tasks that will not run here after all. Takes no lock, for a signal handler calls it."""
        tokens = []
        while (task := self.take()) is not None:
            tokens.append(task[1])
        return tokens

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
