"""Pure statistics of the check: intervals of a slowdown that hold at every look, and verdicts.

A pair is a fresh process of the baseline and one of the candidate that took turns. It has two
figures, both logarithms of how much slower the candidate was: of the *typical* inference (the
median over the cycles of turns, each turn by its median), and *overall* (of the means of all its
inferences, none left out), which sees what a candidate does to a few of its own inferences. Typical
are those inferences that others left alone, unless one of the sides disturbs itself (`calm`).
Processes of the same model differ (memory lies elsewhere), so pairs are the independent
observations. Now and then a process is off by a tenth, so their mean is trimmed by an eighth at
either end, and Student's t bounds it with the winsorised variance (J. W. Tukey, D. H. McLaughlin,
Less vulnerable confidence and significance procedures for location, Sankhya A 25, 1963).

A few pairs say little of their own spread. What is known of it beforehand, from the pairs that the
baseline keeps, is pooled with theirs by degrees of freedom, unless theirs is significantly larger.

Looking again and again and stopping when the answer is clear would make false alarms more frequent
than one look does. So each look has a level of its own: of the error that a row has, look number n
spends 1 / (n (n + 1)), and the last one whatever is left. A look whose interval is too wide to
decide anything is not taken and spends nothing; that depends on the spread alone, not on what was
found. Rows share the error in equal parts, and so do a row's slowdown and gates. All of that is
Bonferroni's inequality, which asks for no independence: with a probability of at least 1 - `ALPHA`,
no interval of any row at any look misses the true slowdown.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain

from stmdeploy.measure.calm import Taken, compared
from stmdeploy.measure.contrasts import cycle_differences, wave_difference
from stmdeploy.measure.statistics import student_t

#: The probability that any interval of a whole check is wrong, half of it in either direction. A
#: candidate that is slower by exactly its threshold is called a regression in at most 2.5 % of the
#: checks, and an equal one hardly ever: its interval would have to miss by the whole threshold.
ALPHA = 0.05
#: What the slowdown of the typical inference and that of all of them may spend of a row's error.
#: Other programs disturb the second by chance, and hardly any candidate needs it to be found. The
#: rest is kept: the figures of real pairs have longer tails than Student's t allows for.
TYPICAL_SHARE, OVERALL_SHARE = 0.5, 0.05
#: One in so many of the sorted figures is cut off at either end.
_TRIM = 8
#: A slowdown beyond this logarithm is infinite: a look at a very small level may get there.
_LARGEST_LOG = 100.0
#: With fewer pairs, or stored figures, nothing is known of their spread: no look is taken.
FEWEST_PAIRS = 2
#: So many earlier pairs make a prior; it counts for no more than so many degrees of freedom.
_FEWEST_PRIOR, _MOST_PRIOR = 6, 12
#: The present spread is significantly larger than the prior one at this level.
_PRIOR_FAILS = 0.05
#: A median's variance over that of a mean, for normal samples.
_MEDIAN_VARIANCE = math.pi / 2
#: Error of stored numbers that the calibration workload does not correct: a machine in another
#: state is not slower by the same factor for everything, and one measurement cannot tell by how
#: much. It is added to the threshold.
APART_PERCENT = 5.0


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


@dataclass(frozen=True)
class Figures:
    """What one pair says.

    Attributes:
        typical, overall: logarithms of the candidate's latency over the baseline's.
        noise: variance that `typical` has from the spread of its cycles alone.
    """

    typical: float
    overall: float
    noise: float = 0.0


def figures_of(baseline: Taken, candidate: Taken) -> Figures:
    """The figures of a pair, from as many turns of either side."""
    after, before = compared(candidate, baseline)
    cycles = cycle_differences(after, before)
    spread = statistics.variance(cycles) if len(cycles) > 1 else 0.0
    means = [statistics.fmean(chain.from_iterable(one.durations)) for one in (candidate, baseline)]
    return Figures(
        typical=wave_difference(after, before),
        overall=math.log(means[0] / means[1]),
        noise=_MEDIAN_VARIANCE * spread / max(1, len(cycles)),
    )


def as_slowdown(log_ratio: float, half_log: float) -> Slowdown:
    """A logarithm of a ratio, and the half-width of its interval, as a slowdown in per cent."""
    edges = (log_ratio, log_ratio - half_log, log_ratio + half_log)
    return Slowdown(
        *(100.0 * math.expm1(edge) if edge < _LARGEST_LOG else math.inf for edge in edges)
    )


@dataclass(frozen=True)
class Prior:
    """What is known beforehand of pairs: their variance, and its degrees of freedom."""

    variance: float
    freedom: float


def prior_of(figures: Sequence[float]) -> Prior | None:
    """The prior that earlier pairs give; None if they are too few."""
    if len(figures) < _FEWEST_PRIOR:
        return None
    found = locate(figures)
    return Prior(found.error**2 * len(figures), min(found.freedom, _MOST_PRIOR))


@dataclass(frozen=True)
class Location:
    """A trimmed mean of logarithms, its standard error, and the error's degrees of freedom."""

    mean: float
    error: float
    freedom: float


