"""``multihost.Pool`` beside ``multiprocessing.Pool``, in one run: the same calls, the same number of processes.

    python bench/pool.py [--slots N] [--rounds N] [--json FILE]

Rounds alternate between the two, and each figure is the median of its rounds, so that what else this machine does
falls on both alike. Read the ratio, not the absolute numbers. Both are warmed up with one round that does not count.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import multihost
from cluster import cluster

ONE_BY_ONE, MAPPED, ROUND_TRIPS, SLEEPS = 10_000, 20_000, 300, 200

AnyPool = Any  # both have the same API, and no type in common


def square(x: int) -> int:
    """The work of the benchmark: none to speak of."""
    return x * x


def one_by_one(pool: AnyPool) -> float:
    """Tasks per second of ``apply_async`` in a loop, until all results are back."""
    begun = time.perf_counter()
    results = [pool.apply_async(square, (x,)) for x in range(ONE_BY_ONE)]
    assert [result.get() for result in results] == [x * x for x in range(ONE_BY_ONE)]
    return ONE_BY_ONE / (time.perf_counter() - begun)


def mapped(pool: AnyPool) -> float:
    """Tasks per second of ``map`` with ``chunksize=1``."""
    begun = time.perf_counter()
    assert pool.map(square, range(MAPPED), chunksize=1) == [x * x for x in range(MAPPED)]
    return MAPPED / (time.perf_counter() - begun)


def round_trip(pool: AnyPool) -> float:
    """Microseconds of one ``apply``, the median of many."""
    return statistics.median(_round_trips(pool))


def round_trip_p99(pool: AnyPool) -> float:
    """Microseconds of one ``apply``, the 99th percentile."""
    return sorted(_round_trips(pool))[ROUND_TRIPS * 99 // 100]


def sleeping(pool: AnyPool) -> float:
    """Sleeps of 10 ms per second, one task each: 100 for each slot would be no overhead at all."""
    begun = time.perf_counter()
    for result in [pool.apply_async(time.sleep, (0.01,)) for _ in range(SLEEPS)]:
        result.get()
    return SLEEPS / (time.perf_counter() - begun)


def _round_trips(pool: AnyPool) -> list[float]:
    times = []
    for x in range(ROUND_TRIPS):
        begun = time.perf_counter()
        pool.apply(square, (x,))
        times.append((time.perf_counter() - begun) * 1e6)
    return times


BENCHMARKS: dict[str, tuple[Callable[[AnyPool], float], str]] = {
    "one by one": (one_by_one, "tasks/s"),
    "map, chunksize=1": (mapped, "tasks/s"),
    "round trip, p50": (round_trip, "µs"),
    "round trip, p99": (round_trip_p99, "µs"),
    "sleep 10 ms": (sleeping, "tasks/s"),
}


def measure(pools: dict[str, AnyPool], rounds: int) -> dict[str, dict[str, float]]:
    """benchmark -> system -> median."""
    table = {}
    for name, (benchmark, _) in BENCHMARKS.items():
        figures: dict[str, list[float]] = {system: [] for system in pools}
        for number in range(rounds + 1):
            for system, pool in pools.items():
                figure = benchmark(pool)
                if number:
                    figures[system].append(figure)
        table[name] = {system: statistics.median(values) for system, values in figures.items()}
    return table


def main() -> None:
    """Print the table as Markdown; write it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, default=2, help="processes of each system (default 2)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--json", metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    with cluster(arguments.slots) as settings:
        os.environ.update(settings)
        with multihost.Pool() as ours, multiprocessing.Pool(arguments.slots) as theirs:
            table = measure({"multihost": ours, "multiprocessing": theirs}, arguments.rounds)
    print(f"| {arguments.slots} slots | unit | multihost | multiprocessing | ratio |\n|---|---|---|---|---|")
    for name, row in table.items():
        (mine, other), unit = row.values(), BENCHMARKS[name][1]
        print(f"| {name} | {unit} | {mine:,.0f} | {other:,.0f} | {mine / other:.2f} |")
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(table, file, indent=2)


if __name__ == "__main__":
    main()
