"""Why a task has not started or not ended: what the master, or this program, knows of it, as data and in words."""

from dataclasses import dataclass
from typing import Any

from multihost.plain import made_of

# By state and reason; each is filled in with the fields of an explanation.
_WORDS = {
    ("here", "unsent"): "this program has not sent it to the master yet",
    ("here", "full"): "the master is full; this program sends it when there is room",
    ("here", "unreachable"): "this program has no connection to the master at the moment, and tries to get one",
    ("delayed", "delay"): "the master holds it for {seconds:.1f} s more, as its option delay asks",
    ("delayed", "retry"): "it raised, and is tried again in {seconds:.1f} s, as its option retries asks",
    ("queued", "turn"): "it waits for a free slot; of its program's tasks, {position} go before it",
    (
        "queued",
        "limit",
    ): "as many of its program's tasks run as may at once; of those that wait, {position} go before it",
    ("queued", "no worker"): "no worker is connected to the master",
    ("queued", "labels"): "no worker has its labels ({wanted}); start one with MULTIHOST_LABELS={wanted}",
    (
        "queued",
        "resting",
    ): "the hosts of the workers that may run it have no room for a process; the first tries again in {seconds:.1f} s",
    ("queued", "draining"): "the workers that may run it drain, and take no more",
    ("queued", "results"): "its program is away or does not read, and too many results wait for it already",
    ("leased", "running"): "worker {worker} has it{since}, and runs it",
    ("leased", "backlog"): "worker {worker} has it{since}; there, {position} go before it",
    (
        "leased",
        "children",
    ): "worker {worker} has it{since}, and it waits for {waits_for} of the tasks that it has submitted: {children}",
    ("leased", "absent"): "worker {worker} had it, and has not come back since the master's restart",
    ("ended", "result"): "it has ended with a result",
    ("ended", "error"): "it has ended with an exception",
    ("ended", "cancelled"): "it was cancelled",
    ("ended", "acknowledged"): "it has ended, and its program has the outcome",
    ("unknown", "no task"): "the master knows no such task",
    ("unknown", "journal"): "the master cannot write its journal, and tells of no task until it can; its log says why",
    ("unknown", "callback"): "a callback cannot wait for the master's answer; ask in another thread",
    ("unknown", "silent"): "the master did not answer in time",
}


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where a task is and why it is there; ``str()`` says it in words. Seconds are those at the time of the question.

    What a worker runs is known to the master from what it was granted first: it is right but for moments.
    """

    state: str  # here (with the program), delayed, queued, leased, ended, unknown
    reason: str  # one of a few words for each state
    task: int = -1  # its number in its session; -1: it has none
    session: str = ""
    program: str = ""  # the session's name
    position: int | None = None  # how many go before it
    worker: str = ""  # that has it
    seconds: float | None = None  # delayed: until it is due; leased: since then; resting: until a worker tries again
    delivery: int = 1  # which one it is or will be
    losses: tuple[str, ...] = ()  # why deliveries before were lost
    labels: tuple[str, ...] = ()  # that it asks of a worker
    waits_for: int = 0  # how many of the tasks that it submitted have not ended
    children: tuple[str, ...] = ()  # the first of these, as SESSION/NUMBER; ten at most

    @classmethod
    def of(cls, plain: dict[str, Any]) -> "Explanation":
        """What the master said; fields that this version does not know are left out."""
        return made_of(cls, plain)

    @property
    def words(self) -> str:
        since = "" if self.seconds is None else f" for {self.seconds:.1f} s"
        words = _WORDS.get((self.state, self.reason), f"{self.state}: {self.reason}").format(
            seconds=self.seconds or 0.0,
            position=self.position or 0,
            worker=self.worker,
            since=since,
            wanted=",".join(self.labels),
            waits_for=self.waits_for,
            children=self._names_of_children(),
        )
        return words + (f"; lost before: {', '.join(self.losses)}" if self.losses else "")

    def _names_of_children(self) -> str:
        """As the command line takes them."""
        names = [f"{session[:8]}/{number}" for session, _, number in (name.rpartition("/") for name in self.children)]
        return ", ".join(names) + (", ..." if self.waits_for > len(names) else "")

    def __str__(self) -> str:
        return f"{f'task {self.task}' if self.task >= 0 else 'the task'}: {self.words}"
