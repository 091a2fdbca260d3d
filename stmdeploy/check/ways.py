"""The three ways of comparing: old artifacts with new ones, one artifact under two interpreters,
and new measurements with stored ones."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from stmdeploy.check.baseline import WORKLOAD, workload_run
from stmdeploy.check.bundle import Baseline, BaselineRow, Bundle
from stmdeploy.check.comparison import Estimate
from stmdeploy.check.judging import Entry
from stmdeploy.check.machine import machine_key
from stmdeploy.check.side_by_side import Side
from stmdeploy.check.sides import Contender, find_candidates
from stmdeploy.check.verdict import APART_PERCENT, paired_slowdown, unpaired_slowdown
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_runtime
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.sweeps.exports import export_rows, path_of

Artifacts = dict[str, Artifact]


@dataclass(frozen=True)
class Contest:
    """A row as it is measured: two contenders, and how their figures become a slowdown."""

    against: Contender
    other: Side
    candidate: Side
    estimate: Estimate
    threshold_percent: float


class Way(Protocol):
    """How a check compares; by default two sides that are both measured here, in pairs."""

    @property
    def name(self) -> str:
        """As results call it."""

    @property
    def exports_again(self) -> bool:
        """Whether the candidates are the baseline's models, exported by this stmdeploy."""

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """The artifact that stands for each row, by the row's name.

        Args:
            stack: keeps what is unpacked or exported until the check is over.

        Raises:
            StmdeployError: nothing stands for a row.
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
        )


@dataclass(frozen=True)
class ByArtifacts(Way):
    """Old artifacts against new ones.

    ``candidate``: as of `find_candidates`; None to export the baseline's models again.
    """

    candidate: Path | None
    name = "artifacts"

    @property
    def exports_again(self) -> bool:
        """Where no candidate is named."""
        return self.candidate is None

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """What is named, or exported again; an artifact without code is refused."""
        for row in bundle.baseline.rows:
            _refuse_weights_alone(row)
        return _found_or_exported(self.candidate, bundle, stack, progress)


@dataclass(frozen=True)
class ByInterpreters(Way):
    """The baseline's artifacts on both sides, each side run by an interpreter of its own."""

    name = "interpreters"
    exports_again = False

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """The baseline's own."""
        return {row.name: bundle.artifact(row.artifact) for row in bundle.baseline.rows}


@dataclass(frozen=True)
class ByStoredNumbers(Way):
    """The candidate beside the calibration workload, against the baseline's numbers of the same.

    ``candidate``: as of `ByArtifacts`; ``python`` runs both.
    """

    candidate: Path | None
    python: str
    name = "stored"

    @property
    def exports_again(self) -> bool:
        """Where no candidate is named."""
        return self.candidate is None

    def candidates(self, bundle: Bundle, stack: ExitStack, progress: Progress) -> Artifacts:
        """What is named, or exported again."""
        return _found_or_exported(self.candidate, bundle, stack, progress)

    def differences(self, baseline: Baseline, gpu_uuid: str) -> tuple[str, ...]:
        """Stored numbers are of one machine."""
        return baseline.machine.differences(machine_key(gpu_uuid))

    def contest(self, bundle: Bundle, entry: Entry) -> Contest:
        """The candidate and the workload; the threshold leaves room for what may have changed."""
        model, run = entry.spec.model, entry.spec.run
        workload = Contender(bundle.artifact(entry.row.workload), self.python)
        return Contest(
            against=workload,
            other=workload.side(WORKLOAD, workload_run(run)),
            candidate=entry.candidate.side(model, run),
            estimate=partial(unpaired_slowdown, entry.row.calibrated),
            threshold_percent=entry.policy.threshold_percent + APART_PERCENT,
        )


def _found_or_exported(
    candidate: Path | None, bundle: Bundle, stack: ExitStack, progress: Progress
) -> Artifacts:
    rows = bundle.baseline.rows
    if candidate is not None:
        return find_candidates(candidate, rows, stack)
    scratch = stack.enter_context(scratch_folder("check"))
    again = export_rows(bundle.baseline.sweep_asked, scratch, progress)
    return {row.name: read_artifact(path_of(again[row.row_spec])) for row in rows}


def _refuse_weights_alone(row: BaselineRow) -> None:
    """Two artifacts without code would both be run by the code of today: nothing is compared."""
    if not exporter_for_runtime(row.row_spec.run.runtime).target.holds_code:
        raise StmdeployError(
            f"{row.name}: its artifact holds weights and no code, so both sides would run the same",
            "compare two interpreters (--baseline-python), or --stored numbers",
        )
