"""The three ways of comparing: old artifacts with new ones, one artifact under two interpreters,
and new measurements with stored ones."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from stmdeploy.check.baseline import WORKLOAD, workload_run
from stmdeploy.check.bundle import Baseline, Bundle
from stmdeploy.check.comparison import Estimate
from stmdeploy.check.judging import Entry
from stmdeploy.check.machine import machine_key
from stmdeploy.check.side_by_side import Side
from stmdeploy.check.sides import Contender, find_candidates
from stmdeploy.check.verdict import (
    APART_PERCENT,
    Prior,
    paired_slowdown,
    prior_of,
    unpaired_slowdown,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_runtime
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.sweeps.exports import export_rows, path_of

Artifacts = dict[str, Artifact]


@dataclass(frozen=True)
class Contest:
    """How a row is measured: two sides, how their figures become a slowdown, and what is known of
    the spread of pairs.

    ``against`` is what runs on the side `other`.
    """

    against: Contender
    other: Side
    candidate: Side
    estimate: Estimate
    threshold_percent: float
    prior: Prior | None


class Way(Protocol):
    """How a check compares; unless a way says otherwise, both sides are measured here, in pairs."""

    @property
    def name(self) -> str:
        """Its name in results: ``artifacts``, ``interpreters`` or ``stored``."""

    @property
    def exports_again(self) -> bool:
        """Whether the candidates are the baseline's models, exported by this stmdeploy."""

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """The artifact to compare with each row, by the row's name.

        Args:
            stack: keeps what is unpacked or exported until the check is over.

        Raises:
            StmdeployError: a row has no candidate, or cannot be compared in this way.
        """

    def differences(self, baseline: Baseline, gpu_uuid: str) -> tuple[str, ...]:
        """What makes a comparison impossible here, in words; empty if nothing does."""
        return ()

    def contest(self, bundle: Bundle, entry: Entry) -> Contest:
        """How a row is measured."""
        model, run = entry.spec.model, entry.spec.run
        return Contest(
            against=entry.baseline,
            other=entry.baseline.side(model, run),
            candidate=entry.candidate.side(model, run),
            estimate=paired_slowdown,
            threshold_percent=entry.policy.threshold_percent,
            prior=prior_of(entry.row.calibrated),
        )


@dataclass(frozen=True)
class _WithCandidate(Way):
    """A way whose candidates lie at a path, as `find_candidates` takes it, or, for None, are the
    baseline's models exported again."""

    candidate: Path | None

    @property
    def exports_again(self) -> bool:
        """Whether no candidate is named."""
        return self.candidate is None

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """The named artifacts, or those exported again."""
        rows = bundle.baseline.rows
        if self.candidate is not None:
            return find_candidates(self.candidate, rows, stack)
        scratch = stack.enter_context(scratch_folder("check"))
        again = export_rows(bundle.baseline.sweep_asked, scratch, progress)
        return {row.name: read_artifact(path_of(again[row.row_spec])) for row in rows}


@dataclass(frozen=True)
class ByArtifacts(_WithCandidate):
    """Old artifacts against new ones."""

    name = "artifacts"

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """As of every candidate; refuses weights alone, which today's code would run twice."""
        for row in bundle.baseline.rows:
            if not exporter_for_runtime(row.row_spec.run.runtime).target.holds_code:
                raise StmdeployError(
                    f"{row.name}: its artifact holds weights and no code, so both sides would run "
                    "the same code",
                    "compare two interpreters with --baseline-python, or use --stored",
                )
        return super().candidates(bundle, stack, progress)


@dataclass(frozen=True)
class ByInterpreters(Way):
    """The baseline's artifacts on both sides, each side run by an interpreter of its own."""

    name = "interpreters"
    exports_again = False

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """The baseline's own artifacts."""
        return {row.name: bundle.artifact(row.artifact) for row in bundle.baseline.rows}


@dataclass(frozen=True)
class ByStoredNumbers(_WithCandidate):
    """The candidate measured beside the calibration workload, against the baseline's stored numbers
    of the same; the interpreter ``python`` runs both."""

    python: str
    name = "stored"

    def differences(self, baseline: Baseline, gpu_uuid: str) -> tuple[str, ...]:
        """How this machine differs from the one that the numbers were measured on."""
        return baseline.machine.differences(machine_key(gpu_uuid))

    def contest(self, bundle: Bundle, entry: Entry) -> Contest:
        """The candidate against the workload; the threshold leaves room for what has changed."""
        model, run = entry.spec.model, entry.spec.run
        stored = entry.row.calibrated
        (row,) = (one for one in bundle.baseline.rows if one.name == entry.row.name)
        workload = Contender(bundle.artifact(row.workload), self.python)
        return Contest(
            against=workload,
            other=workload.side(WORKLOAD, workload_run(run)),
            candidate=entry.candidate.side(model, run),
            estimate=lambda figures, level, _: unpaired_slowdown(stored, figures, level),
            threshold_percent=entry.policy.threshold_percent + APART_PERCENT,
            prior=None,
        )
