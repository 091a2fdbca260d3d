"""The check, in its order: open the baseline, find candidates, compare, judge."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from stmdeploy.artifact import read_artifact
from stmdeploy.contracts import Progress
from stmdeploy.errors import StmdeployError
from stmdeploy.pipeline import prepare
from stmdeploy.regression.bundle import BaselineRow, Bundle, open_bundle
from stmdeploy.regression.comparison import Comparison, Estimate
from stmdeploy.regression.creating import WORKLOAD, workload_run
from stmdeploy.regression.gates import FIDELITY, judge_gates
from stmdeploy.regression.machine import machine_key, run_here
from stmdeploy.regression.outcome import (
    FAILED,
    OUTPUTS_DIFFER,
    CheckedRow,
    CheckResult,
    Gate,
)
from stmdeploy.regression.policy import Policy, RowPolicy
from stmdeploy.regression.side_by_side import (
    Half,
    Pair,
    Side,
    SideFailedError,
    measure_wave,
    waiting,
)
from stmdeploy.regression.sides import Contender, check_shapes, find_candidates
from stmdeploy.regression.verdict import (
    ALPHA,
    UNKNOWN,
    Spending,
    Verdict,
    paired_slowdown,
    unpaired_slowdown,
)
from stmdeploy.results.store import now_utc
from stmdeploy.sweep import RowSpec, SweepSpec
from stmdeploy.sweeping import check_interpreters

#: Ways of comparing: old artifact against new; one artifact under two interpreters; new
#: measurements against stored ones.
ARTIFACTS, INTERPRETERS, STORED = "artifacts", "interpreters", "stored"
#: Equal weights must give equal logits, up to what a runtime and a precision may round.
_TOLERANCE = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 1e-1}
_NS_PER_MS, _MS_PER_S = 1e6, 1000.0


@dataclass(frozen=True)
class CheckSpec:
    """What is asked of a check.

    Attributes:
        baseline: a bundle.
        candidate: another bundle's folder, a folder of artifacts or one artifact; None to
            export the baseline's models again, or, with interpreters, for its own artifacts.
        baseline_python, candidate_python: the interpreters of the sides; empty for this one.
        stored: compare with the stored numbers, and run no baseline.
        policy: thresholds, budgets, gates.
        timeout_s: a worker that lives longer is ended.
    """

    baseline: Path
    candidate: Path | None = None
    baseline_python: str = ""
    candidate_python: str = ""
    stored: bool = False
    policy: Policy = field(default_factory=Policy)
    timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if self.stored and self.baseline_python:
            raise StmdeployError(
                "--stored runs no baseline", "leave --baseline-python or --stored out"
            )

    @property
    def way(self) -> str:
        """How it compares."""
        if self.stored:
            return STORED
        return INTERPRETERS if self._only_interpreters else ARTIFACTS

    @property
    def _only_interpreters(self) -> bool:
        return self.candidate is None and bool(self.baseline_python or self.candidate_python)


@dataclass(frozen=True)
class _Entry:
    """A row of the baseline and what is to be compared with it."""

    row: BaselineRow
    spec: RowSpec
    policy: RowPolicy
    baseline: Contender
    candidate: Contender


def check(spec: CheckSpec, progress: Progress) -> CheckResult:
    """Compares every row of a baseline with its candidate.

    Raises:
        StmdeployError: bad input (2), or a candidate whose export fails (its code). Workers that
            fail, outputs that differ and verdicts are in the result.
    """
    check_interpreters({spec.baseline_python, spec.candidate_python})
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(spec.baseline))
        entries = _entries(spec, bundle, stack, progress)
        measured = _compare(spec, bundle, entries, progress)
        gpu = entries[0].spec.run.gpu_uuid
        return CheckResult(
            stmdeploy_version=version("stmdeploy"),
            created_utc=now_utc(),
            baseline=f"{spec.baseline.name} {bundle.baseline.id}",
            candidate=_candidate_words(spec),
            way=spec.way,
            machine=machine_key(gpu),
            error_probability=ALPHA,
            cannot_tell=spec.policy.cannot_tell,
            rows=tuple(measured),
        )


def _candidate_words(spec: CheckSpec) -> str:
    where = str(spec.candidate or ("the same artifacts" if spec.way == INTERPRETERS else
                                   "exported again"))  # fmt: skip
    return f"{where}, by {spec.candidate_python}" if spec.candidate_python else where


def _entries(
    spec: CheckSpec, bundle: Bundle, stack: ExitStack, progress: Progress
) -> tuple[_Entry, ...]:
    rows = bundle.baseline.rows
    runs = {row.name: run_here(row.row_spec.run) for row in rows}
    originals = {row.name: bundle.artifact(row.artifact) for row in rows}
    if spec.candidate is not None:
        artifacts = find_candidates(spec.candidate, rows, stack)
    elif spec.way == INTERPRETERS:
        artifacts = originals
    else:
        scratch = stack.enter_context(TemporaryDirectory(prefix="stmdeploy-"))
        again = prepare(SweepSpec.from_json(bundle.baseline.sweep_spec), Path(scratch), progress)
        paths = {row.name: again[row.row_spec].path for row in rows}
        artifacts = {name: read_artifact(path) for name, path in paths.items() if path}
    for row in rows:
        check_shapes(row.name, originals[row.name].manifest, artifacts[row.name].manifest)
    return tuple(
        _Entry(
            row,
            replace(row.row_spec, run=runs[row.name]),
            spec.policy.of(row.name),
            Contender(originals[row.name], spec.baseline_python),
            Contender(artifacts[row.name], spec.candidate_python),
        )
        for row in rows
    )


def _compare(
    spec: CheckSpec, bundle: Bundle, entries: Sequence[_Entry], progress: Progress
) -> list[CheckedRow]:
    """Wave after wave, each time one of every row that is still open, in random order."""
    dice = random.Random(time.time_ns())
    differing = (
        bundle.baseline.machine.differences(machine_key(entries[0].spec.run.gpu_uuid))
        if spec.stored
        else ()
    )
    running = {
        entry.row.name: _comparison(spec, bundle, entry, len(entries), dice, progress)
        for entry in entries
    }
    failures: dict[str, str] = {}
    while open_names := [
        name
        for name, comparison in running.items()
        if not comparison.finished and name not in failures and not differing
    ]:
        progress.expect(len(open_names))
        for name in dice.sample(open_names, len(open_names)):
            comparison = running[name]
            progress.step(f"comparing {name}: {len(comparison.pairs)} pairs so far")
            try:
                comparison.step()
            except SideFailedError as error:
                failures[name] = str(error)
    return [
        _checked(spec, entry, running[entry.row.name], failures.get(entry.row.name, ""), differing)
        for entry in entries
    ]


def _comparison(
    spec: CheckSpec,
    bundle: Bundle,
    entry: _Entry,
    rows: int,
    dice: random.Random,
    progress: Progress,
) -> Comparison:
    run = entry.spec.run
    candidate = entry.candidate.side(entry.spec.model, run)
    other: Side = entry.baseline.side(entry.spec.model, run)
    estimate: Estimate = paired_slowdown
    if spec.stored:
        mark = Contender(bundle.artifact(entry.row.workload), spec.candidate_python)
        other = mark.side(WORKLOAD, workload_run(run))
        estimate = partial(unpaired_slowdown, entry.row.calibrated)
    return Comparison(
        measure=lambda: measure_wave(other, candidate, spec.timeout_s, dice, waiting(progress)),
        estimate=estimate,
        threshold_percent=entry.policy.threshold_percent,
        budget_s=entry.policy.budget_s,
        spending=Spending(rows),
        now_s=time.monotonic,
    )


def _checked(
    spec: CheckSpec,
    entry: _Entry,
    comparison: Comparison,
    failure: str,
    differing: tuple[str, ...],
) -> CheckedRow:
    """A row's figures and its verdict, with what to do about it."""
    pairs, run = comparison.pairs, entry.spec.run
    live = [] if spec.stored else pairs
    gates = judge_gates(entry.policy.gates, entry.baseline.artifact, entry.candidate.artifact, live)
    slowdown = comparison.slowdown
    if not failure and spec.stored and not differing:
        differing = _runtime_differs(entry, pairs)
    if differing:
        slowdown = UNKNOWN
    verdict, advice = _verdict(entry, comparison, failure, differing, gates, live)
    known = math.isfinite(slowdown.high_percent)
    before = _latency_ms([pair.baseline for pair in live])
    after = _latency_ms([pair.candidate for pair in pairs])
    return CheckedRow(
        name=entry.row.name,
        model=entry.spec.model.name,
        runtime=run.runtime,
        precision=run.precision,
        batch=run.batch,
        verdict=verdict,
        slowdown_percent=slowdown.percent if known else None,
        slowdown_percent_low=slowdown.low_percent if known else None,
        slowdown_percent_high=slowdown.high_percent if known else None,
        threshold_percent=entry.policy.threshold_percent,
        baseline_latency_ms_p50=before,
        candidate_latency_ms_p50=after,
        baseline_throughput_images_s=_MS_PER_S * run.batch / before if before else None,
        candidate_throughput_images_s=_MS_PER_S * run.batch / after if after else None,
        pairs=len(pairs),
        measured_s=comparison.spent_s,
        gates=gates,
        advice=advice,
        baseline_samples_ms=_samples_ms([pair.baseline for pair in live]),
        candidate_samples_ms=_samples_ms([pair.candidate for pair in pairs]),
    )


