"""Pure statistics over latencies: intervals that account for drift and for differences between
processes, and percentiles that need enough samples.

Latencies of one process are not independent: the machine drifts. And two processes of the same
row differ by more than either varies: memory lies elsewhere, the machine has moved on. An
interval from single samples sees neither. Here a process is cut into ten sections in the order of
time (sectioning; S. Asmussen, P. Glynn, Stochastic Simulation, 2007, section III.5), and a row is
several processes, whose medians are the independent observations (T. Kalibera, R. Jones, Rigorous
Benchmarking in Reasonable Time, ISMM 2013). Both work on logarithms, because disturbances multiply
a latency.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

CONFIDENCE = 0.95
#: Percentiles that a row may carry beside the median.
PERCENTILES = (0.90, 0.95, 0.99)
#: MLPerf LoadGen's confidence for tail latencies, and the samples that must lie beyond.
_TAIL_CONFIDENCE = 0.99
_TAIL_BEYOND = 1
#: Sections of a process, and the fewest samples that can be cut into them.
_SECTIONS, _FEWEST_TO_CUT = 10, 40
#: Student's t for so many sections, two-sided 95 %: a constant, so that a process that measures
#: need not load SciPy.
_SECTIONS_T = 2.2621572


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
    return Interval(median, median * math.exp(-half_log), median * math.exp(half_log))


def process_interval(samples: Sequence[float]) -> Interval:
    """The median of one process, with the interval that its own drift leaves.

    The interval comes from the spread of the medians of ten sections, in the order of time, around
    the median of all; with fewer than 40 samples, from order statistics (`order_interval`).

    Args:
        samples: at least one, positive, in the order they were taken.
    """
    if len(samples) < _FEWEST_TO_CUT:
        return order_interval(samples)
    median = quantile(sorted(samples), 0.5)
    edges = [round(i * len(samples) / _SECTIONS) for i in range(_SECTIONS + 1)]
    squares = sum(
        math.log(quantile(sorted(samples[a:b]), 0.5) / median) ** 2 for a, b in pairwise(edges)
    )
    return _around(median, _SECTIONS_T * math.sqrt(squares / (_SECTIONS - 1) / _SECTIONS))


def row_interval(processes: Sequence[Sequence[float]]) -> Interval:
    """The median of a row: the geometric mean of its processes' medians, with its interval.

    The interval is Student's t over the processes. A few can agree by chance, so it is never
    narrower than their own intervals, taken together. A single process has only its own.

    Args:
        processes: the samples of each, at least one process.
    """
    own = [process_interval(samples) for samples in processes]
    if len(own) == 1:
        return own[0]
    logs = [math.log(interval.median) for interval in own]
    between = student_t(len(own) - 1) * statistics.stdev(logs) / math.sqrt(len(own))
    halves = [(math.log(interval.high) - math.log(interval.low)) / 2 for interval in own]
    within = math.sqrt(sum(half**2 for half in halves)) / len(own)
    return _around(math.exp(statistics.fmean(logs)), max(between, within))


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


def percentiles(samples: Sequence[float]) -> dict[float, float]:
    """The `PERCENTILES` that there are enough samples for, by share."""
    ordered = sorted(samples)
    return {p: quantile(ordered, p) for p in PERCENTILES if len(ordered) >= percentile_floor(p)}
