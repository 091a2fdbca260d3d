"""What can be promised of a low precision: bounds by hand, and how often they hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from stmdeploy import StmdeployError
from stmdeploy.measure.fidelity import ALPHA, Outcome, bounds, images_needed, level, outcome
from stmdeploy.spec.fidelity import FidelityLimits


def shares(count: int, disagree: int, lost: int = 0, won: int = 0) -> Outcome:
    """Outcomes of which so many disagree, and that lose and win so many labels."""
    agrees = np.arange(count) >= disagree
    reference = np.arange(count) < count // 2
    right = reference.copy()
    right[:lost] = False
    right[count // 2 : count // 2 + won] = True
    return Outcome(np.full(count, 1e-4), np.ones(count), agrees, right, reference)


def test_an_outcome_by_hand() -> None:
    reference = np.array([[3.0, 4.0], [0.0, 5.0]], np.float32)
    got = np.array([[3.0, 3.0], [1.0, 5.0]], np.float32)
    found = outcome(got, reference, np.array([0, 1]))
    assert found.squared_errors.tolist() == [1, 1] and found.squared_lengths.tolist() == [25, 25]
    assert found.relative_l2_error == pytest.approx(0.2)
    assert found.agrees.tolist() == [False, True]  # of equal logits the first
    assert found.agreement_percent == 50
    assert found.top1_drop_percent == -50
    assert outcome(got, reference).top1_drop_percent is None


def test_logits_that_are_not_finite_are_wrong() -> None:
    reference = np.array([[3.0, 4.0], [5.0, 0.0]], np.float32)
    got = np.array([[np.nan, 4.0], [5.0, 0.0]], np.float32)
    found = outcome(got, reference, np.array([1, 0]))
    assert not found.is_finite and found.agrees.tolist() == [False, True]
    assert found.top1_drop_percent == 50
    assert bounds(found, 0.05).error == math.inf


def test_bounds_by_hand() -> None:
    """None of 100 disagrees: 1 - 0.05^(1/100)."""
    found = bounds(shares(100, 0), 0.05)
    assert found.agreement_percent == pytest.approx(100 * 0.05**0.01)
    assert found.error == pytest.approx(0.01)
    assert found.top1_drop_percent == pytest.approx(100 * (1 - 0.025**0.01))
    assert bounds(shares(1, 0), 0.05).error == math.inf


def test_what_more_images_would_show() -> None:
    few, many = shares(100, 2, lost=1), shares(400, 8, lost=4)
    expected, shown = bounds(few, 0.05, 400), bounds(many, 0.05)
    assert expected.agreement_percent == pytest.approx(shown.agreement_percent)
    assert expected.top1_drop_percent == pytest.approx(shown.top1_drop_percent)


def test_which_limits_are_kept() -> None:
    found = bounds(shares(400, 0), 0.05)
    assert found.keep(FidelityLimits(min_agreement_percent=99, max_error=0.011))
    assert not found.keep(FidelityLimits(min_agreement_percent=99.5))
    assert not found.keep(FidelityLimits(max_error=0.009))
    assert found.keep(FidelityLimits(max_top1_drop_percent=1))
    unlabelled = outcome(np.ones((5, 2), np.float32), np.ones((5, 2), np.float32))
    assert not bounds(unlabelled, 0.05).keep(FidelityLimits(max_top1_drop_percent=90))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_highest_error_holds(skewed: bool) -> None:
    dice, wrong = np.random.default_rng(5), 0
    for _ in range(300):
        lengths = dice.uniform(50, 150, 64)
        spread = dice.exponential(size=64) if skewed else dice.uniform(0.5, 1.5, 64)
        found = Outcome(lengths * spread * 1e-4, lengths, np.ones(64, bool))
        wrong += bounds(found, ALPHA).error < 0.01
    assert wrong / 300 < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 300)


def test_the_shares_hold() -> None:
    dice, wrong = np.random.default_rng(6), 0
    for _ in range(300):
        agrees = dice.random(300) >= 0.02
        wrong += bounds(Outcome(np.ones(300), np.ones(300), agrees), ALPHA).agreement_percent > 98
    assert wrong / 300 < ALPHA * 1.5


def test_all_candidates_together_have_the_error_of_one() -> None:
    assert sum(level(n) for n in range(1, 10_000)) == pytest.approx(ALPHA, rel=1e-3)
    assert level(1) == ALPHA / 2


def test_how_many_images_can_show_it() -> None:
    for limits in (
        FidelityLimits(min_agreement_percent=99),
        FidelityLimits(max_top1_drop_percent=1),
    ):
        needed = images_needed(limits)
        assert bounds(shares(needed, 0), level(1)).keep(limits)
        assert not bounds(shares(needed - 1, 0), level(1)).keep(limits)
    assert images_needed(FidelityLimits(max_error=0.1)) == 2


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"max_error": 0.0}, "--max-error 0"),
        ({"min_agreement_percent": 100.0}, "--min-agreement 100 cannot be promised"),
        ({"max_top1_drop_percent": float("nan")}, "--max-top1-drop nan"),
    ],
)
def test_what_cannot_be_asked(asked: dict[str, float], told: str) -> None:
    with pytest.raises(StmdeployError, match=told):
        FidelityLimits(**asked)
    assert not FidelityLimits().any and FidelityLimits(max_error=1).any
