"""Intervals that hold at every look, and the verdicts they allow."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable

import pytest

from stmdeploy.check.verdict import (
    ALPHA,
    UNKNOWN,
    Slowdown,
    Spending,
    Verdict,
    as_slowdown,
    judge,
    locate,
    pair_figure,
    paired_slowdown,
    unpaired_slowdown,
)
from stmdeploy.measure.statistics import student_t
from stmdeploy.measure.turns import Inference

CALM = [Inference(100, 0)] * 5
DELAYED = Inference(400, 300)


def test_calm_inferences_alone_count_where_both_sides_have_enough() -> None:
    slower = [Inference(110, 1)] * 5
    assert pair_figure([*CALM, *[DELAYED] * 50], slower) == pytest.approx(math.log(1.1))
    assert pair_figure(CALM, [*slower, *[DELAYED] * 50]) == pytest.approx(math.log(1.1))


def test_a_candidate_that_disturbs_itself_is_not_let_off() -> None:
    slow = [Inference(400 + i, 300) for i in range(20)]
    assert pair_figure(CALM, slow) == pytest.approx(math.log(4.0))


def test_the_fastest_inferences_speak_where_few_are_calm() -> None:
    disturbed = [Inference(110, 0), *[DELAYED] * 20]
    assert pair_figure([Inference(100, 50), DELAYED], disturbed) == pytest.approx(math.log(1.1))


def test_more_inferences_are_no_advantage() -> None:
    dice = random.Random(4)

    def process(count: int) -> list[Inference]:
        return [Inference(round(1e6 * (1 + dice.expovariate(5))), 10**6) for _ in range(count)]

    figures = [pair_figure(process(12), process(200)) for _ in range(400)]
    assert abs(locate(figures).mean) < 4 * locate(figures).error


def test_a_wild_figure_is_cut_off() -> None:
    figures = [0.01, 0.02, 0.03, 0.02, 0.02, 0.01, 0.03, 0.9]
    assert locate(figures).mean == pytest.approx(0.13 / 6)
    assert locate(figures).error < 0.01
    assert locate(figures[:4]).freedom == 3, "too few to cut any"
    assert locate(figures).freedom == 5


def test_an_interval_by_hand() -> None:
    found = paired_slowdown([[0.1, 0.2], [0.3]], 0.05)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert found.percent == pytest.approx(100 * math.expm1(0.2))
    assert found.low_percent == pytest.approx(100 * math.expm1(0.2 - half))
    assert found.high_percent == pytest.approx(100 * math.expm1(0.2 + half))


def test_too_few_pairs_say_nothing() -> None:
    assert paired_slowdown([[0.5, 0.5]], 0.05) == UNKNOWN
    assert unpaired_slowdown([0.5] * 5, [[0.5]] * 2, 0.05) == UNKNOWN
    assert judge(UNKNOWN, 5.0) is Verdict.CANNOT_TELL


def test_figures_that_agree_to_the_last_digit() -> None:
    assert paired_slowdown([[0.0] * 6], 0.01) == Slowdown(0.0, 0.0, 0.0)
    assert unpaired_slowdown([0.1] * 4, [[0.1, 0.1]] * 4, 0.01).high_percent == pytest.approx(0.0)


def test_unpaired_is_welch() -> None:
    before, after = [0.0, 0.1, 0.2, 0.1], [[0.2, 0.4], [0.5], [0.4]]
    found = unpaired_slowdown(before, after, 0.05)
    # By hand: variances 0.00667 and 0.01, so an error of 0.07071 with 3.857 degrees of freedom.
    half = student_t(3.8571, 0.05) * 0.070711
    assert found.low_percent == pytest.approx(100 * math.expm1(0.3 - half), rel=1e-3)


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
    spending = Spending(rows=4)
    levels = [spending.level(share) for share in (0.2, 0.5, 0.9, 1.3)]
    assert levels == pytest.approx([ALPHA / 4 * part for part in (0.04, 0.21, 0.56, 0.19)])
    assert spending.level(1.0) == 0.0


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
    """One check: six looks at three pairs more each."""
    spending, figures = Spending(1), list[list[float]]()
    verdict = Verdict.CANNOT_TELL
    for look in range(1, 7):
        figures.append([shift + draw(dice) for _ in range(3)])
        verdict = judge(paired_slowdown(figures, spending.level(look / 6)), 5.0)
        if verdict is not Verdict.CANNOT_TELL:
            break
    return verdict


@pytest.mark.parametrize("draw", [steady, with_outliers, lopsided])
def test_at_the_threshold_itself_false_alarms_stay_below_half_of_what_is_allowed(
    draw: Callable[[random.Random], float],
) -> None:
    dice, checks = random.Random(1), 3000
    found = Counter(verdict_of(draw, math.log1p(0.05), dice) for _ in range(checks))
    share = ALPHA / 2
    assert found[Verdict.REGRESSION] / checks < share + 3 * math.sqrt(share / checks)


@pytest.mark.parametrize("draw", [steady, with_outliers, lopsided])
def test_equal_models_hardly_ever_alarm(draw: Callable[[random.Random], float]) -> None:
    dice = random.Random(6)
    found = Counter(verdict_of(draw, 0.0, dice) for _ in range(3000))
    assert found[Verdict.REGRESSION] + found[Verdict.IMPROVEMENT] <= 3


@pytest.mark.parametrize("draw", [steady, with_outliers])
def test_a_slowdown_twice_the_threshold_is_found(draw: Callable[[random.Random], float]) -> None:
    dice = random.Random(2)
    found = Counter(verdict_of(draw, math.log1p(0.10), dice) for _ in range(500))
    assert found[Verdict.REGRESSION] >= 0.95 * 500


def test_a_first_look_at_a_tiny_level_bounds_nothing() -> None:
    found = paired_slowdown([[0.0, 0.3, 0.6]], 1e-9)
    assert found.low_percent == pytest.approx(-100.0)
    assert found.high_percent == math.inf


def test_an_infinite_half_width_bounds_nothing() -> None:
    assert as_slowdown(0.0, math.inf).low_percent == -100.0
    assert as_slowdown(0.0, math.inf).high_percent == math.inf
