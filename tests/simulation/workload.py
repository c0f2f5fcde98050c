"""What the programs do: tasks of every kind, made by chance, and when they are submitted and cancelled."""

import random
from dataclasses import dataclass, field

from tests.simulation.records import Call, Deed, Plan

LABEL = "gpu"
# What a seed's programs may do beyond plain calls. Each seed has some of it: a mixture of everything hides much.
FEATURES = (
    "bulk",
    "cancels",
    "chunks",
    "deaths",
    "delays",
    "expiries",
    "jobs",
    "labels",
    "lifetimes",
    "limits",
    "long",
    "nested",
    "operator",
    "priorities",
    "retries",
    "timeouts",
)


@dataclass
class Step:
    """At ``at`` seconds a program submits ``plans``, or cancels ``names``."""

    at: float
    plans: list[Plan] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    running: bool = False


@dataclass(frozen=True)
class Collecting:
    """What a collector of a job does: after ``most`` items it dies, or ``leaves``."""

    name: str
    at: float  # seconds after the one before it has ended
    most: int
    leaves: bool
    stride: int  # it acknowledges so many at a time
    seconds: float  # that it uses an item


@dataclass(frozen=True)
class JobPlan:
    name: str
    plans: tuple[Plan, ...]
    chunksize: int
    limit: int | None
    collecting: tuple[Collecting, ...]  # the last one goes on to the end
    deaf_for: float  # seconds in which its submitter hears nothing, from when it has said that all is submitted


@dataclass
class Program:
    limit: int | None
    lifetime: int | None
    steps: list[Step]


