"""Contrasts: how many times slower one row is than another, out of turns that they took.

Rows that are compared are alive at once, and their processes take turns: a *cycle* is one turn of
each. What slows the machine down for a while slows down all turns of a cycle, so a cycle gives a
difference of logarithms for each pair of rows that hardly knows of it; the median over the cycles
of a *wave* is what that wave says. The next wave is of fresh processes (memory lies elsewhere), so
waves are the independent observations, and Student's t bounds their mean.

Six waves tell little of how far those of a pair lie apart. Pairs of one kind are mostly alike in
that, so each pair's variance is drawn towards that of all, the more the more alike they are, which
the variances themselves tell (G. K. Smyth, Linear models and empirical Bayes methods, Stat. Appl.
Genet. Mol. Biol. 3, 2004). Where slow spells hit some rows alone, pairs keep their own.

Where all pairs of rows are looked at, some will differ by chance. Groups are therefore told apart
by simultaneous intervals (J. W. Tukey, The problem of multiple comparisons, 1953; C. Y. Kramer,
Biometrics 12, 1956), each pair with its own variance, for slow spells may hit some rows alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from string import ascii_letters

from stmdeploy.measure.statistics import CONFIDENCE, FARTHEST_LOG, student_t

#: With fewer waves there is no spread to speak of, and no interval.
FEWEST_WAVES = 3
#: With fewer cycles that both rows have calm inferences in, those of the whole wave are compared.
_FEWEST_CYCLES = 3
#: Pairs that tell how much their variances differ: those of four rows.
_FEWEST_PAIRS = 6
#: Degrees of freedom of what is known from other pairs, at most.
_MOST_WEIGHT = 15.0
#: What one row took in one wave: the durations of every turn, in any one unit.
Turns = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Ratio:
    """Latency over that of another row, with a 95 % confidence interval."""

    ratio: float
    low: float
    high: float

    @property
    def half_width_percent(self) -> float:
        """Half of the interval's width, in per cent of the ratio."""
        return 50.0 * (self.high - self.low) / self.ratio


@dataclass(frozen=True)
class Contrast:
    """A difference of two rows' logarithms of latency, its standard error, and the degrees of
    freedom of that."""

    difference: float
    error: float
    freedom: float

    def __sub__(self, other: Contrast) -> Contrast:
        """The contrast of two rows that took no turns with each other, but with the same third row
        (B. L. Welch, Biometrika 34, 1947)."""
        error = math.hypot(self.error, other.error)
        weights = sum(one.error**4 / one.freedom for one in (self, other))
        freedom = error**4 / weights if weights else min(self.freedom, other.freedom)
        return Contrast(self.difference - other.difference, error, freedom)

    def turned(self) -> Contrast:
        """Of the other row with the first."""
        return Contrast(-self.difference, self.error, self.freedom)

    def ratio(self) -> Ratio:
        """As a ratio, with its own 95 % interval (Student's t)."""
        half = min(student_t(self.freedom) * self.error, FARTHEST_LOG)
        return Ratio(*(math.exp(self.difference + step) for step in (0.0, -half, half)))

    def tells_apart(self, rows: int) -> bool:
        """Whether the two differ, where all pairs of so many rows are judged at once."""
        limit = _studentized_range(rows, self.freedom) / math.sqrt(2) * self.error
        return abs(self.difference) > limit


@cache
def _studentized_range(rows: int, freedom: float) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(CONFIDENCE, rows, freedom))


def wave_difference(row: Turns, other: Turns) -> float:
    """The logarithm of a row's latency over another's in one wave: the median over its cycles; or,
    where few cycles have something of both, that of their medians over the whole wave.

    Args:
        row, other: as many turns of either; those of one cycle stand at the same place. A turn may
            be empty, but not all of them.
    """
    differences = cycle_differences(row, other)
    if len(differences) < min(_FEWEST_CYCLES, len(row)):
        whole = [[*chain.from_iterable(one)] for one in (row, other)]
        differences = cycle_differences(whole[:1], whole[1:])
    return statistics.median(differences)


