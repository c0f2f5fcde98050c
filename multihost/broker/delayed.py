"""Tasks that are not to be leased before a certain moment, such as the next try of one that raised."""

import heapq
import itertools

from multihost.broker.tasks import Task


class DelayedTasks:
    """Held by the master, so that no worker's slot waits."""

    def __init__(self) -> None:
        self._tasks: dict[str, dict[int, Task]] = {}  # session -> sequence -> task
        # Tasks that were taken out stay in the heap until their time has come; ties go by the order of adding.
        self._heap: list[tuple[float, int, Task]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._tasks.values()))

    def add(self, task: Task, due: float) -> None:
        """Hold ``task`` until ``due``."""
        self._tasks.setdefault(task.session, {})[task.sequence] = task
        heapq.heappush(self._heap, (due, next(self._order), task))

    def take_due(self, now: float) -> list[Task]:
        """Those whose time has come, in its order."""
        due: list[Task] = []
        while self._heap and self._heap[0][0] <= now:
            _, _, task = heapq.heappop(self._heap)
            # Another task may have its name by now: that of a session that ended and began anew.
            if self._tasks.get(task.session, {}).get(task.sequence) is task:
                due += self.withdraw(task.session, {task.sequence})
        return due

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def withdraw(self, session: str, sequences: set[int]) -> list[Task]:
        """Take out those of a session's tasks that are here, in the order of their numbers."""
        tasks = self._tasks.get(session, {})
        withdrawn = [tasks.pop(sequence) for sequence in sorted(sequences & tasks.keys())]
        if not tasks:
            self._tasks.pop(session, None)
        return withdrawn

    def close(self, session: str) -> list[Task]:
        """Forget a session; its tasks."""
        return list(self._tasks.pop(session, {}).values())
