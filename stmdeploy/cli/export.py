"""`export` and `inspect`: artifacts made, and artifacts looked at."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options
from stmdeploy.cli.options import words
from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    from stmdeploy.artifact import Artifact
    from stmdeploy.spec import ExportSpec


class Layout(StrEnum):
    """How the files are laid out."""

    PLAIN = "plain"
    TRITON = "triton"


def export(
    stm: options.Stm = None,
    scale: options.Scale = None,
    all_scales: Annotated[
        bool, typer.Option("--all-scales", help="Every scale of the STMs named.")
    ] = False,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = None,
    checkpoint: options.Checkpoint = None,
    target: Annotated[
        list[str] | None,
        typer.Option("--target", help="See `stmdeploy list targets`. [default: onnx]"),
    ] = None,
    precision: options.Precision = None,
    calibration: options.CalibrationFolder = None,
    calibration_images: options.CalibrationImages = 16,
    lowering: options.Lowering = None,
    opset: Annotated[int | None, typer.Option("--opset", help="ONNX opset, 19 to 23.")] = None,
    batch: Annotated[
        list[str] | None,
        typer.Option("--batch", help="Of an engine: MIN,OPT,MAX, or one. [default: 1,8,32]"),
    ] = None,
    workspace_mib: options.WorkspaceMib = None,
    builder_level: options.BuilderLevel = None,
    timing_cache: options.TimingCache = None,
    compute_capability: options.ComputeCapability = None,
    layout: Annotated[
        Layout, typer.Option("--layout", help="triton: also a model repository of Triton.")
    ] = Layout.PLAIN,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Export backbones, verified against PyTorch in float64, with a manifest beside each."""
    from stmdeploy.cli.requests import ARTIFACTS_ROOT, engine_spec, model_specs
    from stmdeploy.spec import CalibrationSpec, ExportSpec

    if not words(stm) and not words(model):
        raise StmdeployError("nothing to export is named", "give --stm, as in --stm dcn")
    if all_scales and words(scale):
        raise StmdeployError("--all-scales and --scale exclude each other", "give one of them")
    folder = out or ARTIFACTS_ROOT
    models = model_specs(
        stm=stm, scale=["all"] if all_scales else scale, model=model, image_size=image_size,
        num_classes=num_classes, checkpoint=checkpoint,
    )  # fmt: skip
    engine = engine_spec(
        batch, workspace_mib, builder_level, timing_cache, words(compute_capability)
    )
    specs = [
        ExportSpec(
            spec, name, folder, kind, lowering, opset,
            CalibrationSpec(calibration, calibration_images), engine,
        )
        for spec in models
        for name in words(target) or ["onnx"]
        for kind in words(precision) or ["fp32"]
    ]  # fmt: skip
    _export(specs, layout, json)


def _export(specs: list[ExportSpec], layout: Layout, json: bool) -> None:
    from stmdeploy.cli import console
    from stmdeploy.pipeline import check_export, export_model
    from stmdeploy.triton import check_target, write_repository

    for spec in specs:
        check_export(spec)
        if layout is Layout.TRITON:
            check_target(spec.target)
    made: list[Artifact] = []
    repositories: list[Path] = []
    with console.progress() as progress:
        for spec in specs:
            artifact = export_model(spec, progress)
            made.append(artifact)
            progress.warn(f"wrote {artifact.path} ({_in_words(artifact)})")
            if layout is Layout.TRITON:
                repositories.append(write_repository(artifact, spec.folder, spec.engine.batch[2]))
                progress.warn(f"wrote {repositories[-1]}")
    if json:
        documents = [{"path": str(a.path), **a.manifest.model_dump(mode="json")} for a in made]
        console.print_json(
            {"artifacts": documents, "triton_models": [str(path) for path in repositories]}
        )


def _in_words(artifact: Artifact) -> str:
    """State, error and agreement, in a line."""
    manifest = artifact.manifest
    parts = [f"relative L2 error {manifest.verification.relative_l2_error:.1e}"]
    if manifest.not_run:
        parts.insert(0, f"{manifest.state}: {manifest.not_run}")
    if fidelity := manifest.fidelity:
        parts.append(
            f"top-1 agreement {fidelity.top1_agreement_percent:.0f} % "
            f"over {fidelity.images} images ({fidelity.source})"
        )
    return ", ".join(parts)


def inspect(
    artifact: Annotated[Path, typer.Argument(help="The main file of an artifact.")],
    layers: Annotated[
        bool, typer.Option("--layers", help="Also list the fused layers of an engine.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Verify an artifact's hashes, and show what it is and where its MACs and bytes are."""
    from stmdeploy.artifact import read_artifact
    from stmdeploy.cli import console
    from stmdeploy.report.artifact import artifact_tables, engine_layers, layer_table

    read = read_artifact(artifact)
    if layers and read.manifest.engine is None:
        raise StmdeployError(f"{artifact} is no engine", "leave --layers out")
    if json:
        listed = {"layers": [one.model_dump() for one in engine_layers(read)]} if layers else {}
        console.print_json(
            {"path": str(artifact), **read.manifest.model_dump(mode="json"), **listed}
        )
        return
    for table in artifact_tables(read):
        console.print_table(table)
    if layers:
        console.print_table(layer_table(read))
