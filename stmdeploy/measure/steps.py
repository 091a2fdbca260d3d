"""Steps in a series: where the level of noisy figures changed, if it did.

The series is fitted by constant pieces: the sum of absolute distances from each piece's median, and
a penalty for every piece, is least (an L1 Potts functional, as asv fits it; solved exactly by
dynamic programming: B. Jackson et al., An algorithm for optimal partitioning of data on an
interval, IEEE Signal Process. Lett. 12, 2005). Absolute distances let one bad night be one bad
night. The penalty is in units of the noise, which the differences of neighbours tell: a step is one
difference among many, so their median hardly knows of it.

Pieces are at least `FEWEST` long: what is seen in fewer figures may be gone tomorrow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush, heappushpop
from itertools import pairwise

#: Figures of the shortest piece.
FEWEST = 4
#: A piece costs so many times the noise, times the logarithm of how many figures there are. With
#: it, fewer than one in twenty steady series of 20 to 200 figures has a step, and nine in ten with
#: a step of two and a half times the noise in the middle of 40 are found
#: (tests/measure/test_steps.py).
_PENALTY = 1.6
#: The median absolute deviation of normal figures over their standard deviation.
_MAD = 0.6745


@dataclass(frozen=True)
class Step:
    """A change of level.

    Attributes:
        at: place of the first figure of the new level.
        before, after: medians of the pieces on either side.
    """

    at: int
    before: float
    after: float

    @property
    def percent(self) -> float:
        """How much more the figures are after it than before, in per cent."""
        return 100 * (self.after / self.before - 1)


def steps(figures: Sequence[float]) -> list[Step]:
    """The steps of a series of positive figures, the earliest first; none of fewer than twice
    `FEWEST`."""
    logs = [math.log(figure) for figure in figures]
    if len(logs) < 2 * FEWEST:
        return []
    noise = _noise(logs)
    edges = _edges(logs, _PENALTY * noise * math.log(len(logs)))
    pieces = [figures[a:b] for a, b in pairwise(edges)]
    levels = [statistics.median(piece) for piece in pieces]
    return [
        Step(at, before, after)
        for at, (before, after) in zip(edges[1:-1], pairwise(levels), strict=True)
    ]


def _noise(logs: Sequence[float]) -> float:
    """The standard deviation of the figures, told by the differences of neighbours; never 0."""
    apart = [abs(b - a) for a, b in pairwise(logs)]
    return max(statistics.median(apart) / _MAD / math.sqrt(2), 1e-9)


def _edges(logs: Sequence[float], penalty: float) -> list[int]:
    """Where the pieces of the best fit begin and end, both ends of the series included."""
    count = len(logs)
    least = [math.inf] * (count + 1)
    least[0] = -penalty
    came_from = [0] * (count + 1)
    for end in range(FEWEST, count + 1):
        for begin, cost in _costs(logs, end):
            whole = least[begin] + cost + penalty
            if whole < least[end]:
                least[end], came_from[end] = whole, begin
    edges = [count]
    while edges[-1]:
        edges.append(came_from[edges[-1]])
    return edges[::-1]


def _costs(logs: Sequence[float], end: int) -> Iterator[tuple[int, float]]:
    """The sum of absolute distances from the median, of every piece that ends there.

    The lower and the upper half are heaps, so that a piece that grows by one is not sorted anew;
    the lower half, its values negated, is as large as the upper one or has one more.
    """
    low: list[float] = []
    high: list[float] = []
    below = above = 0.0
    for begin in range(end - 1, -1, -1):
        one = heappushpop(high, logs[begin]) if high else logs[begin]
        above += logs[begin] - one
        heappush(low, -one)
        below += one
        if len(low) > len(high) + 1:
            one = -heappop(low)
            below -= one
            heappush(high, one)
            above += one
        if end - begin >= FEWEST:
            yield begin, above - below - (low[0] if len(low) > len(high) else 0.0)
