"""The check, in its order: open the baseline, find candidates, compare, judge."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from stmdeploy.artifact import Artifact, read_artifact
from stmdeploy.contracts import Progress
from stmdeploy.errors import StmdeployError
from stmdeploy.files import scratch_folder
from stmdeploy.measuring import check_interpreters
from stmdeploy.pipeline import prepare
from stmdeploy.registry import exporter_for_runtime, exporter_of
from stmdeploy.regression.bundle import BaselineRow, Bundle, open_bundle
from stmdeploy.regression.comparison import Comparison, Estimate
from stmdeploy.regression.creating import WORKLOAD, workload_run
from stmdeploy.regression.judging import Entry, judge_row
from stmdeploy.regression.machine import machine_key, run_here
from stmdeploy.regression.outcome import CheckedRow, CheckResult
from stmdeploy.regression.policy import Policy
from stmdeploy.regression.side_by_side import SideFailedError, Wave, measure_wave, waiting
from stmdeploy.regression.sides import Contender, check_shapes, find_candidates
from stmdeploy.regression.verdict import (
    ALPHA,
    APART_PERCENT,
    Spending,
    paired_slowdown,
    unpaired_slowdown,
)
from stmdeploy.results.store import now_utc
from stmdeploy.spec import positive
from stmdeploy.trust import (
    refuse_wishes,
    wishes_of_artifact,
    wishes_of_model,
    wishes_of_run,
    wishes_of_sweep,
)

#: Ways of comparing: old artifact against new; one artifact under two interpreters; new
#: measurements against stored ones.
ARTIFACTS, INTERPRETERS, STORED = "artifacts", "interpreters", "stored"


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
        trust: whether programs, addresses and paths that the baseline names are used.
    """

    baseline: Path
    candidate: Path | None = None
    baseline_python: str = ""
    candidate_python: str = ""
    stored: bool = False
    policy: Policy = field(default_factory=Policy)
    timeout_s: float = 600.0
    trust: bool = False

    def __post_init__(self) -> None:
        positive(self.timeout_s, "timeout")
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
) -> tuple[Entry, ...]:
    rows = bundle.baseline.rows
    _refuse_wishes(spec, bundle)
    runs = {row.name: run_here(row.row_spec.run, progress) for row in rows}
    for pattern in spec.policy.unused({row.name for row in rows}):
        progress.warn(f"WARNING: no row of {spec.baseline} matches {pattern!r}")
    if spec.way == ARTIFACTS:
        for row in rows:
            _refuse_weights_alone(row)
    originals = {row.name: bundle.artifact(row.artifact) for row in rows}
    if spec.candidate is not None:
        artifacts = find_candidates(spec.candidate, rows, stack)
    elif spec.way == INTERPRETERS:
        artifacts = originals
    else:
        scratch = stack.enter_context(scratch_folder("check"))
        again = prepare(bundle.baseline.sweep_asked, scratch, progress)
        paths = {row.name: again[row.row_spec].path for row in rows}
        artifacts = {name: read_artifact(path) for name, path in paths.items() if path}
    if spec.candidate is not None:
        _refuse_programs(spec, rows, artifacts)
    for row in rows:
        check_shapes(row.name, originals[row.name].manifest, artifacts[row.name].manifest)
    return tuple(
        Entry(
            row,
            replace(row.row_spec, run=runs[row.name]),
            spec.policy.of(row.name),
            Contender(originals[row.name], spec.baseline_python),
            Contender(artifacts[row.name], spec.candidate_python),
        )
        for row in rows
    )


def _refuse_wishes(spec: CheckSpec, bundle: Bundle) -> None:
    """Raises StmdeployError for what a baseline names and only somebody who is trusted may."""
    again = spec.candidate is None and spec.way != INTERPRETERS
    wishes = list(wishes_of_sweep(bundle.baseline.sweep_asked)) if again else []
    for row in bundle.baseline.rows:
        asked = row.row_spec
        exporter = exporter_of(asked.run.runtime)
        if not exporter.holds_code:
            # The artifact holds the weights: a checkpoint is only read to export again.
            wishes += wishes_of_model(replace(asked.model, checkpoint=None))
        wishes += wishes_of_run(asked.run)
        for name in (row.artifact, row.workload):
            wishes += wishes_of_artifact(Path(name), exporter)
    refuse_wishes(wishes, str(spec.baseline), trust=spec.trust)


def _refuse_programs(
    spec: CheckSpec, rows: Sequence[BaselineRow], artifacts: Mapping[str, Artifact]
) -> None:
    """Raises StmdeployError for compiled artifacts that a folder holds; one that the command line
    names itself is meant."""
    wishes = [
        wish
        for row in rows
        for wish in wishes_of_artifact(
            artifacts[row.name].path, exporter_of(row.row_spec.run.runtime)
        )
        if artifacts[row.name].path != spec.candidate
    ]
    refuse_wishes(wishes, str(spec.candidate), trust=spec.trust)


def _refuse_weights_alone(row: BaselineRow) -> None:
    """Two artifacts without code would both be run by the code of today: nothing is compared."""
    if not exporter_for_runtime(row.row_spec.run.runtime).holds_code:
        raise StmdeployError(
            f"{row.name}: its artifact holds weights and no code, so both sides would run the same",
            "compare two interpreters (--baseline-python), or --stored numbers",
        )


def _compare(
    spec: CheckSpec, bundle: Bundle, entries: Sequence[Entry], progress: Progress
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
    failures: dict[str, StmdeployError] = {}
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
                failures[name] = error
    return [
        judge_row(
            entry,
            running[entry.row.name],
            failures.get(entry.row.name),
            differing,
            stored=spec.stored,
        )
        for entry in entries
    ]


def _comparison(
    spec: CheckSpec,
    bundle: Bundle,
    entry: Entry,
    rows: int,
    dice: random.Random,
    progress: Progress,
) -> Comparison:
    run = entry.spec.run
    candidate = entry.candidate.side(entry.spec.model, run)
    against, other = entry.baseline, entry.baseline.side(entry.spec.model, run)
    estimate: Estimate = paired_slowdown
    threshold_percent = entry.policy.threshold_percent
    if spec.stored:
        threshold_percent += APART_PERCENT
        against = Contender(bundle.artifact(entry.row.workload), spec.candidate_python)
        other = against.side(WORKLOAD, workload_run(run))
        estimate = partial(unpaired_slowdown, entry.row.calibrated)

    def measured() -> Wave:
        """A wave of artifacts that are, before and after, what they were when it began."""
        artifacts = (against.artifact, entry.candidate.artifact)
        for artifact in artifacts:
            artifact.check()
        wave = measure_wave(other, candidate, spec.timeout_s, dice, waiting(progress))
        for artifact in artifacts:
            artifact.check()
        return wave

    return Comparison(
        measure=measured,
        estimate=estimate,
        threshold_percent=threshold_percent,
        budget_s=entry.policy.budget_s,
        spending=Spending(rows),
    )
