"""What a run leaves for the checker: the clients' log and the execution ledger. Neither knows anything of the cores."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Deed:
    """What one run of a call does."""

    kind: str = "return"  # return, raise, retry, die, murder (of the worker), hang, nest
    seconds: float = 0.0
    stubborn: bool = False  # it does not end when it is interrupted
    nested: tuple["Plan", ...] = ()  # the tasks it submits and waits for


@dataclass(frozen=True)
class Call:
    """One call: what its first run does, its second, and so on; the last deed stands for all that follow."""

    name: str
    deeds: tuple[Deed, ...]

    def deed(self, run: int) -> Deed:
        return self.deeds[min(run, len(self.deeds) - 1)]


@dataclass(frozen=True)
class Plan:
    """What is to be submitted as one task: a call, or several as a chunk."""

    name: str
    function: int
    calls: tuple[Call, ...]
    chunk: bool = False
    retries: int = 0
    backoff: float = 1.0
    timeout: float | None = None
    retry_timeouts: bool = False
    priority: int = 0
    labels: tuple[str, ...] = ()
    delay: float = 0.0
    expires: float | None = None


@dataclass(frozen=True)
class Submit:
    plan: Plan
    session: str
    sequence: int
    at: float


@dataclass(frozen=True)
class Told:
    """How a call ended, as its program was told: ``result``, or the name of an exception's type."""

    verdict: str
    text: str
    at: float
    losses: int = 0  # how many deliveries were lost, if it was given up for that


@dataclass
class Cancel:
    """A program's request, and what it was answered."""

    session: str
    names: list[str]  # of the tasks
    running: bool
    asked: float
    answered: float | None = None
    cancelled: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Start:
    """One run of a call's function has begun. A delivery is (life of the master, fencing token)."""

    call: str
    number: int  # of all runs, so that each result tells from which run it is
    delivery: tuple[int, int]
    worker: str
    at: float


@dataclass(frozen=True)
class Use:
    """A collector has used an item of a job."""

    collector: str
    item: int
    told: Told


@dataclass
class Job:
    """A detached job, as its submitter and its collectors know it."""

    name: str
    plans: tuple[Plan, ...]
    chunksize: int
    ttl: float
    told_whole: bool = False  # whether its submitter was told that it is whole
    submitter_ended: bool = False
    over: bool = False  # whether a collector was told, or could conclude, that all of it is used
    uses: list[Use] = field(default_factory=list)
    said: int = 0  # the items below it were acknowledged, by some collector
    answered: int = 0  # and those below it are recorded as used
    begun_at: list[tuple[int, int, int]] = field(default_factory=list)  # a collector's first item; answered, said then
    refusals: set[str] = field(default_factory=set)
    seen_at: float = 0.0  # when a collector had it last
    gone_at: float | None = None  # when one was told that there is no such job

    @property
    def calls(self) -> list[Call]:
        return [call for plan in self.plans for call in plan.calls]


@dataclass
class LetterLog:
    """The dead letters, as an operator knows them, by number."""

    rows: dict[int, dict[str, object]] = field(default_factory=dict)  # as each was listed last
    last: set[int] | None = None  # those that are there at the end
    requeues_asked: dict[int, int] = field(default_factory=dict)
    requeues_done: dict[int, int] = field(default_factory=dict)
    drops_asked: set[int] = field(default_factory=set)
    drops_done: set[int] = field(default_factory=set)
    returned: list[int] = field(default_factory=list)  # that were listed although they had been dropped
    _what: str = ""

    def listed(self, rows: list[dict[str, object]], last: bool) -> None:
        letters = {int(str(row["letter"])): row for row in rows}
        self.rows |= letters
        self.returned += sorted(self.drops_done & {*letters})
        if last:
            self.last = {*letters}

    def asked(self, what: str, numbers: list[int]) -> None:
        self._what = what
        if what == "dead_drop":
            self.drops_asked |= {*numbers}
        else:
            for number in numbers:
                self.requeues_asked[number] = self.requeues_asked.get(number, 0) + 1

    def done(self, numbers: list[int]) -> None:
        if self._what == "dead_drop":
            self.drops_done |= {*numbers}
        else:
            for number in numbers:
                self.requeues_done[number] = self.requeues_done.get(number, 0) + 1


@dataclass
class ClientLog:
    submits: dict[str, Submit] = field(default_factory=dict)  # by the plan's name
    told: dict[str, list[Told]] = field(default_factory=dict)  # by the call's name
    rows: dict[str, set[tuple[str, bytes]]] = field(default_factory=dict)  # what the master told of each task
    cancels: list[Cancel] = field(default_factory=list)
    letters: LetterLog = field(default_factory=LetterLog)
    jobs: dict[str, Job] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)  # session -> closed, killed, or the error that ended it


@dataclass
class Ledger:
    starts: list[Start] = field(default_factory=list)
    requeued: dict[tuple[int, int], int] = field(default_factory=dict)  # deliveries of dead letters -> the letter
    granted: dict[tuple[int, int], float] = field(default_factory=dict)  # delivery -> when it left the master
    grants: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # task -> its deliveries
    handed: set[tuple[int, int]] = field(default_factory=set)  # deliveries that a process was given
    unheard: set[tuple[int, int]] = field(default_factory=set)  # of which the master was to hear that, and has not yet
    handed_back: set[tuple[int, int]] = field(default_factory=set)  # deliveries that a drain cut short, unpenalised
    begun: dict[str, list[float]] = field(default_factory=dict)  # when the master began each session (anew)
    ended: dict[int, str] = field(default_factory=dict)  # runs that came to their end, by number -> the deed's kind
    runs: dict[str, int] = field(default_factory=dict)  # call -> how often it was started

    def start(self, call: str, delivery: tuple[int, int], worker: str, at: float) -> int:
        """Note a start; its number."""
        number = len(self.starts) + 1
        self.starts.append(Start(call, number, delivery, worker, at))
        self.runs[call] = self.runs.get(call, 0) + 1
        return number
