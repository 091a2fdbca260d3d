"""Pure statistics over latencies: intervals that account for differences between processes, and
percentiles that need enough samples.

Two processes of the same row differ by more than either varies: memory lies elsewhere, the machine
has moved on. An interval from single samples does not see that. Here the independent observations
are processes (T. Kalibera, R. Jones, Rigorous Benchmarking in Reasonable Time, ISMM 2013), and a
row's figure is the median over them, which one disturbed process in three does not move: its
breakdown point is one half (P. J. Huber, Robust Statistics, 1981, section 1.3).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95
#: With fewer observations not even the whole range is a 95 % interval of the median.
FEWEST_FOR_ORDER = 6
#: The logarithm of how far an interval reaches at most, either way: a millionfold, which says as
#: little as any number beyond it. Student's t of two processes that differ by a second reaches on.
FARTHEST_LOG = math.log(1e6)
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


def student_t(freedom: float, level: float = 1.0 - CONFIDENCE) -> float:
    """The two-sided quantile of Student's t: beyond it lies `level` of the probability."""
    from scipy.special import stdtrit

    return -float(stdtrit(freedom, level / 2.0))


def _around(median: float, half_log: float) -> Interval:
    factor = math.exp(min(half_log, FARTHEST_LOG))
    return Interval(median, median / factor, median * factor)


def row_interval(processes: Sequence[float]) -> Interval:
    """The median over processes of some figure of theirs, with its interval.

    From six processes on, the interval lies between two order statistics (`order_interval`): it is
    right whatever the distribution, outliers and two modes included, and as the number of processes
    is fixed beforehand, no stopping rule touches it. With fewer it is Student's t on logarithms,
    because disturbances multiply a latency, and reaches to every process at least, a millionfold
    at most. One process has an interval of no width: it tells nothing of other processes.

    Args:
        processes: the figure of each, positive, at least one.
    """
    found = order_interval(processes)
    count = len(processes)
    if count == 1 or count >= FEWEST_FOR_ORDER:
        return found
    error = statistics.stdev(map(math.log, processes)) / math.sqrt(count)
    wide = _around(found.median, student_t(count - 1) * error)
    return Interval(found.median, min(found.low, wide.low), max(found.high, wide.high))


def order_interval(samples: Sequence[float]) -> Interval:
    """The median between two order statistics, free of distribution, for independent samples.

    The number of samples below the median is Binomial(n, 1/2) (W. J. Conover, Practical
    Nonparametric Statistics, section 3.2). With fewer than 6 samples, the whole range.
    """
    ordered = sorted(samples)
    count, rank, total = len(ordered), 0, 0.0
    for below in range(count // 2):
        total += math.comb(count, below) / 2**count
        if total > (1.0 - CONFIDENCE) / 2.0:
            break
        rank = below + 1
    low, high = (ordered[rank - 1], ordered[-rank]) if rank else (ordered[0], ordered[-1])
    return Interval(quantile(ordered, 0.5), low, high)


def percentile_floor(share: float) -> int:
    """How many samples a percentile needs before it is shown: 64 for p90, 662 for p99.

    The rule of MLPerf LoadGen's early stopping: the smallest n of which at most one would lie
    beyond the latency with a probability of 1 % or less, if only `share` of all runs kept it.
    """
    beyond = 1.0 - share
    count = _TAIL_BEYOND + 1
    while share**count + count * beyond * share ** (count - 1) > 1.0 - _TAIL_CONFIDENCE:
        count += 1
    return count
