"""Which task is next: families take turns, the deepest session of a family goes first, and then the priority decides.

A family is a program's session and the nested ones that its tasks have opened. Deeper tasks are what others wait for,
so they go first; otherwise a tree of tasks would be opened level by level, and each open one is a process that waits.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from multihost.broker.tasks import Task

Labels = frozenset[str]
NO_LABELS: Labels = frozenset()
# One of so many tasks of a session is the one that waits longest, whatever its priority: so none waits for ever.
_AGING = 10


@dataclass(slots=True, eq=False)
class Line:
    """The queued tasks of one session, and how many of its tasks may be leased at once (None: no limit)."""

    session: str
    family: str
    depth: int  # 0: a program's own session
    limit: int | None
    leased: int = 0
    held: bool = False  # whether none of them may be leased for now
    # By labels and priority, and then by sequence number, the next one first; no shelf is empty.
    shelves: dict[tuple[Labels, int], OrderedDict[int, Task]] = field(default_factory=dict)
    _taken: int = 0

    def __len__(self) -> int:
        return sum(map(len, self.shelves.values()))

    @property
    def able(self) -> bool:
        """Whether any task may be leased now."""
        return bool(self.shelves) and not self.held and (self.limit is None or self.leased < self.limit)

    def allowance(self, labels: Labels) -> int:
        """How many tasks may be leased now to a worker with these labels."""
        if self.held:
            return 0
        fitting = sum(len(shelf) for (wanted, _), shelf in self.shelves.items() if wanted <= labels)
        return fitting if self.limit is None else max(0, min(fitting, self.limit - self.leased))

    def tasks(self) -> Iterator[Task]:
        for shelf in self.shelves.values():
            yield from shelf.values()

    def add(self, tasks: list[Task], first: bool = False) -> None:
        """Behind the others, or before them."""
        for task in tasks:
            shelf = self.shelves.setdefault((task.options.labels, task.options.priority), OrderedDict())
            shelf[task.sequence] = task
            if first:
                shelf.move_to_end(task.sequence, last=False)

    def take(self, count: int, labels: Labels) -> list[Task]:
        """Up to ``count`` tasks, which are leased from now on."""
        count = min(count, self.allowance(labels))
        if len(self.shelves) == 1 and count:
            ((kind, shelf),) = self.shelves.items()
            taken = [shelf.popitem(last=False)[1] for _ in range(count)]
            if not shelf:
                del self.shelves[kind]
        else:
            taken = [self._next(labels) for _ in range(count)]
        self.leased += count
        return taken

    def take_these(self, sequences: list[int]) -> list[Task]:
        """Tasks that are here, and are leased from now on."""
        self.leased += len(sequences)
        return [self._pop(kind, sequence) for sequence, kind in self._find(sequences)]

    def withdraw(self, sequences: set[int]) -> list[Task]:
        """Take out those of these tasks that are still here, in the order of their numbers."""
        return [self._pop(kind, sequence) for sequence, kind in self._find(sorted(sequences))]

    def _find(self, sequences: list[int]) -> list[tuple[int, tuple[Labels, int]]]:
        """Those of these numbers that are here, and on which shelf."""
        # The whole line is not looked at: futures are often cancelled one by one, and the line may be long.
        return [(number, kind) for number in sequences for kind, shelf in self.shelves.items() if number in shelf]

    def _next(self, labels: Labels) -> Task:
        fitting = [kind for kind in self.shelves if kind[0] <= labels]
        kind = fitting[0]
        if len(fitting) > 1:
            self._taken += 1
            if self._taken % _AGING:
                kind = max(fitting, key=lambda kind: kind[1])
            else:
                kind = min(fitting, key=lambda kind: next(iter(self.shelves[kind])))
        return self._pop(kind, next(iter(self.shelves[kind])))

    def _pop(self, kind: tuple[Labels, int], sequence: int) -> Task:
        shelf = self.shelves[kind]
        task = shelf.pop(sequence)
        if not shelf:
            del self.shelves[kind]
        return task


class ReadyQueue:
    """The queued tasks of all sessions. A program with much to do does not keep another one waiting."""

    def __init__(self) -> None:
        self._lines: dict[str, Line] = {}
        self._families: dict[str, list[Line]] = {}  # the deepest first, and of those the youngest
        self._turns: deque[str] = deque()  # the families that have a task and are below their limits, next first
        self._in_turns: set[str] = set()

    def __len__(self) -> int:
        """Queued tasks, those of sessions at their limit included."""
        return sum(map(len, self._lines.values()))

    @property
    def able(self) -> bool:
        """Whether any task could be leased now to a worker that has its labels."""
        return bool(self._turns)

    def available(self, labels: Labels = NO_LABELS) -> int:
        """How many tasks could be leased now to a worker with these labels."""
        return sum(line.allowance(labels) for family in self._turns for line in self._families[family])

    def open(self, session: str, limit: int | None, family: str = "", depth: int = 0) -> None:
        line = self._lines[session] = Line(session, family or session, depth, limit)
        lines = self._families.setdefault(line.family, [])
        lines.insert(sum(1 for other in lines if other.depth > depth), line)

    def close(self, session: str) -> list[Task]:
        """Forget a session; the tasks that were still queued."""
        line = self._lines.pop(session)
        self._families[line.family].remove(line)
        self._refresh(line.family)
        if not self._families[line.family]:
            del self._families[line.family]
        return list(line.tasks())

    def extend(self, session: str, tasks: list[Task]) -> None:
        """Queue new tasks of one session behind its others."""
        line = self._lines[session]
        line.add(tasks)
        self._refresh(line.family)

    def withdraw(self, session: str, sequences: set[int]) -> list[Task]:
        """Take out of the queue those of a session's tasks that are still in it; in the order of their numbers."""
        line = self._lines[session]
        withdrawn = line.withdraw(sequences)
        if withdrawn:
            self._refresh(line.family)
        return withdrawn

    def take_back(self, task: Task) -> None:
        """Queue a task whose lease ended without an outcome, before its session's others."""
        self._lines[task.session].leased -= 1
        self.put_first(task)

    def put_first(self, task: Task) -> None:
        """Queue a task that is not leased before its session's others."""
        line = self._lines[task.session]
        line.add([task], first=True)
        self._refresh(line.family)

    def ended(self, task: Task) -> None:
        """A task is not leased any more: its session may have another one leased."""
        if (line := self._lines.get(task.session)) is not None:
            line.leased -= 1
            if line.limit is not None:
                self._refresh(line.family)

    def take_these(self, session: str, sequences: list[int]) -> list[Task]:
        """What ``take`` gave once, when that is done again."""
        line = self._lines[session]
        taken = line.take_these(sequences)
        self._refresh(line.family)
        return taken

    def take(self, count: int, labels: Labels = NO_LABELS) -> list[Task]:
        """Up to ``count`` tasks for a worker with these labels, shared evenly between the families whose turn it is."""
        taken: list[Task] = []
        sharers = passed = 0  # how many have not had their share in this round; how many in a row had nothing that fits
        while passed < len(self._turns) and len(taken) < count:
            sharers = sharers or len(self._turns)
            share = -(-(count - len(taken)) // sharers)
            sharers -= 1
            family = self._turns.popleft()
            self._in_turns.discard(family)
            run: list[Task] = []
            for line in self._families[family]:
                run += line.take(share - len(run), labels)
            taken += run
            passed = 0 if run else passed + 1
            self._refresh(family)
        return taken

    def find(self, session: str, sequence: int) -> tuple[int, Task] | None:
        """How many of its session's tasks go before it, and the task, if it is here."""
        shelves = self._lines[session].shelves
        for (_, priority), shelf in shelves.items():
            if (task := shelf.get(sequence)) is not None:
                higher = sum(len(other) for (_, its), other in shelves.items() if its > priority)
                return higher + next(place for place, number in enumerate(shelf) if number == sequence), task
        return None

    def hold(self, session: str, held: bool) -> bool:
        """Lease none of a session's tasks for now, or lease them again; whether that is new."""
        line = self._lines[session]
        new, line.held = line.held != held, held
        self._refresh(line.family)
        return new

    def is_held(self, session: str) -> bool:
        return self._lines[session].held

    def at_limit(self, session: str) -> bool:
        """Whether as many of a session's tasks are leased as may be."""
        line = self._lines[session]
        return line.limit is not None and line.leased >= line.limit

    def places(self, session: str) -> tuple[int, int]:
        """How many of a session's tasks are in its line, and how many are leased."""
        line = self._lines[session]
        return len(line), line.leased

    def tasks_of(self, session: str) -> list[Task]:
        """A session's queued tasks."""
        return list(self._lines[session].tasks())

    def labels_wanted(self, session: str) -> set[Labels]:
        """What the session's queued tasks ask of a worker."""
        return {labels for labels, _ in self._lines[session].shelves if labels}

    def _refresh(self, family: str) -> None:
        """Put a family at the end of the turns when it has become able to take one; drop it when it no longer is."""
        able = any(line.able for line in self._families[family])
        if able and family not in self._in_turns:
            self._in_turns.add(family)
            self._turns.append(family)
        elif not able and family in self._in_turns:
            self._in_turns.discard(family)
            self._turns.remove(family)
