"""Intervals and percentiles against known distributions."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stmdeploy.measure.statistics import (
    order_interval,
    percentile_floor,
    quantile,
    row_interval,
    student_t,
)


def test_floors_are_loadgens() -> None:
    assert percentile_floor(0.90) == 64
    assert percentile_floor(0.99) == 662
    assert percentile_floor(0.90) < percentile_floor(0.95) < percentile_floor(0.99)


def test_interval_ranks_are_the_tables() -> None:
    """Published tables of the sign test: n = 10 -> 2nd and 9th, n = 100 -> 40th and 61st."""
    ten = order_interval(list(range(1, 11)))
    assert (ten.low, ten.median, ten.high) == (2, 5.5, 9)
    hundred = order_interval(list(range(1, 101)))
    assert (hundred.low, hundred.high) == (40, 61)
    assert hundred.half_width_percent == pytest.approx(100 * 10.5 / 50.5)


def test_few_samples_give_the_whole_range() -> None:
    few = order_interval([3.0, 1.0, 2.0])
    assert (few.low, few.median, few.high) == (1.0, 2.0, 3.0)
    assert row_interval([5.0]).half_width_percent == 0.0


@pytest.mark.parametrize(
    ("freedom", "level", "quantile"),
    [
        (1, 0.05, 12.706), (2, 0.05, 4.303), (9, 0.05, 2.262), (30, 0.05, 2.042),
        (31, 0.05, 2.040), (60, 0.05, 2.000), (1e9, 0.05, 1.960), (2, 0.01, 9.925),
    ],
)  # fmt: skip
def test_student_is_the_tables(freedom: float, level: float, quantile: float) -> None:
    assert student_t(freedom, level) == pytest.approx(quantile, abs=5e-4)


def test_a_row_of_known_processes() -> None:
    """Three processes at 9, 10 and 11.1 ms: t(2) of the logarithms, worked by hand."""
    logs = [math.log(x) for x in (9.0, 10.0, 11.1)]
    mean = sum(logs) / 3
    error = math.sqrt(sum((x - mean) ** 2 for x in logs) / 2 / 3)
    interval = row_interval([9.0, 11.1, 10.0])
    assert interval.median == 10.0
    assert interval.low == pytest.approx(10.0 * math.exp(-4.30265 * error))
    assert interval.high == pytest.approx(10.0 * math.exp(4.30265 * error))


def test_six_processes_and_more_need_no_distribution() -> None:
    six = row_interval([10.0, 10.1, 10.2, 10.3, 10.4, 82.9])
    assert (six.low, six.median, six.high) == (10.0, 10.25, 82.9)
    nine = row_interval([10.0, 10.1, 10.2, 10.3, 10.4, 10.5, 10.6, 10.7, 82.9])
    assert (nine.low, nine.median, nine.high) == (10.1, 10.4, 10.7)


Process = Callable[[random.Random], list[float]]


def steady(noise: random.Random) -> list[float]:
    return [noise.lognormvariate(0.0, 0.1) for _ in range(200)]


def autocorrelated(noise: random.Random) -> list[float]:
    """A chain whose neighbours correlate by 0.9: 200 samples tell as much as ten."""
    state, samples = noise.gauss(0, 1), []
    for _ in range(200):
        state = 0.9 * state + math.sqrt(1 - 0.81) * noise.gauss(0, 1)
        samples.append(math.exp(0.1 * state))
    return samples


def bimodal(noise: random.Random) -> list[float]:
    """Two modes, one 3 % slower, switched at random every few samples; the median is of the
    faster, which is there more often."""
    mode, samples = 0, []
    for _ in range(400):
        mode = int(noise.random() < 0.3) if noise.random() < 0.2 else mode
        samples.append((1.0 + 0.03 * mode) * noise.lognormvariate(0.0, 0.005))
    return samples


def coverage(process: Process, processes: int, between: float, repeats: int = 600) -> float:
    """How often a row's interval holds the truth, with processes that differ by `between`."""
    noise = random.Random(7)
    pooled = sorted(x for _ in range(300) for x in process(noise))
    truth, hits = quantile(pooled, 0.5), 0
    for _ in range(repeats):
        rows = []
        for _ in range(processes):
            factor = noise.lognormvariate(0.0, between)
            rows.append(factor * quantile(sorted(process(noise)), 0.5))
        interval = row_interval(rows)
        hits += interval.low <= truth <= interval.high
    return hits / repeats


@pytest.mark.parametrize("process", [steady, autocorrelated, bimodal])
@pytest.mark.parametrize("between", [0.0, 0.05])
@pytest.mark.parametrize("processes", [3, 6])
def test_a_row_covers_the_truth(process: Process, processes: int, between: float) -> None:
    # 95 %, less three standard errors of this estimate.
    floor = 0.95 - 3 * math.sqrt(0.95 * 0.05 / 600)
    assert coverage(process, processes, between) >= floor


def test_an_interval_reaches_a_millionfold_at_most() -> None:
    """Two processes of which one was held up for two seconds tell nothing, and a row can say so."""
    interval = row_interval([1.0, 2000.0])
    assert interval.low == pytest.approx(interval.median / 1e6)
    assert interval.high == pytest.approx(interval.median * 1e6)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=12))
def test_intervals_are_ordered(processes: list[float]) -> None:
    interval = row_interval(processes)
    assert interval.low <= interval.median * (1 + 1e-12)
    assert interval.median <= interval.high * (1 + 1e-12)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50), st.floats(0, 1))
def test_quantile_agrees_with_numpy(samples: list[float], share: float) -> None:
    import numpy as np

    expected = float(np.quantile(samples, share))
    assert quantile(sorted(samples), share) == pytest.approx(expected, rel=1e-9, abs=1e-6)
