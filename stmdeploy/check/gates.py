"""Figures of a candidate beside its latency whose growth may be limited.

Those of the artifacts are exact. Those of the pairs differ from process to process: they are means
over pairs, with Student's t, and a gate is broken only if the whole interval is beyond its limit.

The tail is the share of inferences beyond a percentile of both sides together, each inference
relative to the median of its process. It is judged three times. Twice by the inferences that others
left alone, as far as `calm` can tell: where another program now and then takes a processor, that
alone makes a twentieth of all inferences two or three times as long, and hides what the candidate
does. Of those, the share beyond the 99th percentile tells of few and much longer ones sooner than
that beyond the 95th, and has most of the error. And once by all inferences, in case the candidate
makes its own threads wait.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from stmdeploy.check.outcome import Gate
from stmdeploy.check.policy import GATES
from stmdeploy.check.side_by_side import Half, Pair
from stmdeploy.check.verdict import FEWEST_PAIRS, Location, Prior, Spending, locate, with_prior
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.measure.calm import comparable
from stmdeploy.measure.contrasts import Turns
from stmdeploy.measure.statistics import quantile, student_t
from stmdeploy.schema.artifact import Artifact

FIDELITY, TAIL = "fidelity", "tail"
#: The tail is this share of the inferences of both sides; or the far tail, this one.
_TAIL_SHARE, _FAR_SHARE = 0.05, 0.01
#: Pairs differ about as much as their turns say, which counts for so many degrees of freedom.
_NOISE_FREEDOM = 12
#: What a process reports, by gate, so that more is worse.
_REPORTED: dict[str, Callable[[Half], float]] = {
    "memory": lambda half: half.run.memory_peak_mib,
    "load": lambda half: half.run.load_ms,
    "first-inference": lambda half: half.run.first_inference_ms,
    "throughput": lambda half: half.run.burst_s / half.run.burst_runs,
}
#: A gate is looked at after so many pairs, and at twice as many each time, unless its interval is
#: too wide to lie within its limit.
_FIRST_LOOK = 3


def measured_gates(limits: Mapping[str, float]) -> list[str]:
    """Those of some gates that are judged by pairs."""
    return [name for name in limits if name == TAIL or name in _REPORTED]


@dataclass
class MeasuredGate:
    """A gate that is judged by pairs, look by look, until its interval lies on one side of its
    limit.

    Attributes:
        limit_percent: the growth that is allowed.
        spending: the error probability that it has.
        growth_percent: of the last look, with its interval; None before the first.
    """

    name: str
    limit_percent: float
    spending: Spending
    growth_percent: tuple[float, float, float] | None = None
    _judged_by: _Figures | None = field(default=None, repr=False)
    _next_look: int = field(default=_FIRST_LOOK, repr=False)

    def look(self, pairs: Sequence[Pair], *, last: bool) -> None:
        """Looks, if it is time for that, and if the interval may decide."""
        if len(pairs) < FEWEST_PAIRS or not (last or len(pairs) >= self._next_look):
            return
        self._next_look = 2 * len(pairs)
        figures = _figures_of(self.name, pairs)
        level = self.spending.level(last=last)
        growths = [one.growth_percent(one.weight * level) for one in figures]
        _, low, high = growths[0]
        if not last and high - low > 2.0 * self.limit_percent:
            return
        self.spending.take()
        broken = (at for at, growth in enumerate(growths) if growth[1] > self.limit_percent)
        found = next(broken, 0)
        self.growth_percent, self._judged_by = growths[found], figures[found]

    @property
    def settled(self) -> bool:
        """Whether more pairs would change nothing."""
        if self.growth_percent is None:
            return False
        _, low, high = self.growth_percent
        return low > self.limit_percent or high <= self.limit_percent

    def judged(self) -> Gate | None:
        """The gate as it stands in the result; None if nothing was measured."""
        if self.growth_percent is None or self._judged_by is None:
            return None
        growth, low, high = self.growth_percent
        before, after, unit = self._judged_by.sides()
        return Gate(
            name=self.name, unit=unit, baseline=before, candidate=after,
            growth_percent=growth, growth_percent_low=low, growth_percent_high=high,
            limit_percent=self.limit_percent, broken=low > self.limit_percent,
        )  # fmt: skip


class _Figures(Protocol):
    """A figure of every pair, by which a gate is judged.

    Attributes:
        weight: its share of the gate's error.
    """

    weight: float

    def growth_percent(self, level: float) -> tuple[float, float, float]:
        """The growth that they show, and its interval, wrong with probability `level`."""

    def sides(self) -> tuple[float, float, str]:
        """The figures of both sides, and their unit."""


def _figures_of(name: str, pairs: Sequence[Pair]) -> list[_Figures]:
    """What a gate is judged by: one figure, or several of which each may break it."""
    if name != TAIL:
        return [_Reported(name, pairs)]
    calm, every = [], []
    for pair in pairs:
        before, after = pair.baseline.taken, pair.candidate.taken
        calm.append(comparable(before, after))
        every.append((before.durations, after.durations))
    return [
        _Tail(calm, _TAIL_SHARE, 0.2),
        _Tail(calm, _FAR_SHARE, 0.6),
        _Tail(every, _FAR_SHARE, 0.2),
    ]


class _Reported(_Figures):
    """What the processes report: logarithms of ratios."""

    weight = 1.0

    def __init__(self, name: str, pairs: Sequence[Pair]) -> None:
        self._name, value_of = name, _REPORTED[name]
        self._before = [value_of(pair.baseline) for pair in pairs]
        self._after = [value_of(pair.candidate) for pair in pairs]

    def growth_percent(self, level: float) -> tuple[float, float, float]:
        sides = zip(self._before, self._after, strict=True)
        logs = [math.log(after / before) for before, after in sides]
        middle, low, high = (100.0 * math.expm1(edge) for edge in _edges(locate(logs), level))
        return middle, low, high

    def sides(self) -> tuple[float, float, str]:
        before, after = statistics.median(self._before), statistics.median(self._after)
        if self._name == "throughput":
            before, after = 1.0 / before, 1.0 / after
        return before, after, GATES[self._name]


class _Tail(_Figures):
    """By how much a larger share of the candidate's inferences lies in the tail."""

    def __init__(self, pairs: Sequence[tuple[Turns, Turns]], share: float, weight: float) -> None:
        before, after = ([_relative(side) for side in sides] for sides in zip(*pairs, strict=True))
        relative = chain.from_iterable(chain.from_iterable((*before, *after)))
        limit = quantile(sorted(relative), 1.0 - share)
        self._share, self.weight = share, weight
        shares = [[_beyond(side, limit) for side in sides] for sides in (before, after)]
        more = [mine[0] - theirs[0] for theirs, mine in zip(*shares, strict=True)]
        noise = statistics.fmean(mine[1] + theirs[1] for theirs, mine in zip(*shares, strict=True))
        error = statistics.stdev(more) / math.sqrt(len(more))
        own = Location(statistics.fmean(more), error, len(more) - 1)
        self._found = with_prior(own, len(more), Prior(noise, _NOISE_FREEDOM))

    def growth_percent(self, level: float) -> tuple[float, float, float]:
        middle, low, high = (100.0 * edge / self._share for edge in _edges(self._found, level))
        return middle, low, high

    def sides(self) -> tuple[float, float, str]:
        half = self._found.mean / 2.0
        unit = f"% beyond p{100.0 * (1.0 - self._share):g}"
        return 100.0 * (self._share - half), 100.0 * (self._share + half), unit


