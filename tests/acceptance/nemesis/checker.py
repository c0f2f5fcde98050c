"""The checker: reads what a program submitted and was told, which runs left their mark, and what broke when.

It says which promise of docs/reliability.md was broken, and knows nothing of how the history came about.
"""

import math
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from multihost.broker.tasks import MAX_DELIVERIES

# Seconds from a fault to the next outcome after it, at most.
RECOVERY_LIMIT = 60.0
_EXAMPLES = 5


@dataclass(frozen=True)
class Told:
    """An outcome as the program was told it: a value, or the name of an exception's type and its text."""

    task: int
    at: float
    value: object
    error: str = ""
    losses: int = 0  # how many deliveries were lost, if it was given up for that


@dataclass(frozen=True)
class Sent:
    """An outcome as the master sent it, before the client looks whether it has had one; ``content`` is its bytes."""

    task: int
    content: bytes


@dataclass(frozen=True)
class Run:
    """The mark of one run of a task."""

    task: int
    run: str  # its own, of all runs
    worker: str
    ended: bool


@dataclass(frozen=True)
class Injected:
    """A fault that fell."""

    kind: str
    target: str
    at: float


@dataclass
class History:
    """All that is known of a run. Times are seconds of one monotonic clock."""

    attempted: dict[int, float] = field(default_factory=dict)  # when the submit of each task was begun
    acknowledged: dict[int, float] = field(default_factory=dict)  # and when it had returned
    told: list[Told] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    faults: list[Injected] = field(default_factory=list)
    skipped: int = 0  # faults for which there was nothing to fall on
    left: int = 0  # tasks that the master still had at the end
    troubles: list[str] = field(default_factory=list)  # what should not have happened and is of no one task
    tracebacks: list[str] = field(default_factory=list)  # names of containers, one for each in its log


@dataclass(frozen=True)
class Verdict:
    """What the checker found."""

    rows: list[tuple[str, str]]
    problems: list[str]
    dead_letters: list[str]  # what is known of each: allowed, and worth a look

    def table(self) -> str:
        """The figures, one in a line."""
        width = max(len(name) for name, _ in self.rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.rows)


def check(history: History, right: "dict[int, str]") -> Verdict:
    """Judge a history. ``right`` has the sum that is the answer of each task; a task's value is (task, sum, run)."""
    return _Checker(history, right).verdict()


