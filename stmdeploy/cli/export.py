"""`export`: models as artifacts, each verified."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stmdeploy.cli import console
from stmdeploy.cli.command import Numbers, Words, flag_of, many, option
from stmdeploy.cli.options import (
    ARTIFACTS_ROOT,
    GPU,
    MODEL,
    OUTPUT,
    CheckpointOption,
    EngineOptions,
    FormOptions,
    JsonOption,
    LimitOptions,
    ModelOptions,
    StrictOption,
    SweepOptions,
    TrialOptions,
    TrustOption,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.spec.run import EXPORT_TIMEOUT_S

if TYPE_CHECKING:
    from stmdeploy.plugins.progress import Progress
    from stmdeploy.schema.artifact import Artifact
    from stmdeploy.spec.export import ExportSpec
    from stmdeploy.spec.model import ModelSpec


#: The precision that is chosen, part by part.
AUTO = "auto"
#: Options that only such a choice takes.
_OF_CHOICE = frozenset(
    "low_precision max_error min_agreement max_top1_drop data class_map choosing held_out seed "
    "threads".split()
)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(
    JsonOption,
    TrustOption,
    EngineOptions,
    TrialOptions,
    LimitOptions,
    FormOptions,
    StrictOption,
    CheckpointOption,
    ModelOptions,
):
    """What is exported, and to what."""

    keep: Words = many(
        MODEL,
        "Parts of the model that a low precision leaves as they are, such as 'stage 1 mixer,head'; "
        "`stmdeploy sensitivity` names them.",
    )
    low_precision: str = option(
        MODEL, "--precision auto: the low precision that as many parts as possible get.", "int8"
    )
    config: Path | None = option(
        MODEL, "What `stmdeploy tune` found: its TOML file; flags given here override it."
    )
    all_scales: bool = option(MODEL, "Export every scale of the STMs named.", False)
    target: Words = many(MODEL, "Export targets: see `stmdeploy list targets`. [default: onnx]")
    dynamic_size: bool = option(
        MODEL,
        "One file for images of any size: sides that are multiples of 32, from 64 to 1344 px. "
        "Detection backbones of onnx, openvino, tensorrt and tensorrt-rtx; for classification pvt, "
        "pvt_v2, convnext and dcn.",
        False,
    )
    opset: int | None = option(
        MODEL,
        "ONNX opset, 19 to 23. [default: the lowest that has all operators used]",
    )
    batch: Numbers = many(
        GPU,
        "TensorRT: images per inference that an engine takes: MIN,OPT,MAX, or one number. "
        "[default: 1,8,32; for detection 1,1,4]",
    )
    export_timeout_s: float = option(
        OUTPUT,
        "Seconds that all exports of a model may take before they are ended.",
        EXPORT_TIMEOUT_S,
    )
    layout: Literal["plain", "triton"] = option(
        OUTPUT, "triton: also write a model repository for Triton Inference Server.", "plain"
    )
    out: Path = option(OUTPUT, "Folder for the artifacts.", ARTIFACTS_ROOT)


def export(options: ExportOptions) -> None:
    """Export backbones, verify them against PyTorch in float64, and describe each in a manifest."""
    from stmdeploy.artifacts.triton import check_target
    from stmdeploy.spec.limits import positive

    positive(options.export_timeout_s, "export timeout")
    options = _with_config(options)
    if options.precision == (AUTO,):
        _export_auto(options)
        return
    specs = _specs(options)
    if options.layout == "triton":
        for spec in (spec for some in specs.values() for spec in some):
            check_target(spec.target)
    made: list[Artifact] = []
    repositories: list[Path] = []
    with console.progress() as progress:
        for model, exports in specs.items():
            _export(model, exports, options, progress, made, repositories)
    if options.json:
        documents = [{"path": str(a.path), **a.manifest.model_dump(mode="json")} for a in made]
        console.print_json(
            {"artifacts": documents, "triton_models": [str(path) for path in repositories]}
        )


#: What a file of flags says of an export; the rest of it is about measuring.
_OF_CONFIG = (
    "stm scale model task neck image_size num_classes checkpoint precision lowering calibration "
    "calibration_images builder_optimization_level"
).split()


def _with_config(options: ExportOptions) -> ExportOptions:
    """The options, completed by what a race found; raises as `with_file`."""
    from stmdeploy.cli.sweep_file import with_file
    from stmdeploy.plugins.registry import exporter_of

    if options.config is None:
        return options
    given = SweepOptions(**{name: getattr(options, name) for name in _OF_CONFIG})
    used = with_file(given, options.config, "--config", trust=options.trust)
    targets = tuple(exporter_of(runtime).target.name for runtime in used.runtime)
    batch = used.batch if any(name.startswith("tensorrt") for name in targets) else ()
    return replace(
        options,
        target=options.target or targets,
        batch=options.batch or batch,
        **{name: getattr(used, name) for name in _OF_CONFIG},
    )


def _export_auto(options: ExportOptions) -> None:
    """Exports each model with the precision of every part chosen.

    Raises:
        StmdeployError: nothing is asked to hold, or as `export_mixed`.
    """
    from stmdeploy.artifacts.promises import check_precision
    from stmdeploy.cli.requests import engine_spec, fidelity_limits, model_specs, trial_spec
    from stmdeploy.files.writing import writable
    from stmdeploy.plugins.registry import exporter_for_target
    from stmdeploy.report.choice import choice_table
    from stmdeploy.tuning.precision import export_mixed

    limits = fidelity_limits(options)
    if not limits.any:
        raise StmdeployError(
            "--precision auto needs to know what must hold",
            "give --max-error, --min-agreement or --max-top1-drop",
        )
    if options.keep or options.dynamic_size or options.opset or options.layout != "plain":
        raise StmdeployError(
            "--precision auto chooses the parts, for one image size",
            "leave --keep, --dynamic-size, --opset and --layout out",
        )
    if not options.stm and not options.model:
        raise StmdeployError("no model to export is named", "give --stm, as in --stm dcn")
    specs = []
    for model in model_specs(options, all_scales=options.all_scales):
        for target in options.target or ("onnx",):
            check_precision(exporter_for_target(target), options.low_precision)
            specs.append(
                trial_spec(
                    options, model, target, options.low_precision, options.lowering, options.out,
                    labelled=options.max_top1_drop is not None,
                    engine=engine_spec(options.batch or (1, 8, 32), options), limits=limits,
                )
            )  # fmt: skip
    made = []
    with writable(options.out), console.progress() as progress:
        for spec in specs:
            made.append(export_mixed(spec, options.export_timeout_s, progress))
            progress.warn(f"wrote {made[-1].path} ({_in_words(made[-1])})")
    documents = [{"path": str(a.path), **a.manifest.model_dump(mode="json")} for a in made]
    tables = [choice_table(a.manifest) for a in made]
    console.show({"artifacts": documents, "triton_models": []}, *tables, json=options.json)


def _specs(options: ExportOptions) -> dict[ModelSpec, list[ExportSpec]]:
    """The exports of every model.

    Raises:
        StmdeployError: no model is named, or a target or precision is unknown or does not fit.
    """
    from stmdeploy.artifacts.promises import check_dynamic_size, check_keep, check_precision
    from stmdeploy.cli.requests import (
        calibration_spec,
        engine_spec,
        model_specs,
        preparation_of,
    )
    from stmdeploy.plugins.registry import exporter_for_target
    from stmdeploy.spec.export import ExportSpec
    from stmdeploy.spec.model import DETECTION

    if not options.stm and not options.model:
        raise StmdeployError("no model to export is named", "give --stm, as in --stm dcn")
    _refuse_trials(options)
    if options.all_scales and options.scale:
        raise StmdeployError("--all-scales and --scale exclude each other", "give one of them")
    models = model_specs(options, all_scales=options.all_scales)
    usual = (1, 1, 4) if options.task == DETECTION else (1, 8, 32)
    engine = engine_spec(options.batch or usual, options)
    calibration = calibration_spec(options.calibration, options.calibration_images)
    preparation = preparation_of(options)
    found: dict[ModelSpec, list[ExportSpec]] = {}
    for model in models:
        for target, precision in _combinations(options):
            spec = ExportSpec(
                model, target, options.out, precision, options.lowering, options.opset,
                calibration, engine, dynamic_size=options.dynamic_size,
                preparation=preparation, keep=options.keep,
            )  # fmt: skip
            check_precision(exporter_for_target(target), precision)
            check_dynamic_size(exporter_for_target(target), spec)
            check_keep(exporter_for_target(target), spec)
            found.setdefault(model, []).append(spec)
    return found


def _combinations(options: ExportOptions) -> list[tuple[str, str]]:
    """Every target with every precision; one that a target lacks is left out with a note, unless
    nothing else is asked for."""
    from stmdeploy.plugins.registry import exporter_for_target
    from stmdeploy.spec.export import PRECISIONS

    every = [(target, precision) for target in options.target or ("onnx",)
             for precision in options.precision or ("fp32",)]  # fmt: skip
    lacking = [
        (target, precision)
        for target, precision in every
        if precision in PRECISIONS
        and precision not in exporter_for_target(target).target.tolerances
    ]
    if options.strict or len(lacking) == len(every):
        return every
    for target, precision in lacking:
        able = ", ".join(exporter_for_target(target).target.tolerances)
        console.note(f"left out: {target} in {precision}, which it does not have (it has {able})")
    return [one for one in every if one not in lacking]


def _refuse_trials(options: ExportOptions) -> None:
    """Raises StmdeployError for options that only a choice of precision takes."""
    if AUTO in options.precision:
        raise StmdeployError("--precision auto stands alone", "export the others by themselves")
    plain = {one.name: one for one in fields(ExportOptions) if one.name in _OF_CHOICE}
    for name, declared in plain.items():
        if getattr(options, name) != declared.default:
            raise StmdeployError(
                f"{flag_of(declared)} belongs to a precision that is chosen",
                "give --precision auto; the images of int8 are --calibration FOLDER",
            )


def _export(
    model: ModelSpec,
    exports: list[ExportSpec],
    options: ExportOptions,
    progress: Progress,
    made: list[Artifact],
    repositories: list[Path],
) -> None:
    """Exports one model, appending what it wrote to `made` and `repositories`.

    Raises:
        StmdeployError: the first failure, once every export was tried.
    """
    from stmdeploy.artifacts.triton import write_repository
    from stmdeploy.files.writing import writable
    from stmdeploy.schema.artifact import read_artifact
    from stmdeploy.worker.exports import export_model

    with writable(options.out):
        prepared = export_model(model, exports, options.export_timeout_s, progress)
        for spec, one in zip(exports, prepared.artifacts, strict=True):
            if one.path is None:
                continue
            artifact = read_artifact(options.out / one.path.name)
            made.append(artifact)
            progress.warn(f"wrote {artifact.path} ({_in_words(artifact)})")
            if options.layout == "triton":
                repositories.append(write_repository(artifact, spec.folder, spec.engine.batch[2]))
                progress.warn(f"wrote {repositories[-1]}")
        for spec, one in zip(exports, prepared.artifacts, strict=True):
            if one.failure is not None:
                which = f"{model.label} for {spec.target}, {spec.precision}: "
                raise one.failure.error(which if len(exports) > 1 else "")


def _in_words(artifact: Artifact) -> str:
    """State, error and agreement, on one line."""
    manifest = artifact.manifest
    parts = [f"relative L2 error {manifest.proof.relative_l2_error:.1e}"]
    if manifest.not_run:
        parts.insert(0, f"{manifest.state}: {manifest.not_run}")
    if fidelity := manifest.fidelity:
        agreed = fidelity.top1_agreement_percent
        what = (
            f"{fidelity.relative_l2_error:.1e}" if agreed is None
            else f"top-1 agreement {agreed:.0f} %"
        )  # fmt: skip
        parts.append(f"{what} over {fidelity.images} images ({fidelity.source})")
    return ", ".join(parts)
