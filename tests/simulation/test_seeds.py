"""Thousands of histories of the whole system, each from its seed; scripts/simulate runs as many more as you like.

They are run in groups, for a test costs more than a short history; a failure names its seed and shows its last steps.
"""

import pytest

from tests.simulation.simulation import run

SEEDS, GROUP = 2000, 100


@pytest.mark.parametrize("first", range(0, SEEDS, GROUP))
def test_no_promise_is_broken_in_any_history(first: int) -> None:
    for seed in range(first, first + GROUP):
        report = run(seed)
        assert not report.problems, str(report)


def test_histories_differ_in_what_they_break() -> None:
    """A simulation in which nothing happens proves nothing."""
    reports = [run(seed) for seed in range(100)]
    assert all(any(report.faults.get(kind) for report in reports) for report in reports for kind in report.faults)
    assert any(report.calm for report in reports)
    assert sum(report.calls for report in reports) > 1000
    assert sum(report.twice for report in reports) > 10
