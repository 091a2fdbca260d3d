"""Intervals that hold at every look, and the verdicts they allow."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter
from collections.abc import Callable

import pytest

from stmdeploy.check.comparison import Comparison
from stmdeploy.check.side_by_side import Pair
from stmdeploy.check.verdict import (
    ALPHA,
    UNKNOWN,
    Prior,
    Slowdown,
    Spending,
    Verdict,
    as_slowdown,
    can_decide,
    figures_of,
    judge,
    judge_both,
    locate,
    paired_slowdown,
    prior_of,
    unpaired_slowdown,
)
from stmdeploy.measure.calm import Taken
from stmdeploy.measure.statistics import student_t
from tests.check.pairs import pair


def test_the_figures_of_a_pair() -> None:
    """Typical: the median over cycles of the ratio of turns' medians; overall: of all means."""
    before = [(10, 10, 100), (20, 20, 20), (10, 10, 10)]
    after = [(11, 11, 11), (26, 26, 260), (12, 12, 12)]
    found = figures_of(Taken(before), Taken(after))
    assert found.typical == pytest.approx(math.log(1.2))
    assert found.overall == pytest.approx(math.log(381 / 210))
    cycles = [math.log(ratio) for ratio in (1.1, 1.3, 1.2)]
    assert found.noise == pytest.approx(math.pi / 2 * statistics.variance(cycles) / 3)


def test_a_wild_figure_is_cut_off() -> None:
    figures = [0.01, 0.02, 0.03, 0.02, 0.02, 0.01, 0.03, 0.9]
    assert locate(figures).mean == pytest.approx(0.13 / 6)
    assert locate(figures).error < 0.01
    assert locate(figures[:4]).freedom == 3, "too few to cut any"
    assert locate(figures).freedom == 5


def test_an_interval_by_hand() -> None:
    found = paired_slowdown([0.1, 0.2, 0.3], 0.05, None)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.percent == pytest.approx(100 * math.expm1(0.2))
    assert found.low_percent == pytest.approx(100 * math.expm1(0.2 - half))
    assert found.high_percent == pytest.approx(100 * math.expm1(0.2 + half))


def test_a_prior_is_pooled_by_degrees_of_freedom() -> None:
    found = locate([0.10, 0.12], Prior(0.02**2, 12))
    assert found.freedom == 13
    pooled = (0.0002 + 12 * 0.0004) / 13
    assert found.error == pytest.approx(math.sqrt(pooled / 2))


def test_a_prior_that_the_pairs_refute_is_dropped() -> None:
    wild = [0.0, 0.3, -0.3, 0.2]
    assert locate(wild, Prior(0.01**2, 12)) == locate(wild)
    assert locate(wild, Prior(0.0, 12)) == locate(wild)


def test_the_prior_of_earlier_pairs() -> None:
    found = prior_of([0.0, 0.02, 0.04, 0.02] * 10)
    assert found is not None and found.freedom == 12
    assert prior_of([0.1, 0.2, 0.3]) is None


def test_one_pair_says_nothing() -> None:
    assert paired_slowdown([0.5], 0.05, None) == UNKNOWN
    assert unpaired_slowdown([0.5] * 5, [0.5], 0.05) == UNKNOWN
    assert judge(UNKNOWN, 5.0) is Verdict.CANNOT_TELL
    assert not can_decide(UNKNOWN, 5.0)


def test_figures_that_agree_to_the_last_digit() -> None:
    assert paired_slowdown([0.0] * 6, 0.01, None) == Slowdown(0.0, 0.0, 0.0)
    assert unpaired_slowdown([0.1] * 4, [0.1] * 4, 0.01).high_percent == pytest.approx(0.0)


def test_unpaired_is_welch() -> None:
    before, after = [0.0, 0.1, 0.2, 0.1], [0.3, 0.5, 0.4]
    found = unpaired_slowdown(before, after, 0.05)
    # By hand: variances 0.00667 and 0.01, so an error of 0.07071 with 3.857 degrees of freedom.
    half = student_t(3.8571, 0.05) * 0.070711
    assert found.low_percent == pytest.approx(100 * math.expm1(0.3 - half), rel=1e-3)


def test_a_look_that_cannot_decide() -> None:
    assert can_decide(Slowdown(40.0, 35.0, 44.0), 5.0)
    assert not can_decide(Slowdown(0.0, -6.0, 5.0), 5.0)


