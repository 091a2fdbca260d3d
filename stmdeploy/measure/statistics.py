"""Pure statistics over latencies: medians, intervals, and percentiles with their floors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
#: Percentiles that a row may carry beside the median.
PERCENTILES = (0.90, 0.95, 0.99)
#: MLPerf LoadGen's confidence for tail latencies, and the samples that must lie beyond.
_TAIL_CONFIDENCE = 0.99
_TAIL_BEYOND = 1


@dataclass(frozen=True)
class Interval:
    """A median with a 95 % confidence interval, in the unit of the samples."""

    median: float
    low: float
    high: float

    @property
    def half_width_percent(self) -> float:
        """Half the interval's width, in per cent of the median."""
        return 50.0 * (self.high - self.low) / self.median if self.median else math.inf


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted samples, interpolated between neighbours (Hyndman-Fan type 7)."""
    position = share * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def _binomial_tail_rank(count: int, confidence: float) -> int:
    """The largest r with P(Binomial(count, 1/2) < r) <= (1 - confidence) / 2; 0 if none."""
    budget = (1.0 - confidence) / 2.0
    log_half = count * math.log(0.5)
    total, rank = 0.0, 0
    for successes in range(count // 2):
        log_ways = (
            math.lgamma(count + 1) - math.lgamma(successes + 1) - math.lgamma(count - successes + 1)
        )
        total += math.exp(log_ways + log_half)
        if total > budget:
            break
        rank = successes + 1
    return rank


def median_interval(samples: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The median and its distribution-free interval between two order statistics.

    The interval [x_(r), x_(n+1-r)] holds the median of independent samples with at least the
    stated confidence, because the number of samples below it is Binomial(n, 1/2)
    (W. J. Conover, Practical Nonparametric Statistics, section 3.2). It speaks of the process
    that was sampled; what differs between processes is not in it.

    Args:
        samples: at least one value.

    Returns:
        The interval; the whole range of the samples where there are too few (fewer than 6)
        for the confidence asked.
    """
    ordered = sorted(samples)
    rank = _binomial_tail_rank(len(ordered), confidence)
    low, high = (ordered[rank - 1], ordered[-rank]) if rank else (ordered[0], ordered[-1])
    return Interval(quantile(ordered, 0.5), low, high)


def percentile_floor(share: float) -> int:
    """How many samples a percentile needs before it is shown: 64 for p90, 662 for p99.

    The rule of MLPerf LoadGen's early stopping: the smallest n for which, if the true share
    of runs within the latency were only `share`, one or fewer runs beyond it would be seen
    with a probability of at most 1 %.
    """
    beyond = 1.0 - share
    count = _TAIL_BEYOND + 1
    while share**count + count * beyond * share ** (count - 1) > 1.0 - _TAIL_CONFIDENCE:
        count += 1
    return count


def percentiles(samples: Sequence[float]) -> dict[float, float]:
    """Those of `PERCENTILES` for which there are enough samples, by share."""
    ordered = sorted(samples)
    return {p: quantile(ordered, p) for p in PERCENTILES if len(ordered) >= percentile_floor(p)}
