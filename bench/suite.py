"""multihost beside other systems, in one run: the same work, the same number of workers, rounds that alternate.

    python bench/suite.py [--quick] [--only NAME,NAME] [--measures NAME,NAME] [--rounds N] [--seconds S] [--slots N]
                          [--json FILE] [--read FILE] [--document FILE] [--pictures DIRECTORY]

Read docs/performance.md for the rules, and the ratios before the absolute figures.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import programs
import venvs
from driver import Adapter, Dash, Failed, redis
from figures import Row
from machine import machine
from measures import FRESH, MEASURES
from reports import Plan, inserted, markdown, report
from systems import QUICK, SYSTEMS, SystemSpec

TABLE_MEASURES = (
    "one by one",
    "map chunksize=1",
    "map default chunks",
    "round trip",
    "sleeps",
    "10 MB argument",
    "10 MB result",
    "queued",
)
COLD = "cold start"
WORKER_NUMBERS = (1, 2, 4, 8)
_ORDER_SECONDS, _START_SECONDS = 150.0, 60.0


@dataclass
class Contender:
    """A system in a run: how it is started, and what it has shown."""

    spec: SystemSpec
    row: Row
    python: Path = Path(sys.executable)
    environ: dict[str, str] = field(default_factory=dict)
    adapter: Adapter | None = None


class Suite:
    """Runs a plan. What a system cannot do, or does not survive, becomes a note in its row."""

    def __init__(self, plan: Plan, directory: Path) -> None:
        self._plan = plan
        self._directory = directory
        self._contenders = [Contender(SYSTEMS[name], Row(SYSTEMS[name].title)) for name in plan.systems]
        self.rows = {contender.spec.name: contender.row for contender in self._contenders}

    def run(self) -> None:
        """All rounds; may take an hour."""
        with contextlib.ExitStack() as stack:
            self._prepare(stack)
            stack.callback(self._close_all)
            present = [contender for contender in self._contenders if not contender.row.absent]
            for number in range(self._plan.rounds):
                self._round(number, present)
            self._close_all()
            for workers in self._plan.scaling:
                for contender in present:
                    _say(f"{workers} workers: {contender.spec.name}")
                    self._measure(contender, "scaling", workers)
                    self._close(contender)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        server: dict[str, str] | None = None
        for contender in self._contenders:
            spec = contender.spec
            try:
                if spec.venv:
                    contender.python = venvs.python_of(spec.venv)
                if spec.redis:
                    server = server or stack.enter_context(redis(*venvs.redis_command(), self._directory))
                    contender.environ = server
            except (venvs.CannotInstall, TimeoutError) as error:
                contender.row.absent = str(error)

    def _round(self, number: int, contenders: Sequence[Contender]) -> None:
        measures = [name for name in self._plan.measures if name != COLD]
        if COLD in self._plan.measures:
            for contender in contenders:
                _say(f"round {number + 1}: {COLD}: {contender.spec.name}")
                self._cold_start(contender)
        resident = [contender for contender in contenders if contender.spec.resident]
        for measure in measures:
            for contender in resident:
                _say(f"round {number + 1}: {measure}: {contender.spec.name}")
                self._measure(contender, measure, self._plan.workers)
        for contender in contenders:
            if contender not in resident:
                for measure in measures:
                    _say(f"round {number + 1}: {measure}: {contender.spec.name}")
                    self._measure(contender, measure, self._plan.workers)
                self._close(contender)

    def _measure(self, contender: Contender, measure: str, workers: int) -> None:
        row = contender.row
        if measure in row.missing or row.absent:
            return
        if measure in FRESH:
            self._close(contender)
        try:
            adapter = self._opened(contender, workers)
        except Failed as failure:
            row.absent = str(failure)
            return
        try:
            row.add(adapter.order(_ORDER_SECONDS, do="measure", what=measure))
        except Dash as dash:
            row.missing[measure] = str(dash)
        except Failed as failure:
            row.missing[measure] = str(failure)
            self._close(contender)  # in whatever state it is: the next measurement starts it anew

    def _cold_start(self, contender: Contender) -> None:
        row = contender.row
        if COLD in row.missing or row.absent:
            return
        try:
            adapter = self._started(contender, self._plan.workers, str(self._plan.workers))
            try:
                row.add({COLD: adapter.answer(_START_SECONDS)["moment"] - adapter.begun})
            finally:
                adapter.close()
        except Failed as failure:
            row.missing[COLD] = str(failure)

    def _opened(self, contender: Contender, workers: int) -> Adapter:
        if contender.adapter is None:
            contender.adapter = self._started(contender, workers)
            plan = self._plan
            effort = {"seconds": plan.seconds, "most_tasks": plan.most_tasks, "large": plan.large}
            try:
                contender.adapter.order(_START_SECONDS, do="start", workers=workers, **effort)
            except Failed:
                self._close(contender)
                raise
        return contender.adapter

    def _started(self, contender: Contender, workers: int, *cold: str) -> Adapter:
        return Adapter(contender.spec, contender.python, workers, self._directory, contender.environ, *cold)

    def _close(self, contender: Contender) -> None:
        adapter, contender.adapter = contender.adapter, None
        if adapter is not None:
            adapter.close()

    def _close_all(self) -> None:
        for contender in self._contenders:
            self._close(contender)


def make_pictures(run: dict[str, Any], directory: Path) -> None:
    """Draw a report's figures, with matplotlib in an environment of its own. Raises: CannotInstall."""
    command = [str(venvs.python_of("pictures")), str(programs.BENCH / "pictures.py"), str(directory)]
    subprocess.run(command, input=json.dumps(run), text=True, check=True)


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """A new run's report."""
    plan, where = _plan(arguments), machine()
    programs.compile_sources()
    with tempfile.TemporaryDirectory(prefix="multihost-bench-") as name:
        suite = Suite(plan, Path(name))
        suite.run()
    return report(plan, suite.rows, {**where, "load after": os.getloadavg()[0]})


