"""Pure statistics of the check: intervals of a slowdown that hold at every look, and verdicts.

A pair is a fresh process of the baseline and one of the candidate that took turns. Its figure is
one number, the logarithm of how much slower the candidate was. Processes of the same model
differ (memory lies elsewhere), so pairs are the independent observations. Now and then a process
is off by a tenth, so their mean is trimmed by an eighth at either end, and Student's t bounds it
with the winsorised variance (J. W. Tukey, D. H. McLaughlin, Less vulnerable confidence and
significance procedures for location, Sankhya A 25, 1963).

Looking again and again and stopping when the answer is clear would make false alarms more
frequent than one look does. The error that is allowed is therefore spent look by look, by the
square of the share of the budget that is used (K. K. G. Lan, D. L. DeMets, Discrete sequential
boundaries for clinical trials, Biometrika 70, 1983; K. Kim, D. L. DeMets, Biometrika 74, 1987,
the power family with exponent 2), and each look has a level of its own. Rows share the error in
equal parts. Both are Bonferroni's inequality, which asks for no independence: with a probability
of at least 1 - `ALPHA`, no interval of any row at any look misses the true slowdown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from stmdeploy.measure.statistics import student_t
from stmdeploy.measure.turns import Inference

#: The probability that any interval of a whole check is wrong, half of it in either direction. A
#: candidate that is slower by exactly its threshold is called a regression in at most 2.5 % of the
#: checks, and an equal one hardly ever: its interval would have to miss by the whole threshold.
ALPHA = 0.05
#: One in so many of the sorted figures is cut off at either end.
_TRIM = 8
#: A slowdown beyond this logarithm is infinite: a first look, at a very small level, may get there.
_LARGEST_LOG = 100.0
#: The error spent is this power of the share of the budget used: early looks spend little.
_SPENDING_POWER = 2
#: With fewer pairs, or waves of stored numbers, their spread is not known: no look is taken.
FEWEST_PAIRS = 3
#: Error of stored numbers that the calibration workload does not correct: a machine in another
#: state is not slower by the same factor for everything, and one measurement cannot tell by how
#: much. It is added to the threshold.
APART_PERCENT = 5.0
#: With so many calm inferences on each side, all others are left out.
_ENOUGH_CALM = 5


class Verdict(StrEnum):
    """The answer of a comparison."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    NO_CHANGE = "no change"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Slowdown:
    """How much slower the candidate is, in per cent, with its interval; faster is negative.

    An infinite upper bound means that nothing is known yet.
    """

    percent: float
    low_percent: float
    high_percent: float


UNKNOWN = Slowdown(0.0, -100.0, math.inf)


def pair_figure(baseline: Sequence[Inference], candidate: Sequence[Inference]) -> float:
    """Logarithm of the candidate's latency over the baseline's, each a median of calm inferences.

    If one side has too few of those, it takes the fastest of equally many inferences of each side:
    what disturbs a process does not disturb all of its inferences, unless the process does it
    itself, with more threads than there are processors; then its fastest one is slow, too.

    Args:
        baseline, candidate: the inferences of one process each, at least one.
    """
    sides = [[one.duration_ns for one in side if one.calm] for side in (baseline, candidate)]
    if min(map(len, sides)) >= _ENOUGH_CALM:
        before, after = (statistics.median(side) for side in sides)
    else:
        # Of more inferences the fastest is faster.
        count = min(len(baseline), len(candidate))
        before, after = (
            min(side[i * len(side) // count].duration_ns for i in range(count))
            for side in (baseline, candidate)
        )
    return math.log(after / before)


def as_slowdown(log_ratio: float, half_log: float) -> Slowdown:
    """A logarithm of a ratio, and the half-width of its interval, as a slowdown in per cent."""
    edges = (log_ratio, log_ratio - half_log, log_ratio + half_log)
    return Slowdown(
        *(100.0 * math.expm1(edge) if edge < _LARGEST_LOG else math.inf for edge in edges)
    )


@dataclass(frozen=True)
class Location:
    """A trimmed mean of logarithms, its standard error, and the error's degrees of freedom."""

    mean: float
    error: float
    freedom: int


def locate(figures: Sequence[float]) -> Location:
    """The mean of at least two figures, an eighth cut off at either end, and how exact it is."""
    ordered, count = sorted(figures), len(figures)
    cut = count // _TRIM
    kept = ordered[cut : count - cut]
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorised) / (len(kept) / count) / math.sqrt(count)
    return Location(statistics.fmean(kept), error, len(kept) - 1)


def paired_slowdown(waves: Sequence[Sequence[float]], level: float) -> Slowdown:
    """The slowdown found by pairs, at one look that may be wrong with probability `level`.

    Args:
        waves: the figures of the pairs of every wave.
    """
    figures = [figure for wave in waves for figure in wave]
    if len(figures) < FEWEST_PAIRS:
        return UNKNOWN
    found = locate(figures)
    return as_slowdown(found.mean, student_t(found.freedom, level) * found.error)


def unpaired_slowdown(
    before: Sequence[float], waves: Sequence[Sequence[float]], level: float
) -> Slowdown:
    """The slowdown between two measurements that were made apart.

    Welch's t (B. L. Welch, Biometrika 34, 1947) over the means of waves. It does not include what
    the calibration workload cannot correct; see `APART_PERCENT`.

    Args:
        before: the mean figure of every stored wave: the logarithm of the latency over that of the
            calibration workload beside it.
        waves: the figures of the pairs of every wave now, of the same kind.
        level: the probability that this look may be wrong.
    """
    after = [statistics.fmean(wave) for wave in waves]
    if min(len(before), len(after)) < FEWEST_PAIRS:
        return UNKNOWN
    old, new = locate(before), locate(after)
    error = math.hypot(old.error, new.error)
    weights = sum(side.error**4 / side.freedom for side in (old, new))
    freedom = error**4 / weights if weights else min(old.freedom, new.freedom)
    return as_slowdown(new.mean - old.mean, student_t(freedom, level) * error)


class Spending:
    """The error probability of one of `rows` rows that share `ALPHA`, spent look by look."""

    def __init__(self, rows: int) -> None:
        self._alpha, self._spent = ALPHA / rows, 0.0

    def level(self, share_of_budget: float) -> float:
        """The error probability that the next look may spend.

        Args:
            share_of_budget: share that is used by then, more at each look; 1 spends all the rest.
        """
        share = min(1.0, share_of_budget) ** _SPENDING_POWER
        level = self._alpha * (share - self._spent)
        self._spent = share
        return level


def judge(slowdown: Slowdown, threshold_percent: float) -> Verdict:
    """The verdict that an interval allows.

    A regression or an improvement needs the whole interval beyond the threshold, which as a ratio
    is as far in either direction; no change needs the whole interval within it.
    """
    beyond = 1.0 + threshold_percent / 100.0
    low, high = 1.0 + slowdown.low_percent / 100.0, 1.0 + slowdown.high_percent / 100.0
    if low > beyond:
        return Verdict.REGRESSION
    if high < 1.0 / beyond:
        return Verdict.IMPROVEMENT
    if low >= 1.0 / beyond and high <= beyond:
        return Verdict.NO_CHANGE
    return Verdict.CANNOT_TELL