def test_what_is_slower_overall_is_no_improvement() -> None:
    faster, slower = Slowdown(-9.0, -10.0, -8.0), Slowdown(7.0, 4.0, 10.0)
    assert judge_both(faster, Slowdown(-9.0, -12.0, -6.0), 5.0) is Verdict.IMPROVEMENT
    assert judge_both(faster, slower, 5.0) is Verdict.CANNOT_TELL
    assert judge_both(faster, Slowdown(9.0, 6.0, 12.0), 5.0) is Verdict.REGRESSION


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (5.1, 9.0, Verdict.REGRESSION),
        (4.9, 9.0, Verdict.CANNOT_TELL),
        (-4.7, 4.9, Verdict.NO_CHANGE),
        (-4.9, 1.0, Verdict.CANNOT_TELL),
        (-9.0, -4.8, Verdict.IMPROVEMENT),
        (-9.0, -4.7, Verdict.CANNOT_TELL),
        (-9.0, 9.0, Verdict.CANNOT_TELL),
    ],
)
def test_only_a_whole_interval_beyond_or_within_is_a_verdict(
    low: float, high: float, verdict: Verdict
) -> None:
    # As a ratio, 5 % slower is as far as 4.76 % faster.
    assert judge(Slowdown((low + high) / 2, low, high), 5.0) is verdict


def test_looks_share_what_a_row_may_spend() -> None:
    spending, levels = Spending(0.05), []
    for last in (False, False, False, True):
        levels.append(spending.level(last=last))
        spending.take()
    assert levels == pytest.approx([0.05 * part for part in (1 / 2, 1 / 6, 1 / 12, 1 / 4)])
    assert sum(levels) == pytest.approx(0.05)


def steady(dice: random.Random) -> float:
    return dice.gauss(0.0, 0.02)


def with_outliers(dice: random.Random) -> float:
    return dice.gauss(0.0, 0.12 if dice.random() < 0.1 else 0.015)


def lopsided(dice: random.Random) -> float:
    """A difference of two skewed figures, as processes of equal models give."""
    return 0.03 * (dice.expovariate(1) - dice.expovariate(1))


def verdict_of(
    draw: Callable[[random.Random], float], shift: float, dice: random.Random
) -> Verdict:
    """One check of at most twenty pairs, with the prior of twelve earlier ones."""
    prior = prior_of([draw(dice) for _ in range(12)])

    def measured() -> Pair:
        return pair(math.exp(shift + draw(dice)))

    comparison = Comparison(measured, paired_slowdown, 5.0, 60.0, Spending(ALPHA), prior)
    while not comparison.finished:
        comparison.step()
    return comparison.verdict


@pytest.mark.parametrize("draw", [steady, with_outliers, lopsided])
def test_at_the_threshold_itself_false_alarms_stay_below_half_of_what_is_allowed(
    draw: Callable[[random.Random], float],
) -> None:
    dice, checks = random.Random(1), 600
    found = Counter(verdict_of(draw, math.log1p(0.05), dice) for _ in range(checks))
    share = ALPHA / 2
    assert found[Verdict.REGRESSION] / checks < share + 3 * math.sqrt(share / checks)


@pytest.mark.parametrize("draw", [steady, with_outliers, lopsided])
def test_equal_models_hardly_ever_alarm(draw: Callable[[random.Random], float]) -> None:
    dice = random.Random(6)
    found = Counter(verdict_of(draw, 0.0, dice) for _ in range(1000))
    assert found[Verdict.REGRESSION] + found[Verdict.IMPROVEMENT] <= 2


@pytest.mark.parametrize("draw", [steady, with_outliers])
def test_a_slowdown_twice_the_threshold_is_found(draw: Callable[[random.Random], float]) -> None:
    dice = random.Random(2)
    found = Counter(verdict_of(draw, math.log1p(0.10), dice) for _ in range(500))
    assert found[Verdict.REGRESSION] >= 0.95 * 500


def test_a_first_look_at_a_tiny_level_bounds_nothing() -> None:
    found = paired_slowdown([0.0, 0.3, 0.6], 1e-9, None)
    assert found.low_percent == pytest.approx(-100.0)
    assert found.high_percent == math.inf


def test_an_infinite_half_width_bounds_nothing() -> None:
    assert as_slowdown(0.0, math.inf).low_percent == -100.0
    assert as_slowdown(0.0, math.inf).high_percent == math.inf
