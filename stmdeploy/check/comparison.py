"""One row being compared, wave after wave, until its interval answers or its budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stmdeploy.check.side_by_side import Pair, Wave
from stmdeploy.check.verdict import UNKNOWN, Slowdown, Spending, Verdict, judge

#: Takes the pairs' figures so far, wave by wave, and the error probability of this look.
Estimate = Callable[[Sequence[Sequence[float]], float], Slowdown]


@dataclass
class Comparison:
    """A row while it is compared.

    Attributes:
        measure: measures one more wave.
        estimate: computes the slowdown from the figures.
        threshold_percent: a slowdown beyond this is a regression.
        budget_s: measuring time; no wave begins that would end much later.
        spending: the error probability that this row has left.
        pairs, figures: what was measured, and each pair's figure, wave by wave.
        spent_s: measuring time so far.
    """

    measure: Callable[[], Wave]
    estimate: Estimate
    threshold_percent: float
    budget_s: float
    spending: Spending
    pairs: list[Pair] = field(default_factory=list)
    figures: list[list[float]] = field(default_factory=list)
    spent_s: float = 0.0
    slowdown: Slowdown = UNKNOWN
    verdict: Verdict = Verdict.CANNOT_TELL
    finished: bool = False

    def step(self) -> None:
        """Measures one wave, looks, and finishes if that answers or the budget is spent.

        It is known before the last look that it is the last: it spends all the error that is left.
        """
        wave = self.measure()
        self.spent_s += wave.measured_s
        self.pairs += wave.pairs
        self.figures.append(wave.figures)
        last = self.spent_s + self.spent_s / len(self.figures) / 2 > self.budget_s
        level = self.spending.level(1.0 if last else self.spent_s / self.budget_s)
        self.slowdown = self.estimate(self.figures, level)
        self.verdict = judge(self.slowdown, self.threshold_percent)
        self.finished = last or self.verdict is not Verdict.CANNOT_TELL
