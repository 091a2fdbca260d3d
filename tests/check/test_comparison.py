"""When a row has been measured enough, with pairs and a clock that are known."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle, repeat

import pytest

from stmdeploy.check.comparison import Comparison
from stmdeploy.check.gates import MeasuredGate
from stmdeploy.check.side_by_side import Pair
from stmdeploy.check.verdict import ALPHA, Prior, Spending, Verdict, paired_slowdown
from tests.check.pairs import half, pair

PRIOR = Prior(0.01**2, 12)


def compared(
    pairs: Iterable[Pair],
    budget_s: float = 60.0,
    prior: Prior | None = PRIOR,
    gates: list[MeasuredGate] | None = None,
) -> Comparison:
    source = iter(pairs)
    comparison = Comparison(
        lambda: next(source), paired_slowdown, 5.0, budget_s, Spending(ALPHA), prior, gates or []
    )
    while not comparison.finished:
        comparison.step()
    return comparison


@pytest.mark.parametrize(
    ("ratio", "verdict"),
    [(1.0, Verdict.NO_CHANGE), (1.2, Verdict.REGRESSION), (0.8, Verdict.IMPROVEMENT)],
)
def test_a_clear_answer_ends_it_early(ratio: float, verdict: Verdict) -> None:
    found = compared(pair(ratio * noise) for noise in cycle((1.0, 1.005, 0.995)))
    assert found.verdict is verdict
    assert len(found.pairs) == 2


def test_without_a_prior_two_pairs_are_no_answer() -> None:
    found = compared((pair(1.1 * noise) for noise in cycle((1.0, 1.01, 0.99))), prior=None)
    assert found.verdict is Verdict.REGRESSION
    assert len(found.pairs) > 2


def test_it_goes_on_until_the_budget() -> None:
    # Seven pairs take 21 s: an eighth would end 2.5 s nearer to 24 than the seventh to 20.
    found = compared((pair(ratio) for ratio in cycle((0.9, 1.05, 1.2))), budget_s=20.0)
    assert found.verdict is Verdict.CANNOT_TELL
    assert len(found.pairs) == 7


def test_a_budget_for_one_pair_says_nothing() -> None:
    found = compared(repeat(pair(1.3)), budget_s=1.0)
    assert (found.verdict, len(found.pairs)) == (Verdict.CANNOT_TELL, 1)


def test_a_disturbed_pair_is_outweighed() -> None:
    found = compared(pair(ratio) for ratio in (1.0, 1.4, *[1.002, 0.998] * 20))
    assert found.verdict is Verdict.NO_CHANGE
    assert found.typical.percent == pytest.approx(0.0, abs=0.2)


def test_some_slow_inferences_are_a_regression_though_the_typical_one_is_not() -> None:
    """Three of eight turns take twice as long: the median over the turns does not see it."""
    turns = [[1.0, 1.0]] * 5 + [[2.0, 2.0]] * 3
    slow = Pair(half([[1.0, 1.0]] * 8), half(turns), 3.0)
    found = compared(repeat(slow))
    assert found.typical.percent == pytest.approx(0.0, abs=1e-9)
    assert found.overall.percent == pytest.approx(37.5)
    assert found.verdict is Verdict.REGRESSION


def test_a_gate_keeps_it_measuring_until_it_is_settled() -> None:
    gate = MeasuredGate("load", 10.0, Spending(ALPHA))
    loads = cycle((1.0, 1.3, 0.9, 1.1))
    found = compared((pair(1.0, load=next(loads)) for _ in iter(int, 1)), gates=[gate])
    assert found.verdict is Verdict.NO_CHANGE
    assert len(found.pairs) > 2
    assert gate.growth_percent is not None


def test_pairs_differ_no_less_than_their_cycles_say() -> None:
    """A machine that is noisier now than when the baseline was made."""
    noisy = [[1.0], [1.3], [0.8], [1.2], [0.9], [1.1], [0.7], [1.4]]
    found = compared([Pair(half([[1.0]] * 8), half(noisy), 3.0)] * 9, budget_s=6.0)
    assert found.verdict is Verdict.CANNOT_TELL
