"""Tasks that are not to be leased before a certain moment, such as the next try of one that raised."""

import heapq
import itertools
from collections.abc import Iterator

from multihost.broker.tasks import Task


class DelayedTasks:
    """Held by the master, so that no worker's slot waits."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[int, tuple[float, Task]]] = {}  # session -> sequence -> when it is due, task
        # What was taken out stays in the heap until its time has come; ties go by the order of adding.
        self._heap: list[tuple[float, int, Task]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._tasks.values()))

    def count(self, session: str) -> int:
        return len(self._tasks.get(session, ()))

    def __iter__(self) -> Iterator[tuple[float, Task]]:
        """(when it is due, task) of each."""
        for tasks in self._tasks.values():
            yield from tasks.values()

    def add(self, task: Task, due: float) -> None:
        """Hold ``task`` until ``due``."""
        self._tasks.setdefault(task.session, {})[task.sequence] = due, task
        heapq.heappush(self._heap, (due, next(self._order), task))

    def due(self, now: float) -> dict[str, list[int]]:
        """The numbers, by session, of those whose time has come, in its order; they are told once."""
        names: dict[str, list[int]] = {}
        while self._heap and self._heap[0][0] <= now:
            due, _, task = heapq.heappop(self._heap)
            # It may have been taken out, and another task may have its name by now, or itself a later time.
            if self._tasks.get(task.session, {}).get(task.sequence) == (due, task):
                names.setdefault(task.session, []).append(task.sequence)
        return names

    def find(self, session: str, sequence: int) -> tuple[float, Task] | None:
        """When it is due, and the task, if it is here."""
        return self._tasks.get(session, {}).get(sequence)

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def withdraw(self, session: str, sequences: set[int]) -> list[Task]:
        """Take out those of a session's tasks that are here, in the order of their numbers."""
        tasks = self._tasks.get(session, {})
        withdrawn = [tasks.pop(sequence)[1] for sequence in sorted(sequences & tasks.keys())]
        if not tasks:
            self._tasks.pop(session, None)
        return withdrawn

    def close(self, session: str) -> list[Task]:
        """Forget a session; its tasks."""
        return [task for _, task in self._tasks.pop(session, {}).values()]
