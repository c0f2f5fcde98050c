"""Tasks that are not to be leased after a certain moment, because their callers would have no use for them then."""

import heapq
import itertools

from multihost.broker.tasks import Task


class ExpiringTasks:
    """Those that are queued and have not begun; each knows its moment itself."""

    def __init__(self) -> None:
        self._tasks: set[Task] = set()
        # What was taken out stays in the heap for a while; ties go by the order of adding.
        self._heap: list[tuple[float, int, Task]] = []
        self._order = itertools.count()

    def __len__(self) -> int:
        return len(self._tasks)

    def __contains__(self, task: Task) -> bool:
        return task in self._tasks

    def add(self, task: Task) -> None:
        assert task.expires_at is not None, "only tasks that expire come here"
        self._tasks.add(task)
        heapq.heappush(self._heap, (task.expires_at, next(self._order), task))

    def discard(self, task: Task) -> None:
        """It has begun, or has ended."""
        self._tasks.discard(task)
        # The heap holds the tasks that were taken out, and with them their payloads: these must not pile up.
        if len(self._heap) > 2 * len(self._tasks) + 100:
            kept = {entry[2]: entry for entry in self._heap if entry[2] in self._tasks}
            self._heap = list(kept.values())
            heapq.heapify(self._heap)

    def due(self, now: float) -> list[Task]:
        """Those whose moment has come, each told once; whoever asks discards them."""
        found: dict[Task, None] = {}  # one that was given back is in the heap twice
        while self._heap and self._heap[0][0] <= now:
            _, _, task = heapq.heappop(self._heap)
            if task in self._tasks:
                found[task] = None
        return list(found)

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None
