"""Exports what the rows of a sweep need, and finds the artifact of a row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stmdeploy.errors import FailureKind, StmdeployError
from stmdeploy.plugins.exporter import EngineBuilder
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.schema.row import Prepared, PreparedArtifact
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.sweep import RowSpec, SweepSpec
from stmdeploy.sweeps.asked import check_sweep
from stmdeploy.worker.exports import export_model

#: Of the hash of a file's path, for the folder of its artifacts.
_DIGITS = 12


def export_for(spec: SweepSpec, model: ModelSpec, folder: Path, progress: Progress) -> Prepared:
    """Exports a model of a sweep for all targets and precisions of its rows, in a worker.

    Args:
        folder: where the artifacts go.

    Returns:
        The model with an artifact, or a failure, for every target and precision.

    Raises:
        StmdeployError: as `export_model`.
    """
    uuid = next((run.gpu_uuid for run in spec.runs if run.gpu_uuid), "")
    exports = exports_of(spec, model, folder)
    return export_model(model, exports, spec.export_timeout_s, progress, uuid)


def exports_of(spec: SweepSpec, model: ModelSpec, folder: Path) -> list[ExportSpec]:
    """What the rows of a model need exported, into a folder."""
    asked = {
        (row.run.precision, exporter_of(row.run.runtime).target.name): None
        for row in spec.rows()
        if row.model == model
    }
    if model.file is not None:  # others may have files of the same names
        folder = folder / hashlib.sha256(str(model.file.path).encode()).hexdigest()[:_DIGITS]
    shared = ExportSpec(
        model, "", folder, lowering=spec.lowering, calibration=spec.calibration,
        source_only=bool(spec.nodes),
    )  # fmt: skip
    settings = _settings(spec)
    return [
        replace(shared, target=target, precision=precision, engine=engine, provider=provider)
        for precision, target in asked
        for engine, provider in settings[target]
    ]


def _settings(spec: SweepSpec) -> dict[str, list[tuple[EngineSpec, str]]]:
    """For every target, the engines and providers of its exports: of targets that build engines one
    for every batch, lest kernels be chosen for another; where nodes build them, one source for all.
    """
    found: dict[str, list[tuple[EngineSpec, str]]] = {}
    for run in spec.runs:
        exporter = exporter_of(run.runtime)
        one_each = isinstance(exporter, EngineBuilder) and not spec.nodes
        engine = spec.engine.for_batch(run.batch) if one_each else EngineSpec()
        smaller = _halves(engine) if one_each and spec.smaller_batch else ()
        known = found.setdefault(exporter.target.name, [])
        for one in (engine, *smaller):
            if (one, run.gpu_provider) not in known:
                known.append((one, run.gpu_provider))
    return found


def _halves(engine: EngineSpec) -> Iterator[EngineSpec]:
    """For half the batch, and half of that, down to one."""
    batch = engine.batch[0] // 2
    while batch:
        yield engine.for_batch(batch)
        batch //= 2


def artifact_for(row: RowSpec, prepared: Prepared) -> PreparedArtifact:
    """The export of a row's model for its runtime, precision and batch."""
    wanted = (exporter_of(row.run.runtime).target.name, row.run.precision)
    return next(
        one
        for one in prepared.artifacts
        if (one.target, one.precision) == wanted
        and one.batch in (None, row.run.batch)
        and one.provider == row.run.gpu_provider
    )


def export_rows(
    spec: SweepSpec, folder: Path, progress: Progress
) -> dict[RowSpec, PreparedArtifact]:
    """Exports what every row of a sweep needs, each model in a worker, without measuring.

    Args:
        folder: where the artifacts go.

    Raises:
        StmdeployError: bad input, or a failed export, with the exit code of that failure.
    """
    check_sweep(spec)
    models = {model: export_for(spec, model, folder, progress) for model in spec.models}
    found = {row: artifact_for(row, models[row.model]) for row in spec.rows()}
    for row, artifact in found.items():
        if artifact.failure is not None:
            raise artifact.failure.error(
                f"{row.model.label} for {row.run.runtime}: ",
                "fix the model or the exporter, and run the command again",
            )
    return found


def path_of(artifact: PreparedArtifact) -> Path:
    """The main file of an artifact.

    Raises:
        StmdeployError: it was not exported.
    """
    if artifact.path is not None:
        return artifact.path
    assert artifact.failure is not None
    failure = artifact.failure
    raise StmdeployError(
        f"not exported: {failure.message}", failure.hint, failure.code, FailureKind.NOT_EXPORTED
    )
