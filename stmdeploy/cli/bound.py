"""`bound`: how fast a model could be at best, on hardware that need not be here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options
from stmdeploy.cli.options import numbers, words
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from stmdeploy.contracts import Progress
    from stmdeploy.report.bounds import Processor, Workload


def bound(
    artifact: Annotated[
        list[Path] | None, typer.Argument(help="Artifacts. [default: the models that are named]")
    ] = None,
    stm: options.Stm = None,
    scale: options.Scale = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option("--gpu", help="As of `hardware list`. [default: this machine's processor]"),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option("--batch", help="[default: as the hardware's profile]")
    ] = None,
    precision: options.Precision = None,
    lowering: options.Lowering = None,
    timeout_s: options.TimeoutS = 120.0,
    json: options.Json = False,
) -> None:
    """Work out the roofline bound of models on hardware: bound, not measured.

    From the exported graph, and from the datasheet of a GPU or the measured peaks of this
    machine's processor.
    """
    from stmdeploy.bound import ASSUMPTIONS
    from stmdeploy.cli import console
    from stmdeploy.report.bounds import Workload, bound_table, bounds_of

    precisions, batches = tuple(words(precision)), numbers(batch, "--batch")
    _check(precisions, batches, gpu)
    with console.progress() as progress:
        if artifact:
            if words(stm) or words(model):
                raise StmdeployError("artifacts and --stm exclude each other", "give one of them")
            if precisions:
                raise StmdeployError("an artifact has its precision", "leave --precision out")
            workloads = _of_artifacts(artifact)
        else:
            from stmdeploy.cli.requests import model_specs
            from stmdeploy.pipeline import operations_of

            specs = model_specs(
                stm=stm, scale=scale, model=model, image_size=image_size,
                num_classes=num_classes, checkpoint=None,
                default_scale="tiny" if words(stm) else "micro",
            )  # fmt: skip
            form = lowering or ("reference" if gpu else None)
            found = operations_of(specs, form, progress)
            workloads = [Workload(spec.label, done) for spec, done in found.items()]
        for workload in workloads:
            if not workload.operations:
                raise StmdeployError(
                    f"{workload.model} has no graph with products", "name a model that multiplies"
                )
        kinds = (*precisions, *(w.precision for w in workloads if w.precision))
        processors = _processors(words(gpu), kinds, progress, timeout_s)
        bounds = bounds_of(workloads, processors, batches, precisions)
    if json:
        console.print_json(
            {"kind": "bound, not measured", "assumptions": ASSUMPTIONS,
             "bounds": [entry.figures() for entry in bounds]}
        )  # fmt: skip
    else:
        console.print_table(bound_table(bounds))


def _check(precisions: tuple[str, ...], batches: list[int], gpu: list[str] | None) -> None:
    """Raises StmdeployError for what cannot be, before any work."""
    from stmdeploy.bound import rate_of
    from stmdeploy.errors import nearest
    from stmdeploy.processors import find_profiles, peaks_of
    from stmdeploy.spec import PRECISIONS, at_least

    for word in precisions:
        if word not in PRECISIONS:
            raise StmdeployError(f"unknown precision {word!r}", nearest(word, PRECISIONS))
    for number in batches:
        at_least(1, number, "batch")
    if gpu is not None and not words(gpu):
        raise StmdeployError("--gpu is empty", "name one, as in --gpu a100")
    for profile in (p for name in words(gpu) for p in find_profiles(name)):
        for word in precisions:
            rate_of(word, peaks_of(profile))


def _of_artifacts(paths: list[Path]) -> list[Workload]:
    from stmdeploy.artifact import read_artifact
    from stmdeploy.report.bounds import Workload

    found = []
    for path in paths:
        manifest = read_artifact(path).manifest
        if not manifest.operations:
            raise StmdeployError(
                f"{path} was made from no graph", "export it to onnx, and take that"
            )
        found.append(Workload(path.stem, manifest.operations, manifest.precision))
    return found


def _processors(
    gpus: list[str], precisions: tuple[str, ...], progress: Progress, timeout_s: float
) -> list[Processor]:
    """The profiles that are named, or this machine's processor as it measures."""
    from stmdeploy.processors import cpu_profile, find_profiles, peaks_of
    from stmdeploy.report.bounds import Processor

    if gpus:
        profiles = [profile for name in gpus for profile in find_profiles(name)]
        return [
            Processor(p.name, p.title, p.batches, p.precisions, peaks_of(p))
            for p in {profile.name: profile for profile in profiles}.values()
        ]
    from stmdeploy.explaining import measured_peaks
    from stmdeploy.hardware import processor_name
    from stmdeploy.spec import available_threads

    cpu = cpu_profile()
    wanted = {"fp32", *("int8" if word == "int8-dynamic" else word for word in precisions)}
    peaks = measured_peaks(
        available_threads(), tuple(sorted(wanted)), progress, timeout_s=timeout_s
    )
    if peaks is None:
        raise StmdeployError(
            "the peaks of this machine cannot be measured", "name a GPU", ExitCode.WORKER_FAILED
        )
    return [Processor("cpu", processor_name(), cpu.batches, cpu.precisions, peaks)]
