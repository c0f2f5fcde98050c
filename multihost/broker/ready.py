"""Which task is next: sessions take turns, and each session's tasks keep their order."""

from collections import OrderedDict, deque
from dataclasses import dataclass, field

from multihost.broker.tasks import Task


@dataclass(slots=True, eq=False)
class Line:
    """The queued tasks of one session, and how many of its tasks may be leased at once (None: no limit)."""

    limit: int | None = None
    leased: int = 0
    tasks: OrderedDict[int, Task] = field(default_factory=OrderedDict)  # by sequence number, the next one first

    @property
    def allowance(self) -> int:
        """How many tasks may be leased now."""
        waiting = len(self.tasks)
        return waiting if self.limit is None else max(0, min(waiting, self.limit - self.leased))


class ReadyQueue:
    """The queued tasks of all sessions. A session with much to do does not keep another one waiting."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._turns: deque[str] = deque()  # the sessions that have a task and are below their limit, next first
        self._in_turns: set[str] = set()

    def __len__(self) -> int:
        """Queued tasks, those of sessions at their limit included."""
        return sum(len(line.tasks) for line in self._lines.values())

    @property
    def available(self) -> int:
        """How many tasks could be leased now."""
        return sum(self._lines[session].allowance for session in self._turns)

    def open(self, session: str, limit: int | None) -> None:
        self._lines[session] = Line(limit)

    def close(self, session: str) -> list[Task]:
        """Forget a session; the tasks that were still queued."""
        line = self._lines.pop(session)
        self._refresh(session)
        return list(line.tasks.values())

    def extend(self, session: str, tasks: list[Task]) -> None:
        """Queue new tasks of one session behind its others."""
        self._lines[session].tasks.update((task.sequence, task) for task in tasks)
        self._refresh(session)

    def withdraw(self, session: str, sequences: set[int]) -> list[Task]:
        """Take out of the queue those of a session's tasks that are still in it; in the order of their numbers."""
        tasks = self._lines[session].tasks
        # The whole line is not looked at: futures are often cancelled one by one, and the line may be long.
        withdrawn = [tasks.pop(sequence) for sequence in sorted(sequences) if sequence in tasks]
        if withdrawn:
            self._refresh(session)
        return withdrawn

    def take_back(self, task: Task) -> None:
        """Queue a task whose lease ended without an outcome, before its session's others."""
        line = self._lines[task.session]
        line.leased -= 1
        line.tasks[task.sequence] = task
        line.tasks.move_to_end(task.sequence, last=False)
        self._refresh(task.session)

    def ended(self, task: Task) -> None:
        """A leased task has its outcome: its session may have another one leased."""
        if (line := self._lines.get(task.session)) is not None:
            line.leased -= 1
            self._refresh(task.session)

    def take(self, count: int) -> list[Task]:
        """Up to ``count`` tasks, in runs of one session each, shared evenly between the sessions whose turn it is."""
        taken: list[Task] = []
        sharers = 0  # how many sessions have not had their share in this round
        while self._turns and len(taken) < count:
            sharers = sharers or len(self._turns)
            share = -(-(count - len(taken)) // sharers)
            sharers -= 1
            session = self._turns.popleft()
            self._in_turns.discard(session)
            line = self._lines[session]
            run = min(share, line.allowance)
            taken += [line.tasks.popitem(last=False)[1] for _ in range(run)]
            line.leased += run
            self._refresh(session)
        return taken

    def _refresh(self, session: str) -> None:
        """Put a session at the end of the turns when it has become able to take one; drop it when it no longer is."""
        line = self._lines.get(session)
        able = line is not None and line.allowance > 0
        if able and session not in self._in_turns:
            self._in_turns.add(session)
            self._turns.append(session)
        elif not able and session in self._in_turns:
            self._in_turns.discard(session)
            self._turns.remove(session)
