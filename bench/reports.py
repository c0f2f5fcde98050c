"""What a run is reported as: a file of JSON with everything, and Markdown to be read."""

from dataclasses import dataclass
from typing import Any

import figures
import programs
from figures import Row
from systems import REFERENCE, SYSTEMS, SystemSpec


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be run. ``seconds`` is about how long one measurement of one system takes, its warm-up apart."""

    systems: tuple[str, ...]
    measures: tuple[str, ...]
    rounds: int
    workers: int
    seconds: float
    most_tasks: int = 20_000
    large: int = 16
    scaling: tuple[int, ...] = ()  # numbers of workers for the picture


def report(plan: Plan, rows: dict[str, Row], where: dict[str, Any]) -> dict[str, Any]:
    """Everything that was found, for a file of JSON."""
    systems = {
        name: {
            "title": row.title,
            "configured": SYSTEMS[name].configured,
            "version": version(SYSTEMS[name]),
            "absent": row.absent,
            "missing": row.missing,
            "rounds": row.rounds,
        }
        for name, row in rows.items()
    }
    return {**where, "workers": plan.workers, "rounds": plan.rounds, "seconds": plan.seconds, "systems": systems}


def markdown(plan: Plan, rows: dict[str, Row], where: dict[str, Any]) -> str:
    """The tables, with what one has to know to read them."""
    parts = [
        f"{where['date']}, commit {where['commit']}, Python {where['python']}, {where['cores']} cores "
        f"({where['cpu']}), load {where['load before']:.1f} before and {where['load after']:.1f} after; "
        f"{plan.workers} workers, medians of {plan.rounds} rounds of about {plan.seconds:g} s.",
        figures.table(list(rows.values())),
    ]
    if REFERENCE in rows:
        parts.append(figures.ratios(list(rows.values()), rows[REFERENCE]))
    if plan.rounds > 1:
        parts.append(figures.ranges(list(rows.values())))
    parts.append(figures.others(list(rows.values())))
    parts.append("\n".join(f"- {row.title}{_number(name)}: {SYSTEMS[name].configured}." for name, row in rows.items()))
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def version(spec: SystemSpec) -> str:
    """Of the system's package, as it is pinned."""
    if not spec.package:
        return ""
    lines = (programs.BENCH / "requirements" / f"{spec.venv}.in").read_text().splitlines()
    pins = dict(line.lower().split("==") for line in lines if "==" in line)
    return pins[spec.package]


def _number(name: str) -> str:
    number = version(SYSTEMS[name])
    return f" ({SYSTEMS[name].package} {number})" if number else ""
