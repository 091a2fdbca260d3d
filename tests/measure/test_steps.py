"""Steps in noisy series: those that were planted, and none where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from stmdeploy.measure.steps import FEWEST, steps

NOISE = 0.02


def series(random: np.random.Generator, count: int, step: float = 0.0, at: int = 0) -> list[float]:
    """Latencies of nights: noise of 2 %, and one night in twenty slower by 10 to 40 %."""
    logs = np.log(10.0) + random.normal(0.0, NOISE, count)
    logs += np.where(random.random(count) < 0.05, np.log1p(random.uniform(0.1, 0.4, count)), 0.0)
    if step:
        logs[at:] += np.log1p(step)
    return [float(one) for one in np.exp(logs)]


@pytest.mark.parametrize("at", [12, 20, 30])
def test_a_planted_step_of_5_percent_is_found(at: int) -> None:
    random, found = np.random.default_rng(at), 0
    for _ in range(100):
        seen = steps(series(random, 40, 0.05, at))
        found += any(abs(one.at - at) <= 3 and 2.5 < one.percent < 8 for one in seen)
    assert found >= 90


@pytest.mark.parametrize("count", [20, 40, 200])
def test_a_steady_series_has_none(count: int) -> None:
    random = np.random.default_rng(count)
    races = 200 if count < 100 else 40
    wrong = sum(bool(steps(series(random, count))) for _ in range(races))
    assert wrong <= 0.05 * races


def test_two_steps_are_told_apart_and_a_single_bad_night_is_none() -> None:
    levels = [10.0] * 15 + [11.0] * 15 + [10.5] * 15
    noisy = [one * (1 + 0.002 * (-1) ** place) for place, one in enumerate(levels)]
    noisy[7] = 20.0
    first, second = steps(noisy)
    assert (first.at, second.at) == (15, 30)
    assert first.percent == pytest.approx(10, abs=1)
    assert second.percent == pytest.approx(-4.5, abs=1)


def test_slow_creep_is_seen_as_steps() -> None:
    random = np.random.default_rng(1)
    creeping = [
        10 * (1 + 0.003 * night) * float(np.exp(random.normal(0, 0.01))) for night in range(60)
    ]
    found = steps(creeping)
    assert found and all(one.percent > 0 for one in found)


def test_few_figures_have_none() -> None:
    assert steps([1.0] * (FEWEST - 1) + [2.0] * FEWEST) == []
    assert [one.at for one in steps([1.0] * FEWEST + [2.0] * FEWEST)] == [FEWEST]