class _Checker:
    def __init__(self, history: History, right: dict[int, str]) -> None:
        self._history, self._right = history, right
        self._told: dict[int, list[Told]] = defaultdict(list)
        for told in history.told:
            self._told[told.task].append(told)
        self._runs: dict[int, list[Run]] = defaultdict(list)
        for run in history.runs:
            self._runs[run.task].append(run)
        self._rows: list[tuple[str, str]] = []
        self._problems: list[str] = []

    def verdict(self) -> Verdict:
        history = self._history
        self._row("tasks attempted", len(history.attempted))
        self._row("submits acknowledged", len(history.acknowledged))
        self._must_be_none("lost", [task for task in history.acknowledged if task not in self._told])
        self._row("not acknowledged, and done", len(self._told.keys() - history.acknowledged.keys()))
        self._must_be_none("recorded twice", self._recorded_twice())
        self._row("run twice or more", self._run_twice())
        self._must_be_none("unexpected", self._unexpected())
        self._must_be_none("wrong sums", self._wrong())
        self._must_be_none("results of no run", self._of_no_run())
        dead, failed = self._errors()
        self._row("dead letters", len(dead))
        self._must_be_none("ended in an error", failed)
        self._must_be_none("left in the master", range(history.left))
        self._row("tracebacks in logs", len(history.tracebacks))
        if history.tracebacks:  # I12
            self._problems.append(f"tracebacks in logs: {len(history.tracebacks)}, of {history.tracebacks[0]}")
        self._row("other troubles", len(history.troubles))
        self._problems += history.troubles
        self._row("longest wait for an outcome", f"{self._longest_wait():.1f} s")
        self._recovery()
        self._faults()
        return Verdict(self._rows, self._problems, [self._story(task) for task in dead])

    def _row(self, name: str, value: object) -> None:
        self._rows.append((name, f"{value:,}" if isinstance(value, int) else str(value)))

    def _must_be_none(self, name: str, tasks: Sequence[int]) -> None:
        self._row(name, len(tasks))
        if tasks:
            examples = "; ".join(self._story(task) for task in tasks[:_EXAMPLES])
            self._problems.append(f"{name}: {len(tasks)}, such as {examples}")

    def _story(self, task: int) -> str:
        """What is known of a task, for who looks for the cause."""
        submitted = self._history.attempted.get(task)
        runs = [f"{run.run}{'' if run.ended else ' (not to its end)'}" for run in self._runs.get(task, [])]
        told = [f"{told.error or told.value} at {told.at:.2f}" for told in self._told.get(task, [])]
        when = "never submitted" if submitted is None else f"submitted at {submitted:.2f}"
        return f"task {task}: {when}, runs {', '.join(runs) or 'none'}, told {', '.join(told) or 'nothing'}"

    # --- promises ----------------------------------------------------------------------------------------------

    def _recorded_twice(self) -> list[int]:
        """I2: the program was told more than once; or the master sent two outcomes that are not the same one again."""
        contents: dict[int, set[bytes]] = defaultdict(set)
        for sent in self._history.sent:
            contents[sent.task].add(sent.content)
        changed = {task for task, different in contents.items() if len(different) > 1}
        return sorted(changed | {task for task, told in self._told.items() if len(told) > 1})

    def _run_twice(self) -> int:
        """I4: allowed after a fault, and never without one."""
        twice = [task for task, runs in self._runs.items() if len(runs) > 1]
        if twice and not self._history.faults:
            self._problems.append(f"run twice without any fault: {len(twice)}, such as {self._story(min(twice))}")
        return len(twice)

    def _unexpected(self) -> list[int]:
        """Outcomes and runs of what nobody has submitted."""
        seen = {sent.task for sent in self._history.sent} | self._told.keys() | self._runs.keys()
        return sorted(seen - self._history.attempted.keys())

    def _wrong(self) -> list[int]:
        """I3: the value is not that of this very task."""
        return sorted(
            told.task
            for told in self._history.told
            if not told.error and _parts(told.value)[:2] != (told.task, self._right.get(told.task))
        )

    def _of_no_run(self) -> list[int]:
        """I3: the run that a value names has left no mark, or none of its end."""
        ended = {(run.task, run.run) for run in self._history.runs if run.ended}
        return sorted(
            told.task
            for told in self._history.told
            if not told.error and (told.task, _parts(told.value)[2]) not in ended
        )

    def _errors(self) -> tuple[list[int], list[int]]:
        """I4: the tasks that were given up, after as many faults as that takes, and those that failed otherwise."""
        failed = {told.task for told in self._history.told if told.error}
        spent = {told.task for told in self._history.told if told.losses >= MAX_DELIVERIES}
        dead = spent if len(self._history.faults) >= MAX_DELIVERIES else set()
        return sorted(dead), sorted(failed - dead)

    # --- times -------------------------------------------------------------------------------------------------

    def _longest_wait(self) -> float:
        attempted = self._history.attempted
        return max((told.at - attempted.get(told.task, told.at) for told in self._history.told), default=0.0)

    def _recovery(self) -> None:
        """I7: from each fault to the next outcome after it."""
        ends = sorted(told.at for told in self._history.told)
        # A fault after the last outcome has nothing to hold up.
        waits = sorted(
            ends[place] - fault.at
            for fault in self._history.faults
            if (place := bisect_right(ends, fault.at)) < len(ends)
        )
        for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            self._row(f"recovery {name}", f"{_quantile(waits, share):.2f} s" if waits else "-")
        if waits and waits[-1] > RECOVERY_LIMIT:
            self._problems.append(
                f"recovery: no outcome for {waits[-1]:.1f} s after a fault; {RECOVERY_LIMIT:g} s are allowed"
            )

    def _faults(self) -> None:
        counts = Counter(fault.kind for fault in self._history.faults)
        self._row("faults", sum(counts.values()))
        for kind, count in sorted(counts.items()):
            self._row(f"  {kind}", count)
        self._row("  (nothing to fall on)", self._history.skipped)


def _parts(value: object) -> tuple[object, object, object]:
    """A value's task, sum and run; None for what is not there."""
    parts: Iterable[object] = value if isinstance(value, tuple) else ()
    task, checksum, run, *_ = (*parts, None, None, None)
    return task, checksum, run


def _quantile(ordered: Sequence[float], share: float) -> float:
    """The least of the values that so large a share does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
