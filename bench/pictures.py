"""Pictures of a run: throughput against the duration of a task, and against the number of workers.

python bench/pictures.py FIGURES.json DIRECTORY
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import pyplot as plt

DURATIONS = {0.0: "0", 10e-6: "10 µs", 100e-6: "100 µs", 1e-3: "1 ms", 10e-3: "10 ms"}
_BOLD = ("multihost", "pool")  # what the page is about
_SLEEP_SECONDS = 0.01

Points = Sequence[tuple[float, float]]


def by_duration(run: dict[str, Any], file: Path) -> None:
    """Tasks a second over how long each keeps a core busy."""
    positions = {f"spin {seconds * 1e6:g} µs": place for place, seconds in enumerate(DURATIONS)}
    parallel = min(run["workers"], run["cores"])
    ideal = [(place, parallel / seconds) for place, seconds in enumerate(DURATIONS) if seconds]
    axes = _axes(f"Tasks submitted one by one, {run['workers']} workers, {run['cores']} cores", "tasks a second")
    axes.set_xticks(range(len(DURATIONS)), list(DURATIONS.values()))
    axes.set_xlabel("computing in each task")
    _draw(axes, run, lambda figure: positions.get(figure), ideal)
    _save(axes, file)


def by_workers(run: dict[str, Any], file: Path) -> None:
    """Tasks a second over the number of workers, for tasks that wait: computing could not go beyond the cores."""
    numbers = sorted(
        {workers for system in run["systems"].values() for workers in map(_workers, system["rounds"]) if workers}
    )
    ideal = [(workers, workers / _SLEEP_SECONDS) for workers in numbers]
    axes = _axes(f"Tasks that sleep for 10 ms, submitted one by one, {run['cores']} cores", "tasks a second")
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
    axes.set_xlabel("workers")
    axes.set_yticks([rate for _, rate in ideal], [f"{rate:g}" for _, rate in ideal])
    axes.yaxis.set_minor_formatter("")
    _draw(axes, run, _workers, ideal)
    _save(axes, file)


def _workers(figure: str) -> float | None:
    number, _, what = figure.partition(" workers, ")
    return float(number) if what == "sleep 10 ms" else None


def _axes(title: str, ylabel: str) -> Any:
    _, axes = plt.subplots(figsize=(9, 5.5))
    axes.set_title(title)
    axes.set_ylabel(ylabel)
    axes.set_yscale("log")
    axes.grid(visible=True, which="major", alpha=0.3)
    return axes


def _draw(axes: Any, run: dict[str, Any], place: Callable[[str], float | None], ideal: Points) -> None:
    axes.plot(*zip(*ideal, strict=True), color="black", linestyle=":", label="no overhead at all")
    for number, (name, system) in enumerate(run["systems"].items()):
        points = sorted(
            (x, statistics.median(values))
            for figure, values in system["rounds"].items()
            if (x := place(figure)) is not None
        )
        if points:
            width = 2.5 if name in _BOLD else 1.0
            style = ("-", "--", "-.")[number // 10 % 3]  # there are ten colours
            axes.plot(
                *zip(*points, strict=True), style, marker="o", markersize=3, linewidth=width, label=system["title"]
            )


def _save(axes: Any, file: Path) -> None:
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.figure.savefig(file, bbox_inches="tight", metadata={"Date": None})
    plt.close(axes.figure)


def main() -> None:
    """Draw what the run has figures for."""
    directory = Path(sys.argv[1])
    run = json.load(sys.stdin)
    directory.mkdir(parents=True, exist_ok=True)
    # The same figures give the same file: no date, no random ids; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "multihost", "svg.fonttype": "none"})
    by_duration(run, directory / "throughput-by-duration.svg")
    by_workers(run, directory / "throughput-by-workers.svg")


if __name__ == "__main__":
    main()
