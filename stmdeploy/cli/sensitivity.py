"""`sensitivity`: what a low precision costs every part of a model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.cli import console
from stmdeploy.cli.command import Words, argument, many, option
from stmdeploy.cli.options import (
    ARTIFACTS_ROOT,
    MEASURING,
    MODEL,
    OUTPUT,
    CheckpointOption,
    JsonOption,
    ModelOptions,
    TrialOptions,
    TrustOption,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.spec.run import EXPORT_TIMEOUT_S

if TYPE_CHECKING:
    from stmdeploy.spec.model import ModelSpec
    from stmdeploy.spec.trials import TrialSpec


@dataclass(frozen=True, kw_only=True)
class SensitivityOptions(
    JsonOption, TrustOption, TrialOptions, CheckpointOption, ModelOptions
):  # fmt: skip
    """Which models, in which precisions, over which images."""

    artifact: Path | None = argument(
        "An artifact, whose model, target and form are taken. [default: --stm and --target]"
    )
    precision: Words = many(
        MODEL, "Low precisions: fp16, bf16, int8, int8-dynamic, fp8. [default: int8]"
    )
    lowering: str | None = option(MODEL, "Form of the mixers. [default: what suits the target]")
    target: str | None = option(MODEL, "Export target. [default: onnx]")
    labels: bool = option(
        MEASURING,
        "Whether the folders of --data are classes, so that top-1 is told.",
        False,
        flag="--labels/--no-labels",
    )
    figure: Path | None = option(OUTPUT, "Draw the errors into this file: .png, .svg or .pdf.")
    timeout_s: float = option(
        OUTPUT, "Seconds that a worker may be silent before it is ended.", EXPORT_TIMEOUT_S
    )
    out: Path = option(OUTPUT, "Folder that keeps what was tried.", ARTIFACTS_ROOT)


def sensitivity(options: SensitivityOptions) -> None:
    """Measure what a low precision costs every part of a model: one part at a time, the others in
    fp32, and all together; and the time that it saves there.

    What was tried is kept, so that it goes on where it was ended. `export --precision auto` then
    leaves the fewest parts in fp32.
    """
    from stmdeploy.report.invariance import check_figure
    from stmdeploy.report.sensitivity import sensitivity_table, write_sensitivity_figure
    from stmdeploy.tuning.precision import measure_sensitivity

    if options.figure is not None:
        check_figure(options.figure)
    specs = _specs(options)
    with console.progress() as progress:
        found = [measure_sensitivity(spec, options.timeout_s, progress) for spec in specs]
    if options.figure is not None:
        write_sensitivity_figure(found, options.figure)
        console.say(f"wrote {options.figure}")
    document = {"sensitivities": [one.model_dump(mode="json") for one in found]}
    console.show(document, sensitivity_table(found), json=options.json)


def _specs(options: SensitivityOptions) -> list[TrialSpec]:
    from stmdeploy.artifacts.promises import check_precision
    from stmdeploy.cli.requests import model_specs, trial_spec
    from stmdeploy.plugins.registry import exporter_for_target

    if options.artifact is not None:
        if options.stm or options.model or options.target or options.lowering:
            raise StmdeployError(
                "an artifact brings its own model, target and form",
                "leave --stm, --model, --target and --lowering out",
            )
        models, form = [_model_of(options)], _form_of(options.artifact)
    else:
        if not options.stm and not options.model:
            raise StmdeployError("no model is named", "give an artifact, or --stm, as in --stm dcn")
        models, form = list(model_specs(options)), (options.target or "onnx", options.lowering)
    target, lowering = form
    found = []
    for model in models:
        for precision in options.precision or ("int8",):
            check_precision(exporter_for_target(target), precision)
            found.append(
                trial_spec(
                    options,
                    model,
                    target,
                    precision,
                    lowering,
                    options.out,
                    labelled=options.labels,
                )
            )
    return found


def _form_of(path: Path) -> tuple[str, str | None]:
    from stmdeploy.schema.artifact import read_manifest

    manifest = read_manifest(path)
    return manifest.target, manifest.lowering


def _model_of(options: SensitivityOptions) -> ModelSpec:
    """The model of an artifact, whose weights come from --checkpoint, a seed or the user's code.

    Raises:
        StmdeployError: they are not the artifact's.
    """
    from stmdeploy.plugins.trust import refuse_wishes, wishes_of_model
    from stmdeploy.schema.artifact import read_artifact
    from stmdeploy.spec.model import ModelSpec

    assert options.artifact is not None
    info = read_artifact(options.artifact).manifest.model
    if info.weights.kind == "checkpoint" and options.checkpoint is None:
        raise StmdeployError(
            f"{options.artifact} has the weights of {info.weights.source}, which it takes again",
            "give them by --checkpoint",
        )
    if info.weights.kind == "file":
        raise StmdeployError(
            f"{options.artifact} was made elsewhere: its parts cannot be exported again",
            "give --stm or --model",
        )
    seed = info.weights.source.removeprefix("seed ")
    model = ModelSpec(
        info.name, info.pixels, info.num_classes, options.checkpoint,
        seed=int(seed) if info.weights.kind == "synthetic" and seed.isdecimal() else 0,
        task=info.task, neck=info.neck,
    )  # fmt: skip
    named = [wish for wish in wishes_of_model(model) if wish.flag != "--checkpoint"]
    refuse_wishes(named, str(options.artifact), trust=options.trust)
    return model
