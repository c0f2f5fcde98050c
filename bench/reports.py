"""What a run is reported as: a file of JSON with everything, and Markdown to be read."""

from dataclasses import dataclass
from typing import Any

import figures
import programs
from figures import Row
from goals import goals
from systems import REFERENCE, SYSTEMS, SystemSpec

BEGIN, END = "<!-- figures of scripts/bench -->", "<!-- end of the figures -->"


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


def markdown(run: dict[str, Any]) -> str:
    """The tables of a report, with what one has to know to read them."""
    rows = {
        name: Row(system["title"], system["rounds"], system["missing"], system["absent"])
        for name, system in run["systems"].items()
    }
    parts = [
        f"{run['date']}, commit {run['commit']}, Python {run['python']}, {run['cores']} cores "
        f"({run['cpu']}), load {run['load before']:.1f} before and {run['load after']:.1f} after; "
        f"{run['workers']} workers, medians of {run['rounds']} rounds of about {run['seconds']:g} s.",
        figures.table(list(rows.values())),
    ]
    parts.append(goals(rows))
    if REFERENCE in rows:
        parts.append(figures.ratios(list(rows.values()), rows[REFERENCE]))
    if run["rounds"] > 1:
        parts.append(figures.ranges(list(rows.values())))
    parts.append(figures.others(list(rows.values())))
    parts.append("\n".join(f"- {row.title}{_number(name)}: {SYSTEMS[name].configured}." for name, row in rows.items()))
    return "\n\n".join(part.rstrip() for part in parts if part) + "\n"


def inserted(document: str, text: str) -> str:
    """``document`` with ``text`` between its two marks. Raises: ValueError: it has none."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the document has no place for the figures, between {BEGIN} and {END}")
    return f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}"


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
