"""multihost/histogram.py: how long things took, in bounded memory, and how well it is told."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multihost.histogram import Histogram

SECONDS = st.floats(0.0, 1e9)


def of(*seconds: float) -> Histogram:
    histogram = Histogram()
    for each in seconds:
        histogram.add(each)
    return histogram


def test_an_empty_one_tells_zeros() -> None:
    assert set(of().plain().values()) == {0.0}


def test_what_is_alike_is_told_exactly() -> None:
    histogram = Histogram()
    histogram.add(0.25, 3)
    assert histogram.plain() == {
        "count": 3,
        "sum_seconds": 0.75,
        "mean_seconds": 0.25,
        "p50_seconds": 0.25,
        "p99_seconds": 0.25,
        "max_seconds": 0.25,
    }


def test_a_rare_long_one_is_in_the_maximum_and_not_in_the_median() -> None:
    histogram = of(100.0)
    histogram.add(0.001, 999)
    told = histogram.plain()
    assert told["p50_seconds"] == pytest.approx(0.001)
    assert told["p99_seconds"] == pytest.approx(0.001)
    assert told["max_seconds"] == 100.0


@given(st.lists(st.floats(1e-5, 1e6), min_size=1, max_size=50), st.floats(0.01, 1.0))
def test_a_quantile_is_wrong_by_a_factor_of_two_at_most(seconds: list[float], share: float) -> None:
    left = share * len(seconds)
    true = next(value for number, value in enumerate(sorted(seconds), 1) if number >= left)
    assert true / 2.1 <= of(*seconds).quantile(share) <= true * 2.1


@given(st.lists(SECONDS), st.lists(SECONDS))
def test_merged_ones_have_counted_what_both_have(some: list[float], others: list[float]) -> None:
    merged = of(*some)
    merged.merge(of(*others))
    together = of(*some, *others)
    assert merged.plain() == pytest.approx(together.plain())
    assert merged.count == len(some) + len(others)


@given(st.lists(st.floats(0.0, 100.0), min_size=1))
def test_what_ends_together_is_counted_as_if_it_had_come_alone(moments: list[float]) -> None:
    together = Histogram()
    together.add_since(moments, 100.0)
    alone = of(*(100.0 - moment for moment in moments))
    assert together.plain() == pytest.approx(alone.plain(), abs=1e-9)


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 1e300, inf])
def test_extremes_are_counted(seconds: float) -> None:
    histogram = of(1.0, seconds)
    assert (histogram.count, histogram.max_seconds) == (2, max(1.0, seconds))
