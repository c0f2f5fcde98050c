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
class ClientLog:
    submits: dict[str, Submit] = field(default_factory=dict)  # by the plan's name
    told: dict[str, list[Told]] = field(default_factory=dict)  # by the call's name
    rows: dict[str, set[tuple[str, bytes]]] = field(default_factory=dict)  # what the master told of each task
    cancels: list[Cancel] = field(default_factory=list)
    jobs: dict[str, Job] = field(default_factory=dict)
    ended: dict[str, str] = field(default_factory=dict)  # session -> closed, killed, or the error that ended it


@dataclass
class Ledger:
    starts: list[Start] = field(default_factory=list)
    granted: dict[tuple[int, int], float] = field(default_factory=dict)  # delivery -> when it left the master
    grants: dict[str, list[tuple[int, int]]] = field(default_factory=dict)  # task -> its deliveries
    handed: set[tuple[int, int]] = field(default_factory=set)  # deliveries that a process was given
    unheard: set[tuple[int, int]] = field(default_factory=set)  # of which the master was to hear that, and has not yet
    handed_back: set[tuple[int, int]] = field(default_factory=set)  # deliveries that a drain cut short, unpenalised
    begun: dict[str, list[float]] = field(default_factory=dict)  # when the master began each session (anew)
    runs: dict[str, int] = field(default_factory=dict)  # call -> how often it was started

    def start(self, call: str, delivery: tuple[int, int], worker: str, at: float) -> int:
        """Note a start; its number."""
        number = len(self.starts) + 1
        self.starts.append(Start(call, number, delivery, worker, at))
        self.runs[call] = self.runs.get(call, 0) + 1
        return number