def cycle_differences(row: Turns, other: Turns) -> list[float]:
    """The logarithm of a row's median latency over another's, of every cycle that has both."""
    return [
        math.log(statistics.median(mine) / statistics.median(theirs))
        for mine, theirs in zip(row, other, strict=True)
        if mine and theirs
    ]


def contrasts(pairs: Sequence[Sequence[float]]) -> list[Contrast]:
    """What pairs of rows come to that were in the same waves.

    Args:
        pairs: of every pair of one kind the `wave_difference` of at least `FEWEST_WAVES` waves.
    """
    variances = [statistics.variance(differences) for differences in pairs]
    freedoms = [len(differences) - 1 for differences in pairs]
    usual, weight = _usual_variance(variances, freedoms)
    found = []
    for differences, variance, freedom in zip(pairs, variances, freedoms, strict=True):
        drawn = (weight * usual + freedom * variance) / (weight + freedom)
        error = math.sqrt(drawn / len(differences))
        found.append(Contrast(statistics.fmean(differences), error, weight + freedom))
    return found


def _usual_variance(variances: Sequence[float], freedoms: Sequence[int]) -> tuple[float, float]:
    """The variance that pairs have in common, and how many degrees of freedom it is worth.

    The logarithm of a variance has a spread of its own, which is known; only what they differ by
    beyond that is a difference of the pairs.
    """
    known = [(variance, freedom) for variance, freedom in zip(variances, freedoms, strict=True)
             if variance > 0.0]  # fmt: skip
    if len(known) < _FEWEST_PAIRS:
        return 0.0, 0.0
    from scipy.optimize import brentq
    from scipy.special import digamma, polygamma

    logs = [math.log(variance) - _log_bias(digamma, freedom) for variance, freedom in known]
    own = statistics.fmean(float(polygamma(1, freedom / 2)) for _, freedom in known)
    beyond = statistics.variance(logs) - own
    if beyond <= polygamma(1, _MOST_WEIGHT / 2):
        weight = _MOST_WEIGHT
    else:
        half = brentq(lambda y: float(polygamma(1, y)) - beyond, 1e-6, _MOST_WEIGHT / 2)
        weight = 2.0 * float(half)
    return math.exp(statistics.fmean(logs) + _log_bias(digamma, weight)), weight


def _log_bias(digamma: Callable[[float], float], freedom: float) -> float:
    """The mean logarithm of a variance that is 1, estimated with so many degrees of freedom."""
    return float(digamma(freedom / 2)) - math.log(freedom / 2)


def letters(
    latencies: Mapping[int, float], apart: Collection[tuple[int, int]], first: int = 0
) -> dict[int, str]:
    """Rows in groups, by letters: two rows that share a letter cannot be told apart.

    Groups are the largest sets in which no two rows differ (insert and absorb; H.-P. Piepho,
    J. Comput. Graph. Stat. 13, 2004).

    Args:
        latencies: of every row; the fastest is in group ``a``.
        apart: the pairs that differ.
        first: letters that are others' already.
    """
    groups: list[frozenset[int]] = [frozenset(latencies)]
    for pair in apart:
        split = {half for group in groups for half in _without_both(group, pair)}
        groups = [group for group in split if not any(group < other for other in split)]
    groups.sort(key=lambda group: sorted(latencies[row] for row in group))
    return {
        row: "".join(_letter(first + i) for i, group in enumerate(groups) if row in group)
        for row in latencies
    }


def _without_both(group: frozenset[int], pair: tuple[int, int]) -> list[frozenset[int]]:
    if not group.issuperset(pair):
        return [group]
    return [group - {row} for row in pair]


def _letter(number: int) -> str:
    """``a`` to ``z``, ``A`` to ``Z``, and after those Greek ones."""
    if number < len(ascii_letters):
        return ascii_letters[number]
    return chr(ord("\N{GREEK SMALL LETTER ALPHA}") + number - len(ascii_letters))