def _verdict(
    entry: _Entry,
    comparison: Comparison,
    failure: str,
    differing: tuple[str, ...],
    gates: tuple[Gate, ...],
    live: Sequence[Pair],
) -> tuple[str, tuple[str, ...]]:
    """The gravest thing that was found, and what to do about it."""
    if failure:
        return FAILED, (f"{failure}: run `stmdeploy inspect` on the artifact, and check again",)
    broken = [gate for gate in gates if gate.broken]
    told = tuple(
        f"{gate.name} grew by {gate.growth_percent:.1f} %, allowed are {gate.limit_percent:g} %"
        for gate in broken
    )
    distance = _outputs_distance(entry, live)
    if distance is not None or any(gate.name == FIDELITY for gate in broken):
        if distance is not None:
            told = (f"outputs differ by {distance:.1e} (relative L2) from the baseline's, with "
                    "the same weights: verify the export", *told)  # fmt: skip
        return OUTPUTS_DIFFER, told
    if broken:
        return Verdict.REGRESSION, told
    if differing:
        return Verdict.CANNOT_TELL, (
            f"the stored numbers are of another machine or runtime ({'; '.join(differing)}): "
            "check without --stored, or make a baseline here",
        )
    if comparison.verdict is Verdict.REGRESSION:
        return Verdict.REGRESSION, (
            "see where the time goes: stmdeploy profile --layers; or raise the row's threshold",
        )
    if comparison.verdict is Verdict.CANNOT_TELL:
        return Verdict.CANNOT_TELL, (
            "the interval reaches across the threshold: raise the budget, close other programs",
        )
    return comparison.verdict, ()


