"""Races: which of many ways to run a model is best, others dropped as soon as that is sure.

All that are left run in every wave. After each wave every other one is compared with the leader by
a one-sided bound on the logarithm of their ratio, and dropped where even its lower end is above 0
(successive elimination: E. Even-Dar, S. Mannor, Y. Mansour, Action Elimination and Stopping
Conditions for the Multi-Armed Bandit, JMLR 7, 2006). So the time goes to those that are close, and
a race takes time in proportion to how many there are.

The error is spent as in the check: look number n has 1 / (n (n + 1)) of it, in equal parts for the
K - 1 that the best one may be compared with, half for either direction. By Bonferroni's inequality,
which asks for no independence, the best is then dropped, or the chosen one said to be nearer to it
than it is, with at most the probability `error`. Spreads are those of `contrasts`.

Before there are enough waves for an interval, who was more than `HOPELESS` times as costly as the
leader in every wave is dropped as well. That rests on what processes were seen to differ by, 30 %
at most, not on an interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stmdeploy.measure.contrasts import FEWEST_WAVES, Contrast, Ratio, contrasts
from stmdeploy.measure.statistics import student_t

#: See above.
HOPELESS = 1.5
#: Two candidates, in the order in which they entered.
Pair = tuple[str, str]


@dataclass(frozen=True)
class Dropped:
    """Why a candidate is out: after which wave, and how many times as costly as which other it was;
    `low` is the lower end of the interval by which it was dropped, None for a hopeless one."""

    wave: int
    by: str
    ratio: float
    low: float | None


class Race:
    """Candidates, and what their waves came to.

    Args:
        error: probability that the best is lost, or that `surely_within` is wrong.
        pivot: a candidate that runs in the first waves of all others, so that those which entered
            in different ones can be compared by it.
    """

    def __init__(self, error: float, pivot: str) -> None:
        self._error, self._pivot = error, pivot
        self._names: list[str] = []
        self._differences: dict[Pair, list[float]] = {}
        self._contrasts: dict[Pair, Contrast] = {}
        self.dropped: dict[str, Dropped] = {}
        self._gone: set[str] = set()
        self.waves = self._looks = 0

    def enter(self, names: Iterable[str]) -> None:
        """Adds candidates; those that enter late were not in earlier waves."""
        self._names += [name for name in names if name not in self._names]

    def withdraw(self, name: str) -> None:
        """Takes out a candidate that cannot go on."""
        self._gone.add(name)

    @property
    def left(self) -> list[str]:
        """The candidates that may still be the best."""
        return [n for n in self._names if n not in self.dropped and n not in self._gone]

    def add(self, differences: Mapping[Pair, float]) -> None:
        """Another wave: the logarithm of the first one's cost over the second's, of every pair that
        was in it."""
        self.waves += 1
        for pair, difference in differences.items():
            self._differences.setdefault(pair, []).append(difference)
        known = [pair for pair, seen in self._differences.items() if len(seen) >= FEWEST_WAVES]
        found = contrasts([self._differences[pair] for pair in known])
        self._contrasts = dict(zip(known, found, strict=True))

    @property
    def leader(self) -> str:
        """The one of those left that costs least, on average over its waves with the others."""
        left = self.left
        return min(left, key=lambda one: sum(self._mean(one, other) for other in left))

    def look(self, margin: float = 1.0) -> list[str]:
        """Drops whoever is surely more than `margin` times as costly as the leader.

        Returns:
            Whom it dropped now.
        """
        leader, now = self.leader, []
        decides = any(self.contrast(other, leader) for other in self.left if other != leader)
        self._looks += decides
        for one in self.left:
            if one == leader:
                continue
            if found := self.contrast(one, leader):
                low = found.difference - self._quantile(found) * found.error
                if low > math.log(margin):
                    ratio = math.exp(found.difference)
                    self.dropped[one] = Dropped(self.waves, leader, ratio, math.exp(low))
            elif (least := self._least(one, leader)) > HOPELESS:
                self.dropped[one] = Dropped(self.waves, leader, least, None)
            if one in self.dropped:
                now.append(one)
        return now

    def surely_within(self) -> float:
        """At most so many times the cost of the best of those left is that of the leader; infinite
        as long as nothing is known."""
        leader = self.leader
        worst = 0.0
        for other in self.left:
            if other == leader:
                continue
            found = self.contrast(leader, other)
            if found is None or not self._looks:
                return math.inf
            worst = max(worst, found.difference + self._quantile(found) * found.error)
        return math.exp(worst)

    def contrast(self, one: str, other: str) -> Contrast | None:
        """How one compares with another, by the waves that both were in, or else by the pivot; None
        without enough of them."""
        if (one, other) in self._contrasts:
            return self._contrasts[one, other]
        if (other, one) in self._contrasts:
            return self._contrasts[other, one].turned()
        if self._pivot in (one, other):
            return None
        mine, theirs = self.contrast(one, self._pivot), self.contrast(other, self._pivot)
        return None if mine is None or theirs is None else mine - theirs

    def ratio(self, one: str, other: str) -> Ratio | None:
        """The cost of one over another's, with its own 95 % interval; None if that is not known."""
        if one == other:
            return Ratio(1.0, 1.0, 1.0)
        found = self.contrast(one, other)
        return None if found is None else found.ratio()

    def _seen(self, one: str, other: str) -> list[float]:
        """The differences of two in their common waves; by the pivot if they had none."""
        if (one, other) in self._differences:
            return self._differences[one, other]
        if (other, one) in self._differences:
            return [-difference for difference in self._differences[other, one]]
        if self._pivot in (one, other):
            return []
        mine, theirs = self._seen(one, self._pivot), self._seen(other, self._pivot)
        return [a - b for a, b in zip(mine[::-1], theirs[::-1], strict=False)]

    def _mean(self, one: str, other: str) -> float:
        seen = [] if one == other else self._seen(one, other)
        return statistics.fmean(seen) if seen else 0.0

    def _least(self, one: str, other: str) -> float:
        """The least that one cost over the other in any wave; 0 if they had none."""
        seen = self._seen(one, other)
        return math.exp(min(seen)) if seen else 0.0

    def _quantile(self, found: Contrast) -> float:
        """Of one direction of one comparison of this look."""
        level = self._error / (max(1, len(self._names) - 1) * self._looks * (self._looks + 1))
        return student_t(found.freedom, level)
