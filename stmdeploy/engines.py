"""Engines built where they run: looked up by what they depend on, or built and compared."""

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

from stmdeploy.artifact import (
    Artifact,
    Draft,
    Verification,
    file_info,
    manifest_path,
    read_artifact,
)
from stmdeploy.contracts import BuildWork, EngineBuilder, Exporter, Progress, Runner
from stmdeploy.errors import StmdeployError
from stmdeploy.files import publish, staging
from stmdeploy.hardware import driver_version
from stmdeploy.registry import exporter_for_target
from stmdeploy.spec import EngineSpec, RunSpec, available_threads
from stmdeploy.verify import verify_beside

if TYPE_CHECKING:
    from torch import nn

#: Images per inference when an engine is compared with its source.
_BATCHES = (1, 3)


def built_engine(
    source_path: Path, run: RunSpec, engine: EngineSpec, folder: Path, progress: Progress
) -> Artifact:
    """The engine of a source on this machine: found in a folder of engines, or built into it.

    An engine is looked up by what it depends on: the source's content, the GPU and its driver,
    the builder's version, and the settings. A new one is compared with its source where it can
    run; ``relative_l2_error`` is then a bound, the source's own added.

    Raises:
        StmdeployError: a source that was changed, a build that failed, or outputs that differ.
    """
    source = read_artifact(source_path)
    exporter = exporter_for_target(source.manifest.target)
    assert isinstance(exporter, EngineBuilder)
    key = engine_key(source, exporter.engine_key(engine), run, engine)
    name = source.path.name.removesuffix(f".{exporter.target}.onnx") + exporter.suffix
    place = folder / key
    with suppress(StmdeployError):
        return read_artifact(place / name)  # what is not whole is built again
    progress.step(f"building {name}")
    with staging(place) as scratch:
        draft = exporter.build(source, BuildWork(engine, scratch, progress.detail))
        verification = _beside_source(exporter, source, scratch / draft.files[0], draft, run)
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
        beside = manifest_path(scratch / draft.files[0])
        beside.write_text(manifest.model_dump_json(indent=1), "utf-8")
        publish(scratch, [*reversed(draft.files), beside.name], place)
    return read_artifact(place / name)


def engine_key(source: Artifact, builder: dict[str, str], run: RunSpec, engine: EngineSpec) -> str:
    """What engines of one source may differ by, as one word."""
    depends = {
        **builder,
        "gpu": run.gpu_name,
        "driver": driver_version(),
        "settings": TypeAdapter(EngineSpec).dump_json(engine).decode(),
        "source": [file.sha256 for file in source.manifest.files],
        "stmdeploy": version("stmdeploy"),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()[:32]


def _beside_source(
    exporter: Exporter, source: Artifact, main: Path, draft: Draft, run: RunSpec
) -> Verification:
    """The engine against the graph it was built of; the source's own word where it cannot run."""
    mine = source.manifest.verification
    if draft.not_run:
        return mine
    as_graph = draft.model_copy(update={"not_run": "the graph itself"})

    def graph(batch: int) -> Runner:
        on_cpu = RunSpec(run.runtime, batch, available_threads(), precision=run.precision)
        return exporter.check(main, as_graph, on_cpu, _no_module)

    def built(batch: int) -> Runner:
        return exporter.check(main, draft, replace(run, batch=batch), _no_module)

    least, most = draft.engine.batch[::2] if draft.engine else _BATCHES
    batches = tuple(sorted({min(max(batch, least), most) for batch in _BATCHES}))
    size = source.manifest.model.image_size
    # Both may be off by the tolerance, to either side.
    allowed = mine.tolerance_relative_l2 and 2 * mine.tolerance_relative_l2
    found = verify_beside(built, graph, size, allowed, batches)
    return found.model_copy(
        update={
            "relative_l2_error": mine.relative_l2_error + found.relative_l2_error,
            "worst_logit_difference": mine.worst_logit_difference + found.worst_logit_difference,
        }
    )


def _no_module() -> nn.Module:
    """Engines and graphs need none."""
    raise AssertionError("an engine asked for its module")
