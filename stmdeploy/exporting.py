"""One artifact, from a built model: lower -> export -> verify -> judge -> seal -> publish."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.artifact import (
    Artifact,
    Draft,
    Fidelity,
    Manifest,
    Verification,
    file_info,
    manifest_path,
)
from stmdeploy.backbones.source import BuiltModel, build_module
from stmdeploy.contracts import Exporter, Progress, Runner, Work
from stmdeploy.errors import StmdeployError
from stmdeploy.files import publish, staging
from stmdeploy.graph import graph_cost, operations
from stmdeploy.images import load_images
from stmdeploy.lowering import REFERENCE, forms_of, lower
from stmdeploy.spec import (
    HIGHEST_INT8_OPSET,
    LOWEST_OPSET,
    CalibrationSpec,
    ExportSpec,
    RunSpec,
    available_threads,
    check_precision,
)
from stmdeploy.verify import fidelity, known_outputs, verified_batches, verify

if TYPE_CHECKING:
    from stmdeploy.contracts import Array

#: Steps that `progress` is told of.
EXPORT_STEPS = 2
FULL_PRECISION = "fp32"
RANDOM = "random"
_CALIBRATION_SEED, _JUDGING_SEED = 1, 2
#: Images per inference when an artifact is judged.
_JUDGING_BATCH = 4


def export_built(
    built: BuiltModel, exporter: Exporter, spec: ExportSpec, progress: Progress
) -> Artifact:
    """Writes an artifact and its manifest into a scratch folder, verifies, then renames.

    Raises:
        StmdeployError: bad input (2), or outputs that differ from PyTorch (4).
    """
    check_precision(exporter.target, spec.precision, exporter.tolerances)
    calibrating, judging, source = _images(spec, progress)
    with staging(spec.folder) as scratch:
        progress.step(f"exporting {spec.model.name} to {spec.target}, {spec.precision}")
        form = _form(built, exporter, spec)
        start = time.perf_counter()
        work = Work(
            module=lower(built.module, form),
            form=form,
            info=built.info,
            spec=spec,
            folder=scratch,
            images=calibrating,
            images_source=source,
            tell=progress.detail,
        )
        draft = exporter.export(work)
        export_s = time.perf_counter() - start
        progress.step(f"verifying {spec.model.name} for {spec.target}, {spec.precision}")
        verification, judged = _checked(built, exporter, spec, scratch, draft, judging, source)
        manifest = Manifest(
            state="built, not run" if draft.not_run else "verified",
            target=spec.target,
            precision=spec.precision,
            lowering=form,
            model=built.info,
            files=tuple(file_info(scratch / name) for name in draft.files),
            verification=verification,
            fidelity=judged,
            cost=graph_cost(scratch / draft.graph)
            if draft.graph and draft.graph_is_exact
            else None,
            operations=operations(scratch / draft.graph) if draft.graph else (),
            created_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            export_s=export_s,
            **{
                **draft.model_dump(exclude={"files", "graph", "graph_is_exact"}),
                "versions": {"stmdeploy": version("stmdeploy"), **draft.versions},
            },
        ).sealed()
        beside = manifest_path(scratch / draft.files[0])
        beside.write_text(manifest.model_dump_json(indent=1), "utf-8")
        # The manifest comes last: until it is there, the files are not an artifact.
        publish(scratch, [*reversed(draft.files), beside.name], spec.folder)
    return Artifact(spec.folder / draft.files[0], manifest)


def _images(spec: ExportSpec, progress: Progress) -> tuple[Array | None, Array | None, str]:
    """Images to calibrate with, others to judge with, and where they come from."""
    if spec.precision == FULL_PRECISION:
        return None, None, ""
    static = spec.precision == "int8"
    if spec.calibration.folder is None:
        if static:
            progress.warn(
                "WARNING: int8 scales are set with random images, which no photograph looks "
                "like: good enough for latency, wrong for accuracy. Give --calibration FOLDER."
            )
        calibrating, judging = _random_images(spec.calibration, spec.model.image_size)
        return calibrating if static else None, judging, RANDOM
    folder = spec.calibration.folder
    progress.step(f"reading images of {folder}")
    images = load_images(folder, 2 * spec.calibration.images, spec.model.image_size, progress.warn)
    if len(images) == 1:
        progress.warn(f"{folder} holds one image: it sets the scales and judges them")
    # Every other image, so that no scale is judged by the image that set it.
    halves = (images[::2], images[1::2] if len(images) > 1 else images)
    return halves[0] if static else None, halves[1], folder.resolve().name


def _random_images(spec: CalibrationSpec, size: tuple[int, int]) -> tuple[Array, Array]:
    import numpy as np

    shape = (spec.images, 3, *size)
    calibrating, judging = (
        np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
        for seed in (_CALIBRATION_SEED, _JUDGING_SEED)
    )
    return calibrating, judging


def _form(built: BuiltModel, exporter: Exporter, spec: ExportSpec) -> str:
    """The form to export: as asked, or as suits the target. Models of users stay as they are."""
    has = forms_of(built.config) if built.config is not None else (REFERENCE,)
    highest = max(LOWEST_OPSET.values()) if spec.opset is None else spec.opset
    if spec.precision.startswith("int8"):
        highest = min(highest, HIGHEST_INT8_OPSET)
    forms = [
        form for form in exporter.lowerings if form in has and LOWEST_OPSET[form] <= highest
    ] or [REFERENCE]
    if spec.lowering not in (None, *forms):
        raise StmdeployError(
            f"{spec.model.name} has no form {spec.lowering!r} for {exporter.target}",
            f"leave --lowering out, or choose one of: {', '.join(forms)}",
        )
    return spec.lowering or forms[0]


def _checked(
    built: BuiltModel,
    exporter: Exporter,
    spec: ExportSpec,
    scratch: Path,
    draft: Draft,
    judging: Array | None,
    source: str,
) -> tuple[Verification, Fidelity | None]:
    """What the written files give, against the module in float64."""
    main = scratch / draft.files[0]

    def load(batch: int) -> Runner:
        run = RunSpec(exporter.runtimes[0], batch, available_threads(), precision=spec.precision)
        return exporter.check(main, draft, run, lambda: build_module(spec.model))

    def explain(images: Array) -> str:
        return exporter.explain(main, draft, images)

    verification = verify(
        load,
        known_outputs(built.module, spec.model.image_size),
        spec.model.image_size,
        spec.precision,
        exporter.tolerances[spec.precision],
        explain,
        verified_batches(draft),
    )
    if judging is None:
        return verification, None
    batch = _JUDGING_BATCH
    if draft.engine and not draft.not_run:
        batch = min(max(batch, draft.engine.batch[0]), draft.engine.batch[2])
    return verification, fidelity(load, built.module, judging, source, explain, batch)
