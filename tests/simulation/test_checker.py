"""The checker is checked: builds that break a promise on purpose are caught, and the simulation is what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.sabotage import BUILDS
from tests.simulation.simulation import run

ROOT = Path(__file__).resolve().parents[2]
MOST_SEEDS = 500
# What the checker must say of each build.
INVARIANTS = {
    "acknowledges before it commits": "I2",
    "drops every 20th outcome": "I1",
    "drops every 1,000th outcome": "I1",
    "no fencing": "I2",
    "leases never expire": "I1",
    "blames bystanders": "I13",
    "accepts before it keeps": "I1",
    "takes one item more than was used": "I14",
    "forgets jobs that have ended": "I2",
    "keeps no dead letters": "I15",
    "repeats chunks from their first item": "I2",
}


@pytest.mark.parametrize("name", BUILDS)
def test_a_build_that_breaks_a_promise_is_caught(name: str) -> None:
    """By the checker alone: the invariants inside the cores are not looked at."""
    for seed in range(MOST_SEEDS):
        with BUILDS[name]():
            problems = run(seed, checked=False).problems
        if any(problem.startswith(INVARIANTS[name]) for problem in problems):
            assert not run(seed).problems, "it is the sabotage that was caught"
            return
    pytest.fail(f"{name!r} went unnoticed in {MOST_SEEDS} histories")


def test_a_failure_says_how_to_see_it_again() -> None:
    with BUILDS["leases never expire"]():
        reports = (run(seed, checked=False) for seed in range(MOST_SEEDS))
        report = next(report for report in reports if report.problems)
    assert f"scripts/simulate --first {report.seed} --seeds 1 --trace" in str(report)
    assert report.problems[-1] in str(report)


@pytest.mark.parametrize("seed", range(0, 60, 10))
def test_a_seed_is_one_history(seed: int) -> None:
    assert run(seed).fingerprint == run(seed).fingerprint


def test_a_history_does_not_depend_on_the_hashes_of_strings() -> None:
    program = "from tests.simulation.simulation import run\nprint([run(seed).fingerprint for seed in range(40)])"
    printed = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hashing in ("1", "2")
    ]
    assert printed[0] == printed[1]