def main() -> None:
    """Print the tables as Markdown; write the figures and the pictures if asked to."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(128 + signum))  # what was started is ended
    run = json.loads(Path(arguments.read).read_text()) if arguments.read else measured(arguments)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(run, indent=1) + "\n")
    text = markdown(run)
    print(text, flush=True)
    if arguments.document:
        document = Path(arguments.document)
        document.write_text(inserted(document.read_text(), text))
    if arguments.pictures:
        make_pictures(run, Path(arguments.pictures))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help=f"a few minutes: {', '.join(QUICK)}")
    parser.add_argument("--only", metavar="NAMES", help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--measures", metavar="NAMES", help=f"of {', '.join((COLD, *MEASURES))}")
    parser.add_argument("--rounds", type=int, help="rounds (default 5; with --quick 3)")
    parser.add_argument("--seconds", type=float, help="of one measurement, about (default 1; with --quick 0.4)")
    parser.add_argument("--slots", type=int, default=2, help="workers of each system (default 2)")
    parser.add_argument("--most-tasks", type=int, default=20_000, help="of one measurement (default 20000)")
    parser.add_argument("--large", type=int, default=16, help="payloads of 10 MB in one measurement (default 16)")
    parser.add_argument("--read", metavar="FILE", help="measure nothing: tables and pictures of a former run's --json")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    parser.add_argument("--document", metavar="FILE", help="put the tables between the marks in it, too")
    parser.add_argument("--pictures", metavar="DIRECTORY", help="draw them there; measures what they show, too")
    return parser.parse_args()


def _plan(arguments: argparse.Namespace) -> Plan:
    quick = arguments.quick
    only = arguments.only.split(",") if arguments.only else list(QUICK if quick else SYSTEMS)
    if arguments.measures:
        measures = arguments.measures.split(",")
    else:
        measures = [COLD, *TABLE_MEASURES, *(["durations"] if arguments.pictures else [])]
    if unknown := [name for name in only if name not in SYSTEMS] + [m for m in measures if m not in (COLD, *MEASURES)]:
        sys.exit(f"bench: there is no {', '.join(unknown)}; see --help")
    return Plan(
        systems=tuple(only),
        measures=tuple(measures),
        rounds=arguments.rounds or (3 if quick else 5),
        workers=arguments.slots,
        seconds=arguments.seconds or (0.4 if quick else 1.0),
        most_tasks=arguments.most_tasks,
        large=arguments.large,
        scaling=WORKER_NUMBERS if arguments.pictures else (),
    )


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
