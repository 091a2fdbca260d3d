"""The check, in its order: open the baseline, find candidates, compare, judge."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

from stmdeploy.check.bundle import BaselineRow, Bundle, open_bundle
from stmdeploy.check.comparison import Comparison
from stmdeploy.check.gates import TAIL, MeasuredGate, measured_gates
from stmdeploy.check.judging import Entry, judge_row
from stmdeploy.check.machine import machine_key, run_here
from stmdeploy.check.outcome import CheckedRow, CheckResult
from stmdeploy.check.policy import Policy
from stmdeploy.check.side_by_side import (
    TURNS,
    TURNS_FOR_TAIL,
    Pair,
    SideFailedError,
    measure_pair,
)
from stmdeploy.check.sides import Contender, check_shapes
from stmdeploy.check.verdict import ALPHA, Spending
from stmdeploy.check.ways import ByArtifacts, ByInterpreters, ByStoredNumbers, Contest, Way
from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.plugins.trust import (
    refuse_wishes,
    wishes_of_artifact,
    wishes_of_model,
    wishes_of_run,
    wishes_of_sweep,
)
from stmdeploy.results.state import now_utc
from stmdeploy.schema.artifact import Artifact
from stmdeploy.spec.limits import positive
from stmdeploy.sweeps.asked import check_interpreters
from stmdeploy.worker.jobs.job import without_checkpoint


@dataclass(frozen=True)
class CheckSpec:
    """What a check compares, and what it allows.

    Attributes:
        baseline: path of a baseline.
        candidate: path of another baseline, a folder of artifacts or one artifact; None exports
            the baseline's models again or, if an interpreter is given, runs its own artifacts.
        baseline_python, candidate_python: interpreter of each side; empty for this one.
        stored: compare with the stored numbers, without running the baseline.
        policy: thresholds, budgets and gates.
        timeout_s: a worker that runs for longer is ended.
        trust: whether programs, addresses and paths that the baseline names may be used.
        task: rows of this task alone are compared; empty for all.
    """

    baseline: Path
    candidate: Path | None = None
    baseline_python: str = ""
    candidate_python: str = ""
    stored: bool = False
    policy: Policy = field(default_factory=Policy)
    timeout_s: float = 600.0
    trust: bool = False
    task: str = ""

    def __post_init__(self) -> None:
        positive(self.timeout_s, "timeout")
        if self.stored and self.baseline_python:
            raise StmdeployError(
                "--stored runs no baseline", "leave out either --baseline-python or --stored"
            )

    @property
    def way(self) -> Way:
        """How it compares."""
        if self.stored:
            return ByStoredNumbers(self.candidate, self.candidate_python)
        if self.candidate is None and (self.baseline_python or self.candidate_python):
            return ByInterpreters()
        return ByArtifacts(self.candidate)


def check(spec: CheckSpec, progress: Progress) -> CheckResult:
    """Compares every row of a baseline with its candidate.

    Raises:
        StmdeployError: bad input (exit code 2), or an export that fails (its own exit code).
            Workers that fail, outputs that differ and verdicts are part of the result.
    """
    check_interpreters({spec.baseline_python, spec.candidate_python})
    way = spec.way
    with ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(spec.baseline))
        _refuse_wishes(spec, bundle)
        entries = _entries(spec, way, bundle, stack, progress)
        measured = compare(
            spec,
            lambda entry: way.contest(bundle, entry),
            way.differences(bundle.baseline, entries[0].spec.run.gpu_uuid),
            entries,
            progress,
        )
        return CheckResult(
            stmdeploy_version=version("stmdeploy"),
            created_utc=now_utc(),
            baseline=f"{spec.baseline.name} {bundle.baseline.id}",
            candidate=_candidate_words(spec, way),
            way=way.name,
            machine=machine_key(entries[0].spec.run.gpu_uuid),
            error_probability=ALPHA,
            cannot_tell=spec.policy.cannot_tell,
            rows=tuple(measured),
        )


def _candidate_words(spec: CheckSpec, way: Way) -> str:
    where = str(spec.candidate or ("exported again" if way.exports_again else "the same artifacts"))
    return f"{where}, by {spec.candidate_python}" if spec.candidate_python else where


def _entries(
    spec: CheckSpec, way: Way, bundle: Bundle, stack: ExitStack, progress: Progress
) -> tuple[Entry, ...]:
    """Every row with the two artifacts to compare, ready to be measured."""
    rows = [row for row in bundle.baseline.rows if spec.task in ("", row.row_spec.model.task)]
    if not rows:
        raise StmdeployError(
            f"{spec.baseline} has no row of {spec.task}",
            "leave --task out, or name another baseline",
        )
    runs = {row.name: run_here(row.row_spec.run, progress) for row in rows}
    for pattern in spec.policy.unused({row.name for row in rows}):
        progress.warn(
            f"WARNING: no row matches {pattern!r}; list them: stmdeploy baseline show "
            f"{spec.baseline}"
        )
    originals = {row.name: bundle.artifact(row.artifact) for row in rows}
    artifacts = way.candidates(bundle, stack, progress)
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
    """Raises StmdeployError if using what the baseline names takes --trust."""
    wishes = list(wishes_of_sweep(bundle.baseline.sweep_asked)) if spec.way.exports_again else []
    for row in bundle.baseline.rows:
        asked = row.row_spec
        exporter = exporter_of(asked.run.runtime)
        if not exporter.target.holds_code:
            # A checkpoint is only read to export again.
            wishes += wishes_of_model(without_checkpoint(asked.model))
        wishes += wishes_of_run(asked.run)
        for name in (row.artifact, row.workload):
            wishes += wishes_of_artifact(Path(name), exporter)
    refuse_wishes(wishes, str(spec.baseline), trust=spec.trust)


def _refuse_programs(
    spec: CheckSpec, rows: Sequence[BaselineRow], artifacts: Mapping[str, Artifact]
) -> None:
    """Raises StmdeployError if running compiled artifacts of a folder takes --trust; an artifact
    that the command line names itself does not."""
    wishes = [
        wish
        for row in rows
        for wish in wishes_of_artifact(
            artifacts[row.name].path, exporter_of(row.row_spec.run.runtime)
        )
        if artifacts[row.name].path != spec.candidate
    ]
    refuse_wishes(wishes, str(spec.candidate), trust=spec.trust)


def compare(
    spec: CheckSpec,
    contest_of: Callable[[Entry], Contest],
    differing: tuple[str, ...],
    entries: Sequence[Entry],
    progress: Progress,
) -> list[CheckedRow]:
    """Measures pair after pair: one of every undecided row, in random order, until none is left.

    Args:
        contest_of: how a row is measured.
        differing: what makes a comparison impossible here, in words; empty if nothing does.
    """
    dice = random.Random(time.time_ns())
    running = {
        entry.row.name: _comparison(spec, contest_of(entry), entry, len(entries), progress)
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
    spec: CheckSpec, contest: Contest, entry: Entry, rows: int, progress: Progress
) -> Comparison:
    """The comparison of one row, of `rows` that share the error probability."""
    dice = random.Random(time.time_ns())
    artifacts = (contest.against.artifact, entry.candidate.artifact)
    sides = contest.other, contest.candidate
    limits = entry.policy.gates if contest.against is entry.baseline else {}
    turns = TURNS_FOR_TAIL if TAIL in limits else TURNS

    def measured() -> Pair:
        """One pair; raises StmdeployError if an artifact changes before or while it runs."""
        for artifact in artifacts:
            artifact.check()
        pair = measure_pair(*sides, spec.timeout_s, dice, progress, turns)
        for artifact in artifacts:
            artifact.check()
        return pair

    judged = measured_gates(limits)
    share = ALPHA / rows / (1 + len(judged))
    return Comparison(
        measure=measured,
        estimate=contest.estimate,
        threshold_percent=contest.threshold_percent,
        budget_s=entry.policy.budget_s,
        spending=Spending(share),
        prior=contest.prior,
        gates=[MeasuredGate(name, limits[name], Spending(share)) for name in judged],
    )
