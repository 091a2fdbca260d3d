"""Makes a baseline: measures a sweep, then every row beside the calibration workload."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from stmdeploy.artifact import Artifact, read_artifact
from stmdeploy.contracts import Progress
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files import scratch_folder
from stmdeploy.hardware import environment
from stmdeploy.pipeline import SweepResult, prepare, profile
from stmdeploy.preparing import ARTIFACTS
from stmdeploy.registry import exporter_for_runtime
from stmdeploy.regression.bundle import (
    Baseline,
    BaselineRow,
    add_object,
    new_bundle,
    row_names,
    write_baseline,
)
from stmdeploy.regression.machine import machine_key
from stmdeploy.regression.side_by_side import measure_wave, waiting
from stmdeploy.regression.sides import Contender, is_manifest
from stmdeploy.regression.verdict import pair_figure
from stmdeploy.results.database import FILE_NAME
from stmdeploy.results.row import PreparedArtifact, Row
from stmdeploy.results.store import now_utc
from stmdeploy.spec import LOOP, ModelSpec, RunSpec
from stmdeploy.sweep import RowSpec, SweepSpec

#: The calibration workload as a model; see `workload`, which imports torch.
WORKLOAD = ModelSpec("stmdeploy.regression.workload:network", num_classes=10)
#: Waves that every row is measured beside the workload.
_CALIBRATION_WAVES = 10


def check_rows(spec: SweepSpec) -> None:
    """Raises StmdeployError for rows that a check cannot compare."""
    for run in spec.runs:
        if run.scenario.name != LOOP or run.in_flight != 1 or run.python:
            raise StmdeployError(
                "a baseline holds plain rows",
                "leave --scenario, --in-flight and --python out",
            )


def create_baseline(spec: SweepSpec, path: Path, progress: Progress) -> Baseline:
    """Measures a sweep and packs it with its artifacts; `path` appears whole or not at all.

    Raises:
        StmdeployError: bad input, a row that cannot be measured (5), or a file in the way.
    """
    check_rows(spec)
    # The bundle's place first: what cannot be written is told before anything is measured.
    with new_bundle(path) as bundle, scratch_folder("sweep") as folder:
        plain = replace(spec, explain=False)
        result = profile(plain, folder / "sweep", progress, lambda _: None)
        failed = [row for row in result.rows if row.failure]
        if failed:
            raise StmdeployError(
                f"{failed[0].model} on {failed[0].runtime}, batch {failed[0].batch}: "
                f"{failed[0].failure}",
                "a baseline holds only rows that can be measured",
                ExitCode.WORKER_FAILED,
            )
        workloads = _workloads(spec, folder / "workload", progress)
        return _filled(spec, result, folder / "sweep", workloads, bundle, progress)


def _workloads(spec: SweepSpec, folder: Path, progress: Progress) -> dict[str, PreparedArtifact]:
    """The calibration workload for every runtime of a sweep."""
    folder.mkdir()
    runtimes = dict.fromkeys(map(workload_run, spec.runs))
    small = SweepSpec((WORKLOAD,), tuple(runtimes), engine=replace(spec.engine, batch=(1, 1, 1)))
    found = prepare(small, folder, progress)
    return {row.run.runtime: artifact for row, artifact in found.items()}


def _filled(
    spec: SweepSpec,
    result: SweepResult,
    sweep_folder: Path,
    workloads: dict[str, PreparedArtifact],
    bundle: Path,
    progress: Progress,
) -> Baseline:
    specs = spec.rows()
    beside = filter(is_manifest, (sweep_folder / ARTIFACTS).rglob("*.json"))
    made = {_identity(one): one for one in (read_artifact(p.with_suffix("")) for p in beside)}
    artifacts = [made[_identity_of(row)] for row in specs]
    marks = [_artifact(workloads[row.run.runtime]) for row in specs]
    calibrated = _calibrate(spec, marks, artifacts, progress)
    rows = tuple(
        BaselineRow(
            name=name,
            spec=row_spec.to_json(),
            artifact=add_object(artifact, bundle),
            workload=add_object(mark, bundle),
            runtime_version=_version(row),
            row=row,
            calibrated=tuple(found.means),
            logits=found.logits,
        )
        for name, row_spec, artifact, mark, row, found in zip(
            row_names(specs), specs, artifacts, marks, result.rows, calibrated, strict=True
        )
    )
    # `profile` has closed the store; its file is whole.
    shutil.copyfile(sweep_folder / FILE_NAME, bundle / FILE_NAME)
    return write_baseline(
        Baseline(
            created_utc=now_utc(),
            sweep=result.sweep.id,
            sweep_spec=spec.to_json(),
            machine=machine_key(specs[0].run.gpu_uuid),
            environment=environment(),
            rows=rows,
            files=(),
        ),
        bundle,
    )


def _identity(artifact: Artifact) -> tuple[str, tuple[int, int], str, str]:
    """What tells the artifacts of a sweep apart."""
    manifest = artifact.manifest
    return manifest.model.name, manifest.model.image_size, manifest.precision, manifest.target


def _identity_of(row: RowSpec) -> tuple[str, tuple[int, int], str, str]:
    """The `_identity` of a row's artifact."""
    target = exporter_for_runtime(row.run.runtime).target
    return row.model.name, row.model.image_size, row.run.precision, target


def _artifact(prepared: PreparedArtifact) -> Artifact:
    assert prepared.path is not None
    return read_artifact(prepared.path)


def _version(row: Row) -> str:
    assert row.measurement is not None
    return row.measurement.runtime_facts.get("version", "")


@dataclass
class _Calibrated:
    """A row beside the workload: the mean of every wave, and the row's logits."""

    means: list[float] = field(default_factory=list)
    logits: tuple[float, ...] = ()


def _calibrate(
    spec: SweepSpec, marks: list[Artifact], artifacts: list[Artifact], progress: Progress
) -> list[_Calibrated]:
    """Every row beside the workload, wave after wave over all rows."""
    specs = spec.rows()
    calibrated = [_Calibrated() for _ in specs]
    progress.expect(_CALIBRATION_WAVES)
    for done in range(_CALIBRATION_WAVES):
        progress.step(f"measuring beside the calibration workload, {done} of {_CALIBRATION_WAVES}")
        for row, mark, artifact, found in zip(specs, marks, artifacts, calibrated, strict=True):
            wave = measure_wave(
                Contender(mark).side(WORKLOAD, workload_run(row.run)),
                Contender(artifact).side(row.model, row.run),
                spec.row_timeout_s,
                random.Random(time.time_ns()),
                waiting(progress),
            )
            figures = (pair_figure(p.baseline.inferences, p.candidate.inferences)
                       for p in wave.pairs)  # fmt: skip
            found.means.append(fmean(figures))
            found.logits = wave.pairs[-1].candidate.run.logits
    return calibrated


def workload_run(run: RunSpec) -> RunSpec:
    """How the workload is run beside a row."""
    return replace(run, batch=1, precision="fp32")
