"""How fast multihost wants to be, and whether a run found it so. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from figures import Row, plain, ratio_of_rounds

OURS = "multihost"


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure's bound: ``least`` or ``most``, of the figure itself or of its ratio to another system's."""

    figure: str
    least: float | None = None
    most: float | None = None
    beside: str = ""

    @property
    def wanted(self) -> str:
        """The bound in words."""
        bound = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{bound} x {self.beside}" if self.beside else bound

    def found(self, rows: Mapping[str, Row]) -> float | None:
        """What the run has to say, if it has measured it."""
        if OURS not in rows:
            return None
        if not self.beside:
            return rows[OURS].median(self.figure)
        if self.beside not in rows:
            return None
        return ratio_of_rounds(rows[OURS].rounds.get(self.figure, ()), rows[self.beside].rounds.get(self.figure, ()))

    def met(self, value: float) -> bool:
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


GOALS = (
    Goal("one by one", least=2.5, beside="pool"),
    Goal("one by one", least=1.0, beside="fiber"),
    Goal("map chunksize=1", least=1.2, beside="pool"),
    Goal("map default chunks", least=0.5, beside="pool"),
    Goal("round trip p50", most=1.5, beside="pool"),
    Goal("round trip p99", most=1.0, beside="pool"),
    Goal("sleep 1 ms", least=0.88),
    Goal("sleep 10 ms", least=0.97),
    Goal("sleep 100 ms", least=0.995),
    Goal("10 MB argument", least=0.8, beside="relay"),
    Goal("10 MB result", least=0.8, beside="relay"),
    Goal("queued master", most=400),
    Goal("queued client", most=700),
    Goal("cold start", most=0.4),
)

SCALE_GOALS = (
    Goal("many / few", least=0.9),
    Goal("1000 idle workers, % of a core", most=5),
    Goal("1000 idle workers, master's MB", most=100),
    Goal("long / short", least=0.9),
    Goal("bytes a task in the master", most=400),
    Goal("bytes a task in the client", most=700),
    Goal("times it left the client", most=1.1),
    Goal("times it left the master", most=2.2),
    Goal("master's memory / payloads in flight", most=2),
    Goal("master's memory / 16 arguments of 10 MB", most=2),
    Goal("master's memory / 16 results of 10 MB", most=2),
    Goal("multihost, 1 worker with 2 slots: overtaken, s", most=0.1),
    Goal("multihost, 2 workers with 1 slot: overtaken, s", most=0.1),
    Goal("import multihost, s", most=0.15),
)


def scale_row(figure: str, value: float) -> str:
    """A figure of ``scale.py`` as a row of a Markdown table, with its goal if it has one."""
    goal = next((goal for goal in SCALE_GOALS if goal.figure in figure), None)
    verdict = f"{goal.wanted} | {'yes' if goal.met(value) else 'no'}" if goal else "|"
    return f"| {figure} | {plain(value)} | {verdict} |"


def goals(rows: Mapping[str, Row]) -> str:
    """The goals that the run can tell about, as a Markdown table; nothing if there is none."""
    found = [(goal, goal.found(rows)) for goal in GOALS]
    lines = [
        f"| {goal.figure} | {goal.wanted} | {plain(value)} | {'yes' if goal.met(value) else 'no'} |"
        for goal, value in found
        if value is not None
    ]
    return "\n".join(["| goal | wanted | found | met |\n|---|---|---|---|", *lines]) + "\n" if lines else ""