def locate(figures: Sequence[float], prior: Prior | None = None) -> Location:
    """The mean of at least two figures, an eighth cut off at either end, and how exact it is."""
    ordered, count = sorted(figures), len(figures)
    cut = count // _TRIM
    kept = ordered[cut : count - cut]
    winsorised = [kept[0]] * cut + kept + [kept[-1]] * cut
    error = statistics.stdev(winsorised) / (len(kept) / count) / math.sqrt(count)
    own = Location(statistics.fmean(kept), error, len(kept) - 1)
    return own if prior is None else with_prior(own, count, prior)


def with_prior(own: Location, count: int, prior: Prior) -> Location:
    """A location of so many figures, its error pooled with a prior by degrees of freedom, unless
    its own variance is significantly larger."""
    from scipy.special import fdtrc

    variance = own.error**2 * count
    if prior.variance <= 0.0 or (
        fdtrc(own.freedom, prior.freedom, variance / prior.variance) < _PRIOR_FAILS
    ):
        return own
    freedom = own.freedom + prior.freedom
    pooled = (own.freedom * variance + prior.freedom * prior.variance) / freedom
    return Location(own.mean, math.sqrt(pooled / count), freedom)


def paired_slowdown(figures: Sequence[float], level: float, prior: Prior | None) -> Slowdown:
    """The slowdown found by pairs, at one look that may be wrong with probability `level`."""
    if len(figures) < FEWEST_PAIRS:
        return UNKNOWN
    found = locate(figures, prior)
    return as_slowdown(found.mean, student_t(found.freedom, level) * found.error)


def unpaired_slowdown(before: Sequence[float], figures: Sequence[float], level: float) -> Slowdown:
    """The slowdown between two measurements that were made apart: Welch's t (B. L. Welch,
    Biometrika 34, 1947). It does not include what the calibration workload cannot correct; see
    `APART_PERCENT`.

    Args:
        before: the figure of every stored pair: the logarithm of the latency over that of the
            calibration workload beside it.
        figures: those of the pairs now, of the same kind.
        level: the probability that this look may be wrong.
    """
    if min(len(before), len(figures)) < FEWEST_PAIRS:
        return UNKNOWN
    old, new = locate(before), locate(figures)
    error = math.hypot(old.error, new.error)
    weights = sum(side.error**4 / side.freedom for side in (old, new))
    freedom = error**4 / weights if weights else min(old.freedom, new.freedom)
    return as_slowdown(new.mean - old.mean, student_t(freedom, level) * error)


class Spending:
    """An error probability that is spent look by look."""

    def __init__(self, alpha: float) -> None:
        self._alpha, self._looks = alpha, 0

    def level(self, *, last: bool) -> float:
        """The error probability that the next look may spend; the last one spends all that is
        left."""
        looks = self._looks + 1
        return self._alpha / (looks if last else looks * (looks + 1))

    def take(self) -> None:
        """A look was taken: its level is spent."""
        self._looks += 1


def can_decide(slowdown: Slowdown, threshold_percent: float) -> bool:
    """Whether an interval is narrow enough to lie within the threshold, wherever it lies."""
    if not math.isfinite(slowdown.high_percent):
        return False
    low, high = (1.0 + edge / 100.0 for edge in (slowdown.low_percent, slowdown.high_percent))
    return high / low <= (1.0 + threshold_percent / 100.0) ** 2


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


def judge_both(typical: Slowdown, overall: Slowdown, threshold_percent: float) -> Verdict:
    """The verdict on the typical inference and on all of them.

    A regression of either is one. What the typical inference shows otherwise holds unless the
    candidate seems to be slower overall by more than the threshold, and surely by more than the
    typical inference is.
    """
    verdict, on_the_whole = (judge(one, threshold_percent) for one in (typical, overall))
    if Verdict.REGRESSION in (verdict, on_the_whole):
        return Verdict.REGRESSION
    if overall.percent > threshold_percent and overall.low_percent > typical.percent:
        return Verdict.CANNOT_TELL
    return verdict
