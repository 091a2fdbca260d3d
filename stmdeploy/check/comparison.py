"""One row being compared, pair after pair, until its intervals answer or its budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stmdeploy.check.gates import MeasuredGate
from stmdeploy.check.side_by_side import Pair
from stmdeploy.check.verdict import (
    OVERALL_SHARE,
    TYPICAL_SHARE,
    UNKNOWN,
    Figures,
    Prior,
    Slowdown,
    Spending,
    Verdict,
    can_decide,
    figures_of,
    judge_both,
)

#: Takes a figure of every pair so far, the error probability of this look, and what is known of
#: the spread of pairs.
Estimate = Callable[[Sequence[float], float, Prior | None], Slowdown]


@dataclass
class Comparison:
    """A row while it is compared.

    Attributes:
        measure: measures one more pair.
        estimate: computes the slowdown from the figures.
        threshold_percent: a slowdown beyond this is a regression.
        budget_s: measuring time; no pair begins that would end much later.
        spending: the error probability that this row has left for its latency.
        prior: what is known of the spread of pairs.
        gates: what else is judged by the pairs; they are measured until these are settled, too.
        pairs, figures: what was measured, and each pair's figures.
        spent_s: measuring time so far.
        typical, overall: the slowdown at the last look.
    """

    measure: Callable[[], Pair]
    estimate: Estimate
    threshold_percent: float
    budget_s: float
    spending: Spending
    prior: Prior | None = None
    gates: list[MeasuredGate] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    figures: list[Figures] = field(default_factory=list)
    spent_s: float = 0.0
    typical: Slowdown = UNKNOWN
    overall: Slowdown = UNKNOWN
    verdict: Verdict = Verdict.CANNOT_TELL
    finished: bool = False

    def step(self) -> None:
        """Measures one pair, looks if that may decide, and finishes if it does or if the budget is
        spent.

        It is known before the last look that it is the last: it spends all the error that is left.
        """
        pair = self.measure()
        self.spent_s += pair.measured_s
        self.pairs.append(pair)
        self.figures.append(figures_of(pair.baseline.taken, pair.candidate.taken))
        last = self.spent_s + self.spent_s / len(self.pairs) / 2 > self.budget_s
        level = self.spending.level(last=last)
        typical = self.estimate(
            [one.typical for one in self.figures], TYPICAL_SHARE * level, self._prior_now()
        )
        open_still = self.verdict is Verdict.CANNOT_TELL
        if open_still and (last or can_decide(typical, self.threshold_percent)):
            self.spending.take()
            self.typical = typical
            self.overall = self.estimate(
                [one.overall for one in self.figures], OVERALL_SHARE * level, None
            )
            self.verdict = judge_both(typical, self.overall, self.threshold_percent)
        for gate in self.gates:
            if not gate.settled:
                gate.look(self.pairs, last=last)
        answered = self.verdict is not Verdict.CANNOT_TELL
        broken = self.verdict is Verdict.REGRESSION
        settled = all(gate.settled for gate in self.gates)
        self.finished = last or broken or (answered and settled)

    def _prior_now(self) -> Prior | None:
        """The prior; but pairs differ no less than their own cycles say now."""
        if self.prior is None:
            return None
        noise = sum(one.noise for one in self.figures) / len(self.figures)
        return Prior(max(self.prior.variance, noise), self.prior.freedom)
