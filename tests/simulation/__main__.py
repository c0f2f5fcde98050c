"""What scripts/simulate runs: seeds one after another; each that fails is shown."""

import argparse
import sys
import time
from collections import Counter

from tests.simulation.simulation import line_of, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/simulate")
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--trace", action="store_true")
    options = parser.parse_args()
    began = time.monotonic()
    failed: list[int] = []
    steps = calls = twice = 0
    faults: Counter[str] = Counter()
    for seed in range(options.first, options.first + options.seeds):
        report = run(seed)
        steps, calls, twice = steps + report.steps, calls + report.calls, twice + report.twice
        faults.update(report.faults)
        if options.trace:
            print(*map(line_of, report.trace), sep="\n")
        if report.problems:
            failed.append(seed)
            print(report, end="\n\n")
    print(f"{options.seeds} seeds from {options.first}, {steps} steps, {time.monotonic() - began:.0f} s")
    print(f"{calls} calls, {twice} of them ran more than once; faults: {dict(sorted(faults.items()))}")
    print(f"{len(failed)} seeds failed{': ' if failed else ''}{', '.join(map(str, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
