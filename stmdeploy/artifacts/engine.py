"""Engines built on the machine that runs them: found in a folder, or built and verified."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from stmdeploy.artifacts.verification import draft_runner, verified_batches, verify
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import staging
from stmdeploy.hardware.nvml import driver_version
from stmdeploy.plugins.exporter import BuildWork, EngineBuilder, Exporter
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.artifact import Artifact, file_info, publish_artifact, read_artifact
from stmdeploy.schema.manifest import Draft, Verification
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    from torch import nn


def built_engine(
    source_path: Path, run: RunSpec, engine: EngineSpec, folder: Path, progress: Progress
) -> Artifact:
    """The engine of a source on this machine: found in a folder of engines, or built into it.

    An engine is looked up by what it depends on: the source's content, the GPU and its driver,
    the builder's version, and the settings. If it can run here, a new one is verified against the
    model's outputs in the manifest of its source.

    Raises:
        StmdeployError: the source was changed, the build failed, or (exit code 4) outputs differ.
    """
    source = read_artifact(source_path)
    exporter = exporter_for_target(source.manifest.target)
    assert isinstance(exporter, EngineBuilder)
    key = engine_key(source, exporter.engine_key(engine), run, engine)
    name = source.path.name.removesuffix(f".{exporter.target.name}.onnx") + exporter.target.suffix
    place = folder / key
    with suppress(StmdeployError):
        return read_artifact(place / name)  # a damaged engine is built again
    progress.step(f"building {name}")
    with staging(place) as scratch:
        draft = exporter.build(source, BuildWork(engine, scratch, progress.detail))
        verification = _verified(exporter, source, scratch / draft.files[0], draft, run)
        manifest = source.manifest.model_copy(
            update={
                "state": "built, not run" if draft.not_run else "verified",
                "not_run": draft.not_run,
                "files": tuple(file_info(scratch / name) for name in draft.files),
                "engine": draft.engine,
                "versions": {**source.manifest.versions, **draft.versions},
                "verification": verification,
                "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            }
        ).sealed()
        publish_artifact(scratch, manifest, place)
    return read_artifact(place / name)


def engine_key(source: Artifact, builder: dict[str, str], run: RunSpec, engine: EngineSpec) -> str:
    """All that an engine depends on, as a hash of 32 hex digits.

    Args:
        builder: as `EngineBuilder.engine_key` gives it.
    """
    depends = {
        **builder,
        "gpu": run.gpu_name,
        "driver": driver_version(),
        "settings": TypeAdapter(EngineSpec).dump_json(engine).decode(),
        "source": [file.sha256 for file in source.manifest.files],
        "stmdeploy": version("stmdeploy"),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def _verified(
    exporter: Exporter, source: Artifact, main: Path, draft: Draft, run: RunSpec
) -> Verification | None:
    """The engine's verification against the model's known outputs; the source's if it cannot run
    here."""
    mine = source.manifest.verification
    if mine is None or draft.not_run:
        return mine

    def load(batch: int) -> Runner:
        return draft_runner(exporter, main, draft, replace(run, batch=batch), _no_module)

    return verify(
        load,
        mine.outputs,
        source.manifest.model.pixels,
        source.manifest.precision,
        mine.tolerance_relative_l2,
        lambda _: "",
        verified_batches(draft),
    )


def _no_module() -> nn.Module:
    """Stands for the module's factory: engines and graphs need no module."""
    raise AssertionError("an engine asked for its module")
