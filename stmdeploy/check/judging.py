"""Turns a finished comparison into a row of the result: figures, gates, verdict, what to do."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stmdeploy.check.comparison import Comparison
from stmdeploy.check.gates import FIDELITY, exact_gates
from stmdeploy.check.outcome import FAILED, OUTPUTS_DIFFER, CheckedRow, Gate
from stmdeploy.check.policy import RowPolicy
from stmdeploy.check.side_by_side import Half, Pair
from stmdeploy.check.sides import Contender
from stmdeploy.check.verdict import UNKNOWN, Slowdown, Verdict, judge
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.spec.units import MS_PER_S, NS_PER_MS

_OVERALL = ("the typical inference is not slower: some of the candidate's inferences are",)
#: With equal weights, how far apart outputs may be, relative L2: by what a precision rounds.
_TOLERANCE = {
    "fp32": 1e-3,
    "fp16": 2e-2,
    "bf16": 1e-1,
    "int8": 0.2,
    "int8-dynamic": 0.2,
    "fp8": 0.2,
}
#: Others are said to have treated the sides unequally if they kept so many processors more busy
#: beside one of them.
_UNEQUAL_PROCESSORS = 0.2
#: A verdict, and what to do about it.
Judged = tuple[str, tuple[str, ...]]


class Compared(Protocol):
    """What is known beforehand of a row that is compared."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def calibrated(self) -> tuple[float, ...]:
        """As in `BaselineRow`; empty if nothing was measured."""

    @property
    def outputs(self) -> tuple[tuple[float, ...], ...]:
        """As in `BaselineRow`."""

    @property
    def runtime_version(self) -> str:
        """As in `BaselineRow`."""


@dataclass(frozen=True)
class Entry:
    """A row as it is compared here, and its two sides."""

    row: Compared
    spec: RowSpec
    policy: RowPolicy
    baseline: Contender
    candidate: Contender


def judge_row(
    entry: Entry,
    comparison: Comparison,
    failure: StmdeployError | None,
    differing: tuple[str, ...],
    *,
    stored: bool,
) -> CheckedRow:
    """A row's figures and its verdict, with what to do about it.

    Args:
        comparison: finished, or as far as it came.
        failure: the failure of a worker; None if none failed.
        differing: how this machine differs from that of the stored numbers, in words.
        stored: whether the comparison's other side is the calibration workload.
    """
    pairs, run = comparison.pairs, entry.spec.run
    live = [] if stored else pairs
    baselines, candidates = [p.baseline for p in live], [p.candidate for p in pairs]
    gates = _gates(entry, comparison)
    slowdown, overall = comparison.typical, comparison.overall
    if not failure and stored and not differing:
        differing = _runtime_differs(entry, pairs)
    if differing:
        slowdown = overall = UNKNOWN
    verdict, advice = _judged(entry, comparison, failure, differing, gates, stored=stored)
    before, after = _latency_ms(baselines), _latency_ms(candidates)
    others = _others(baselines), _others(candidates)
    return CheckedRow(
        name=entry.row.name,
        model=entry.spec.model.name,
        runtime=run.runtime,
        precision=run.precision,
        batch=run.batch,
        verdict=verdict,
        **_known("slowdown_percent", slowdown),
        **_known("overall_percent", overall),
        threshold_percent=comparison.threshold_percent,
        baseline_latency_ms_p50=before,
        candidate_latency_ms_p50=after,
        baseline_throughput_images_s=MS_PER_S * run.batch / before if before else None,
        candidate_throughput_images_s=MS_PER_S * run.batch / after if after else None,
        baseline_others_processors=others[0],
        candidate_others_processors=others[1],
        pairs=len(pairs),
        measured_s=comparison.spent_s,
        gates=gates,
        advice=(*advice, *_unequal(*others), *_apart(entry, live)),
        baseline_samples_ms=_samples_ms(baselines),
        candidate_samples_ms=_samples_ms(candidates),
    )


def _gates(entry: Entry, comparison: Comparison) -> tuple[Gate, ...]:
    """Exact gates, then those that the pairs were judged by."""
    exact = exact_gates(entry.policy.gates, entry.baseline.artifact, entry.candidate.artifact)
    return (*exact, *filter(None, (gate.judged() for gate in comparison.gates)))


def _known(name: str, slowdown: Slowdown) -> dict[str, float | None]:
    """The fields of a slowdown; None without an interval."""
    known = math.isfinite(slowdown.high_percent)
    return {
        name: slowdown.percent if known else None,
        f"{name}_low": slowdown.low_percent if known else None,
        f"{name}_high": slowdown.high_percent if known else None,
    }


def _others(halves: Sequence[Half]) -> float | None:
    """How many processors other programs used beside a side; None without any."""
    return statistics.fmean(half.run.others_processors for half in halves) if halves else None


def _unequal(before: float | None, after: float | None) -> tuple[str, ...]:
    """What to say if other programs did not disturb both sides alike."""
    if before is None or after is None or abs(after - before) < _UNEQUAL_PROCESSORS:
        return ()
    return (
        f"other programs kept {after:.1f} processors busy during the candidate's turns and "
        f"{before:.1f} during the baseline's: if the candidate starts them, that is part of its "
        "cost; if not, check again",
    )


def _apart(entry: Entry, live: Sequence[Pair]) -> tuple[str, ...]:
    """How far outputs of two files are apart that nobody has verified."""
    sides = (entry.baseline.artifact.manifest, entry.candidate.artifact.manifest)
    if not live or all(one.verification is not None for one in sides):
        return ()
    far = outputs_apart(live[-1])
    told = f"{far:.1e} relative L2 apart" if math.isfinite(far) else "of other shapes"
    return (f"outputs are {told if far else 'equal'} for the same random inputs",)