def _edges(found: Location, level: float) -> tuple[float, float, float]:
    """A location and its interval, wrong with probability `level`."""
    half = student_t(found.freedom, level) * found.error
    return found.mean, found.mean - half, found.mean + half


def _relative(turns: Turns) -> list[list[float]]:
    """Durations over their median, turn by turn: where a side lies is no matter of its tail."""
    median = statistics.median(chain.from_iterable(turns))
    return [[one / median for one in turn] for turn in turns]


def _beyond(turns: Turns, limit: float) -> tuple[float, float]:
    """The share of inferences beyond a limit, and its variance by how turns differ from each other
    (that of a ratio of sums; W. G. Cochran, Sampling Techniques, 1977, 6.3)."""
    counts = [(sum(one > limit for one in turn), len(turn)) for turn in turns]
    total = sum(length for _, length in counts)
    share = sum(beyond for beyond, _ in counts) / total
    squares = sum((beyond - share * length) ** 2 for beyond, length in counts)
    return share, squares / total**2 * len(counts) / max(1, len(counts) - 1)


def exact_gates(
    limits: Mapping[str, float], baseline: Artifact, candidate: Artifact
) -> tuple[Gate, ...]:
    """Judges every gate that is set and whose figure both artifacts have: size, MACs of the
    exported graph, and fidelity (the error against float64)."""
    before, after = _figures(baseline), _figures(candidate)
    return tuple(
        _exact(name, before[name], after[name], limit)
        for name, limit in limits.items()
        if name in before and name in after
    )


def _figures(artifact: Artifact) -> dict[str, float]:
    """What is known of one side, by gate."""
    manifest = artifact.manifest
    figures = {"size": artifact.size_bytes / BYTES_PER_MIB}
    if (known := manifest.fidelity or manifest.verification) is not None:
        figures[FIDELITY] = known.relative_l2_error
    if manifest.cost is not None:
        figures["macs"] = float(sum(share.macs for share in manifest.cost.by_operator.values()))
    return figures


def _exact(name: str, before: float, after: float, limit: float) -> Gate:
    growth = 100.0 * (after - before) / before if before else (0.0 if after == before else 1e9)
    return Gate(
        name=name, unit=GATES[name], baseline=before, candidate=after, growth_percent=growth,
        growth_percent_low=growth, growth_percent_high=growth, limit_percent=limit,
        broken=growth > limit and not math.isclose(growth, limit, abs_tol=1e-9),
    )  # fmt: skip
