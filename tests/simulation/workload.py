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
    "labels",
    "lifetimes",
    "limits",
    "long",
    "nested",
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


@dataclass
class Program:
    limit: int | None
    lifetime: int | None
    steps: list[Step]


class Workload:
    """The programs of a seed. ``seconds``: for how long they submit. Where it is ``calm``, no process dies."""

    def __init__(self, chance: random.Random, seconds: float, calm: bool) -> None:
        self._chance = chance
        self._seconds = seconds
        self.features = {feature for feature in FEATURES if chance.random() < 0.5}
        if calm:
            self.features.discard("deaths")
        self.programs = [self._program(number) for number in range(1, chance.choice((1, 1, 2, 3)) + 1)]

    @property
    def plans(self) -> dict[str, Plan]:
        return {plan.name: plan for program in self.programs for step in program.steps for plan in step.plans}

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