def _judged(
    entry: Entry,
    comparison: Comparison,
    failure: StmdeployError | None,
    differing: tuple[str, ...],
    gates: tuple[Gate, ...],
    *,
    stored: bool,
) -> Judged:
    """The gravest finding, and what to do about it."""
    if failure is not None and failure.code is ExitCode.OUTPUTS_DIFFER:
        return OUTPUTS_DIFFER, (failure.message,)
    if failure is not None:
        return FAILED, (f"{failure}: run `stmdeploy inspect` on the artifact, and check again",)
    distance = _outputs_distance(entry, comparison.pairs, stored=stored)
    return _fault(gates, distance) or _verdict(entry, comparison, differing, gates)


def _verdict(
    entry: Entry, comparison: Comparison, differing: tuple[str, ...], gates: tuple[Gate, ...]
) -> Judged:
    """The verdict on the latency, if its statistics hold and every gate could be judged."""
    if differing:
        return Verdict.CANNOT_TELL, (
            f"the stored numbers are from another machine or runtime ({'; '.join(differing)}): "
            "check without --stored, or run stmdeploy baseline create here",
        )
    if comparison.verdict is Verdict.REGRESSION:
        only_overall = judge(comparison.typical, comparison.threshold_percent) is not (
            Verdict.REGRESSION
        )
        return Verdict.REGRESSION, (
            *_OVERALL * only_overall,
            "see where the time goes with stmdeploy profile --layers, or raise the row's threshold",
        )
    if comparison.verdict is Verdict.CANNOT_TELL:
        return Verdict.CANNOT_TELL, (
            "the interval reaches across the threshold: raise --budget-s, or close other programs",
        )
    if missing := entry.policy.gates.keys() - {gate.name for gate in gates}:
        return Verdict.CANNOT_TELL, (
            f"nothing is known for the gates {', '.join(sorted(missing))}: leave them out "
            "(what is measured of processes is not with --stored, macs only of ONNX graphs)",
        )
    return comparison.verdict, ()


def _fault(gates: tuple[Gate, ...], distance: float | None) -> Judged | None:
    """What outweighs the latency: outputs that differ, gates that are broken."""
    broken = [gate for gate in gates if gate.broken]
    told = tuple(f"{gate.name} grew by {growth(gate)}; its gate allows {gate.limit_percent:g} %"
                 for gate in broken)  # fmt: skip
    if distance is not None:
        differ = f"outputs differ from the baseline's by {distance:.1e} (relative L2)"
        return OUTPUTS_DIFFER, (f"{differ}, with the same weights: export again", *told)
    if any(gate.name == FIDELITY for gate in broken):
        return OUTPUTS_DIFFER, told
    return (Verdict.REGRESSION, told) if broken else None


def growth(gate: Gate) -> str:
    """By how much a gate's figure grew, with its interval where it has one."""
    told = f"{gate.growth_percent:.1f} %"
    if gate.growth_percent_low == gate.growth_percent_high:
        return told
    return f"{told} ({gate.growth_percent_low:.1f} .. {gate.growth_percent_high:.1f} %)"


def _runtime_differs(entry: Entry, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """How the runtime's version differs from that of the stored numbers, in words."""
    now = pairs[-1].candidate.run.runtime_facts.get("version", "") if pairs else ""
    then = entry.row.runtime_version
    return (f"{entry.spec.run.runtime} was {then}, is {now}",) if pairs and now != then else ()


def _outputs_distance(entry: Entry, pairs: Sequence[Pair], *, stored: bool) -> float | None:
    """The relative L2 distance of the output that is furthest off, if weights are equal and it is
    beyond tolerance."""
    before, after = (
        side.artifact.manifest.model.weights.sha256 for side in (entry.baseline, entry.candidate)
    )
    if not pairs or before != after:
        return None
    theirs = entry.row.outputs if stored else pairs[-1].baseline.run.outputs
    mine = pairs[-1].candidate.run.outputs
    furthest = max(map(_distance, mine, theirs)) if len(mine) == len(theirs) else math.inf
    return furthest if furthest > _TOLERANCE[entry.spec.run.precision] else None


def outputs_apart(pair: Pair) -> float:
    """The relative L2 distance of the output that is furthest off; infinite between different
    numbers or sizes of outputs."""
    theirs, mine = pair.baseline.run.outputs, pair.candidate.run.outputs
    if len(mine) != len(theirs):
        return math.inf
    return max(map(_distance, mine, theirs), default=0.0)


def _distance(mine: Sequence[float], theirs: Sequence[float]) -> float:
    """Relative L2; infinite between outputs of different sizes."""
    if len(mine) != len(theirs):
        return math.inf
    distance = math.hypot(*(a - b for a, b in zip(mine, theirs, strict=True)))
    norm = math.hypot(*theirs)
    return distance / norm if norm else math.inf if distance else 0.0


def _samples_ms(halves: Sequence[Half]) -> tuple[float, ...]:
    return tuple(ns / NS_PER_MS for half in halves for ns in half.durations_ns)


def _latency_ms(halves: Sequence[Half]) -> float | None:
    """The median over processes of their medians; None without any."""
    if not halves:
        return None
    return statistics.median(statistics.median(half.durations_ns) for half in halves) / NS_PER_MS