class Workload:
    """The programs of a seed. ``seconds``: for how long they submit. Where it is ``calm``, no process dies.

    ``keeps``: whether the master outlives its process; otherwise detached jobs do not, and there are none.
    """

    def __init__(self, chance: random.Random, seconds: float, calm: bool, keeps: bool) -> None:
        self._chance = chance
        self._seconds = seconds
        self._calm = calm
        self.features = {feature for feature in FEATURES if chance.random() < 0.5}
        if calm:
            self.features.discard("deaths")
        self.jobs = [self._job(f"j{number}") for number in (1, 2) if keeps and self._has("jobs", 0.4)]
        self.programs = [self._program(number) for number in range(1, chance.choice((1, 1, 2, 3)) + 1)]

    @property
    def plans(self) -> dict[str, Plan]:
        plans = [plan for program in self.programs for step in program.steps for plan in step.plans]
        return {plan.name: plan for plan in [*plans, *(plan for job in self.jobs for plan in job.plans)]}

    def _has(self, feature: str, probability: float) -> bool:
        return feature in self.features and self._chance.random() < probability

    def _program(self, number: int) -> Program:
        chance = self._chance
        limit = chance.choice((1, 2, 5)) if self._has("limits", 0.5) else None
        lifetime = chance.choice((1, 2, 5)) if self._has("lifetimes", 0.5) else None
        steps: list[Step] = []
        names: list[str] = []
        for turn in range(chance.choice((1, 2, 4))):
            at = chance.random() * self._seconds if turn else 0.0
            plans = self._plans(f"p{number}.{turn}")
            names += [plan.name for plan in plans]
            steps.append(Step(at, plans))
            while self._has("cancels", 0.6):
                some = chance.sample(names, min(len(names), chance.choice((1, 2, 6))))
                later = chance.choice((0.0, 0.001, 0.1, 3.0)) * chance.random()
                steps.append(Step(at + later, names=some, running=chance.random() < 0.5))
        return Program(limit, lifetime, sorted(steps, key=lambda step: step.at))

    def _job(self, name: str) -> JobPlan:
        chance = self._chance
        size, items = chance.choice((1, 1, 2, 4)), chance.choice((1, 3, 10, 25))
        retries = chance.choice((1, 2)) if size == 1 and self._has("retries", 0.5) else 0
        calls = [self._call(f"{name}[{place}]", retries, False) for place in range(items)]
        plans = tuple(
            Plan(f"{name}.{first}", 1, tuple(calls[first : first + size]), size > 1, retries, 0.5)
            for first in range(0, items, size)
        )
        most = [chance.choice((0, 1, 2, 7)) for _ in range(chance.choice((0, 1, 3)))]
        collecting = [
            Collecting(
                f"{name}-collector-{number}",
                chance.choice((0.0, 0.1, 2.0, 30.0)) * chance.random(),
                count,
                chance.random() < 0.4,
                chance.choice((1, 1, 3)),
                chance.choice((1e-4, 0.01, 0.5)) * chance.random(),
            )
            for number, count in enumerate([*most, 10_000])
        ]
        deaf_for = chance.choice((3.0, 30.0, 60.0)) if not self._calm and chance.random() < 0.4 else 0.0
        return JobPlan(name, plans, size, chance.choice((None, None, 2)), tuple(collecting), deaf_for)

    def _plans(self, name: str) -> list[Plan]:
        chance = self._chance
        if self._has("bulk", 0.3):
            calls = [Call(f"{name}.{number}", (Deed(seconds=chance.random() * 1e-4),)) for number in range(60)]
            if self._has("deaths", 0.5):
                calls[chance.randrange(60)] = Call(f"{name}.k", (Deed("murder", self._moment()),))
            return [Plan(call.name, 0, (call,)) for call in calls]
        return [self._plan(f"{name}.{number}") for number in range(chance.choice((1, 3, 8)))]

    def _plan(self, name: str) -> Plan:
        chance = self._chance
        function = chance.randrange(1, 4)
        priority = chance.choice((-1, 0, 5)) if "priorities" in self.features else 0
        labels = (LABEL,) if self._has("labels", 0.3) else ()
        delay = chance.choice((0.01, 0.5, 3.0)) if self._has("delays", 0.4) else 0.0
        expires = delay + chance.choice((0.001, 0.1, 2.0)) if self._has("expiries", 0.5) else None
        if self._has("chunks", 0.5):
            calls = tuple(self._call(f"{name}[{place}]", 0, False) for place in range(chance.choice((2, 5, 12))))
            return Plan(
                name, function, calls, chunk=True, priority=priority, labels=labels, delay=delay, expires=expires
            )
        retries = chance.choice((1, 2, 5)) if self._has("retries", 0.6) else 0
        timeout = chance.choice((0.2, 1.0)) if self._has("timeouts", 0.4) else None
        call = self._call(name, retries, timeout is not None)
        backoff = chance.choice((0.01, 0.5, 1.0))
        again = bool(retries) and chance.random() < 0.5
        return Plan(name, function, (call,), False, retries, backoff, timeout, again, priority, labels, delay, expires)

    def _call(self, name: str, retries: int, limited: bool) -> Call:
        """A call's deeds: what goes wrong comes first, and may go wrong for ever."""
        chance = self._chance
        deeds: list[Deed] = []
        if retries:
            deeds += [Deed("retry", self._moment())] * chance.choice((0, 1, retries, retries + 1))
        if limited and chance.random() < 0.6:
            deeds += [Deed("hang", stubborn=chance.random() < 0.5)] * chance.choice((1, 2))
        if self._has("deaths", 0.25):
            deeds += [Deed("die", self._moment())] * chance.choice((1, 1, 2, 3))
        if self._has("deaths", 0.1):
            deeds += [Deed("murder", self._moment())] * chance.choice((1, 2, 3, 6))
        chance.shuffle(deeds)
        if chance.random() < 0.1:
            last = Deed("raise", self._moment())
        elif not limited and self._has("nested", 0.3):
            last = Deed("nest", nested=self._nested(name, 2 if chance.random() < 0.3 else 1))
        else:
            last = Deed("return", self._moment())
        return Call(name, (*deeds, last))

    def _nested(self, name: str, depth: int) -> tuple[Plan, ...]:
        chance = self._chance
        plans = []
        for number in range(chance.choice((1, 2, 4))):
            inner = f"{name}/{number}"
            deed = Deed("return", chance.choice((1e-4, 0.02, 3.0)) * chance.random())
            if depth > 1 and chance.random() < 0.7:
                deed = Deed("nest", nested=self._nested(inner, depth - 1))
            plans.append(Plan(inner, chance.randrange(4), (Call(inner, (deed,)),)))
        return tuple(plans)

    def _moment(self) -> float:
        """How long a call takes."""
        longest = self._chance.choice((1e-4, 1e-4, 0.02, 0.02, 1.0))
        if self._has("long", 0.1):
            longest = 12.0
        return longest * self._chance.random()
