"""Makes a baseline: measures a sweep, then every row beside the calibration workload."""

from __future__ import annotations

import random
import shutil
import time
from dataclasses import replace
from pathlib import Path

from stmdeploy.check.bundle import (
    Baseline,
    BaselineRow,
    add_object,
    new_bundle,
    row_names,
    write_baseline,
)
from stmdeploy.check.machine import machine_key
from stmdeploy.check.side_by_side import Pair, measure_pair
from stmdeploy.check.sides import Contender
from stmdeploy.check.verdict import figures_of
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.hardware.environment import environment
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.database import FILE_NAME
from stmdeploy.results.state import now_utc
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import LOOP, RunSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.exports import artifact_for, export_rows, path_of
from stmdeploy.sweeps.profile import Place, SweepResult, profile

#: The calibration workload as a model; it stands in `workload.py`, which imports torch.
WORKLOAD = ModelSpec("stmdeploy.check.workload:network", num_classes=10)
#: Pairs in which every row is measured beside the workload.
_CALIBRATION_PAIRS = 12


def check_rows(spec: SweepSpec) -> None:
    """Raises StmdeployError for rows that a check cannot compare."""
    for run in spec.runs:
        if run.scenario.name != LOOP or run.in_flight != 1 or run.python:
            raise StmdeployError(
                "a baseline holds plain rows: the loop, one request at a time, this Python",
                "leave out --scenario, --in-flight and --python",
            )


def create_baseline(spec: SweepSpec, path: Path, progress: Progress) -> Baseline:
    """Measures a sweep and packs it with its artifacts; `path` appears whole or not at all.

    Raises:
        StmdeployError: bad input, a row that cannot be measured (exit code 5), or `path` exists.
    """
    check_rows(spec)
    # The bundle first: a place that cannot be written to is an error before anything is measured.
    with new_bundle(path) as bundle, scratch_folder("sweep") as folder:
        plain = replace(spec, explain=False)
        result = profile(plain, Place(folder / "sweep"), progress, lambda _: None)
        failed = [row for row in result.rows if row.failure]
        if failed:
            raise StmdeployError(
                f"{failed[0].model} on {failed[0].runtime}, batch {failed[0].batch}: "
                f"{failed[0].failure}",
                "leave this row out, or fix it: every row of a baseline must be measured",
                ExitCode.WORKER_FAILED,
            )
        workloads = _workloads(spec, folder / "workload", progress)
        return _filled(spec, result, Store(folder / "sweep"), workloads, bundle, progress)


def _workloads(spec: SweepSpec, folder: Path, progress: Progress) -> dict[str, Artifact]:
    """The calibration workload for every runtime of a sweep."""
    runtimes = dict.fromkeys(map(workload_run, spec.runs))
    small = SweepSpec((WORKLOAD,), tuple(runtimes), engine=replace(spec.engine, batch=(1, 1, 1)))
    found = export_rows(small, folder, progress)
    return {row.run.runtime: read_artifact(path_of(one)) for row, one in found.items()}


def _filled(
    spec: SweepSpec,
    result: SweepResult,
    measured: Store,
    workloads: dict[str, Artifact],
    bundle: Path,
    progress: Progress,
) -> Baseline:
    specs = spec.rows()
    ready = measured.prepared(result.sweep.id)
    models = {model: ready[position] for position, model in enumerate(spec.models)}
    artifacts = [read_artifact(path_of(artifact_for(row, models[row.model]))) for row in specs]
    marks = [workloads[row.run.runtime] for row in specs]
    calibration = _calibrate(spec, marks, artifacts, progress)
    rows = tuple(
        BaselineRow(
            name=name,
            spec=row_spec.to_json(),
            artifact=add_object(artifact, bundle),
            workload=add_object(mark, bundle),
            runtime_version=pairs[-1].candidate.run.runtime_facts.get("version", ""),
            row=row,
            calibrated=tuple(
                figures_of(pair.baseline.taken, pair.candidate.taken).typical for pair in pairs
            ),
            outputs=pairs[-1].candidate.run.outputs,
        )
        for name, row_spec, artifact, mark, row, pairs in zip(
            row_names(specs), specs, artifacts, marks, result.rows, calibration, strict=True
        )
    )
    measured.close()  # writes the last of its file
    shutil.copyfile(measured.folder / FILE_NAME, bundle / FILE_NAME)
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


def _calibrate(
    spec: SweepSpec, marks: list[Artifact], artifacts: list[Artifact], progress: Progress
) -> list[list[Pair]]:
    """The pairs of every row with the workload, measured in turn over all rows."""
    specs = spec.rows()
    calibration: list[list[Pair]] = [[] for _ in specs]
    progress.expect(_CALIBRATION_PAIRS)
    for done in range(_CALIBRATION_PAIRS):
        progress.step(f"measuring beside the calibration workload, {done} of {_CALIBRATION_PAIRS}")
        for row, mark, artifact, pairs in zip(specs, marks, artifacts, calibration, strict=True):
            before = Contender(mark).side(WORKLOAD, workload_run(row.run))
            after = Contender(artifact).side(row.model, row.run)
            dice = random.Random(time.time_ns())
            pairs.append(measure_pair(before, after, spec.row_timeout_s, dice, progress))
    return calibration


def workload_run(run: RunSpec) -> RunSpec:
    """The run of the workload beside a row: as the row's, at batch 1 in fp32."""
    return replace(run, batch=1, precision="fp32")