def _runtime_differs(entry: _Entry, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """Stored numbers are of a version of the runtime, too."""
    now = pairs[-1].candidate.run.runtime_facts.get("version", "") if pairs else ""
    then = entry.row.runtime_version
    return (f"{entry.spec.run.runtime} was {then}, is {now}",) if pairs and now != then else ()


def _outputs_distance(entry: _Entry, pairs: Sequence[Pair]) -> float | None:
    """How far apart the logits are, where the weights are equal and that is too far."""
    before, after = (
        side.artifact.manifest.model.weights.sha256 for side in (entry.baseline, entry.candidate)
    )
    if not pairs or before != after:
        return None
    tolerance = _TOLERANCE.get(entry.spec.run.precision)
    theirs, mine = pairs[-1].baseline.run.logits, pairs[-1].candidate.run.logits
    norm = math.hypot(*theirs)
    distance = math.hypot(*(a - b for a, b in zip(mine, theirs, strict=True)))
    if tolerance is None or distance <= tolerance * norm:
        return None
    return distance / norm if norm else math.inf


def _samples_ms(halves: Sequence[Half]) -> tuple[float, ...]:
    return tuple(one.duration_ns / _NS_PER_MS for half in halves for one in half.inferences)


def _latency_ms(halves: Sequence[Half]) -> float | None:
    """The median over the calm inferences, or over all where none is."""
    ones = [one for half in halves for one in half.inferences]
    calm = [one.duration_ns for one in ones if one.calm] or [one.duration_ns for one in ones]
    return statistics.median(calm) / _NS_PER_MS if calm else None
