"""Figures of a candidate beside its latency whose growth may be limited.

Those of the artifacts are exact. Those of the pairs differ from process to process: they are means
over pairs, with Student's t, and a gate is broken only if the whole interval is beyond its limit.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from stmdeploy.check.outcome import Gate
from stmdeploy.check.policy import GATES
from stmdeploy.check.side_by_side import Half, Pair
from stmdeploy.check.verdict import FEWEST_PAIRS, Spending, locate
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.measure.statistics import quantile, student_t
from stmdeploy.schema.artifact import Artifact

FIDELITY, TAIL = "fidelity", "tail"
#: The tail is what lies beyond this share of the other side's inferences.
_TAIL_SHARE = 0.05
#: What a process reports, by gate, so that more is worse.
_REPORTED: dict[str, Callable[[Half], float]] = {
    "memory": lambda half: half.run.memory_peak_mib,
    "load": lambda half: half.run.load_ms,
    "first-inference": lambda half: half.run.first_inference_ms,
    "throughput": lambda half: half.run.burst_s / half.run.burst_runs,
}
#: A gate is looked at after so many pairs, and at twice as many each time.
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
    _next_look: int = field(default=_FIRST_LOOK, repr=False)

    def look(self, pairs: Sequence[Pair], *, last: bool) -> None:
        """Looks, if it is time for that."""
        if len(pairs) < FEWEST_PAIRS or not (last or len(pairs) >= self._next_look):
            return
        self._next_look = 2 * len(pairs)
        level = self.spending.level(last=last)
        self.spending.take()
        found = locate(_figures_of(self.name, pairs))
        half = student_t(found.freedom, level) * found.error
        edges = (found.mean, found.mean - half, found.mean + half)
        low, middle, high = sorted(_growth_percent(self.name, edge) for edge in edges)
        self.growth_percent = (middle, low, high)

    @property
    def settled(self) -> bool:
        """Whether more pairs would change nothing."""
        if self.growth_percent is None:
            return False
        _, low, high = self.growth_percent
        return low > self.limit_percent or high <= self.limit_percent

    def judged(self, pairs: Sequence[Pair]) -> Gate | None:
        """The gate as it stands in the result; None if nothing was measured."""
        if self.growth_percent is None:
            return None
        growth, low, high = self.growth_percent
        before, after = _both_sides(self.name, pairs)
        return Gate(
            name=self.name, unit=GATES[self.name], baseline=before, candidate=after,
            growth_percent=growth, growth_percent_low=low, growth_percent_high=high,
            limit_percent=self.limit_percent, broken=low > self.limit_percent,
        )  # fmt: skip


def _figures_of(name: str, pairs: Sequence[Pair]) -> list[float]:
    """A figure of every pair: a logarithm of a ratio, or of the tail a difference of shares."""
    if name != TAIL:
        value_of = _REPORTED[name]
        return [math.log(value_of(pair.candidate) / value_of(pair.baseline)) for pair in pairs]
    before = [_relative(pair.baseline) for pair in pairs]
    after = [_relative(pair.candidate) for pair in pairs]
    limits = _p95(before), _p95(after)
    # Each side beyond the other's p95: of equal sides the mean is zero, whatever they look like.
    return [
        (_beyond(mine, limits[0]) - _beyond(theirs, limits[1])) / 2
        for theirs, mine in zip(before, after, strict=True)
    ]


def _growth_percent(name: str, figure: float) -> float:
    if name == TAIL:
        return 100.0 * figure / _TAIL_SHARE
    return 100.0 * math.expm1(figure)


def _relative(half: Half) -> list[float]:
    """Durations over their median: where a side lies is no matter of its tail."""
    median = statistics.median(half.durations_ns)
    return [one / median for one in half.durations_ns]


def _p95(processes: Sequence[Sequence[float]]) -> float:
    return quantile(sorted(chain.from_iterable(processes)), 1.0 - _TAIL_SHARE)


def _beyond(durations: Sequence[float], limit: float) -> float:
    """The share of some durations that lies beyond a limit."""
    return sum(one > limit for one in durations) / len(durations)


def _both_sides(name: str, pairs: Sequence[Pair]) -> tuple[float, float]:
    """The figures of both sides, in the gate's unit."""
    if name == TAIL:
        tail = statistics.fmean(_figures_of(TAIL, pairs))
        return 100.0 * _TAIL_SHARE, 100.0 * (_TAIL_SHARE + tail)
    value_of = _REPORTED[name]
    before = statistics.median(value_of(pair.baseline) for pair in pairs)
    after = statistics.median(value_of(pair.candidate) for pair in pairs)
    return (1.0 / before, 1.0 / after) if name == "throughput" else (before, after)


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
    figures = {
        "size": artifact.size_bytes / BYTES_PER_MIB,
        FIDELITY: (manifest.fidelity or manifest.verification).relative_l2_error,
    }
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
