"""Intervals and percentiles against known distributions."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmdeploy.measure.statistics import (
    median_interval,
    percentile_floor,
    percentiles,
    quantile,
)


def test_floors_are_loadgens() -> None:
    assert percentile_floor(0.90) == 64
    assert percentile_floor(0.99) == 662
    assert percentile_floor(0.90) < percentile_floor(0.95) < percentile_floor(0.99)


def test_percentiles_appear_at_their_floor() -> None:
    p95 = percentile_floor(0.95)
    assert percentiles(range(63)) == {}
    assert list(percentiles(range(64))) == [0.90]
    assert list(percentiles(range(p95))) == [0.90, 0.95]
    assert list(percentiles(range(662))) == [0.90, 0.95, 0.99]
    assert percentiles(range(1001)) == {0.90: 900, 0.95: 950, 0.99: 990}


def test_interval_ranks_are_the_tables() -> None:
    """Published tables of the sign test: n = 10 -> 2nd and 9th, n = 100 -> 40th and 61st."""
    ten = median_interval(list(range(1, 11)))
    assert (ten.low, ten.median, ten.high) == (2, 5.5, 9)
    hundred = median_interval(list(range(1, 101)))
    assert (hundred.low, hundred.high) == (40, 61)
    assert hundred.half_width_percent == pytest.approx(100 * 10.5 / 50.5)


def test_few_samples_give_the_whole_range() -> None:
    few = median_interval([3.0, 1.0, 2.0])
    assert (few.low, few.median, few.high) == (1.0, 2.0, 3.0)
    assert median_interval([5.0]).half_width_percent == 0.0


@pytest.mark.parametrize("count", [20, 65, 400])
def test_interval_covers_the_median_of_a_skewed_distribution(count: int) -> None:
    generator = random.Random(count)
    truth, hits, repeats = math.log(2.0), 0, 1500
    for _ in range(repeats):
        interval = median_interval([generator.expovariate(1.0) for _ in range(count)])
        hits += interval.low <= truth <= interval.high
    # At least 95 %, less three standard errors of this estimate.
    assert hits / repeats >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / repeats)


def test_many_samples_do_not_underflow() -> None:
    interval = median_interval([float(i % 1000) for i in range(20_000)])
    assert interval.low < 499.5 < interval.high
    assert interval.half_width_percent < 3


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=200))
def test_interval_is_ordered_and_made_of_samples(samples: list[float]) -> None:
    interval = median_interval(samples)
    assert interval.low <= interval.median <= interval.high
    assert {interval.low, interval.high} <= set(samples)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(0, 1))
def test_quantile_agrees_with_numpy(samples: list[float], share: float) -> None:
    import numpy as np

    expected = float(np.quantile(samples, share))
    assert quantile(sorted(samples), share) == pytest.approx(expected, rel=1e-9, abs=1e-6)
