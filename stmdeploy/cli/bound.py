"""`bound`: how fast a model could be at best, on this machine's or other hardware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.cli import console
from stmdeploy.cli.command import Numbers, Words, argument, many, option
from stmdeploy.cli.options import GPU, OUTPUT, SWEEP, FormOptions, JsonOption, ModelOptions
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from stmdeploy.plugins.progress import Progress
    from stmdeploy.report.bounds import Processor, Workload


@dataclass(frozen=True, kw_only=True)
class BoundOptions(JsonOption, FormOptions, ModelOptions):
    """Which models, and which hardware."""

    artifact: list[Path] | None = argument(
        "Main files of artifacts. [default: the models that --stm and --model name]",
    )
    gpu: Words = many(
        GPU, "GPUs, as `stmdeploy hardware list` names them. [default: this machine's processor]"
    )
    batch: Numbers = many(SWEEP, "Images per inference. [default: the hardware profile's batches]")
    timeout_s: float = option(
        OUTPUT, "Seconds that measuring the processor's peaks may take before it is ended.", 120.0
    )


def bound(options: BoundOptions) -> None:
    """Work out how fast models could be at best on some hardware: a roofline bound, not measured.

    It follows from the exported graph and from a GPU's datasheet or the measured peaks of this
    machine's processor.
    """
    from stmdeploy.hardware.roofline import ASSUMPTIONS
    from stmdeploy.report.bounds import bound_table, bounds_of

    _check(options)
    with console.progress() as progress:
        workloads = _of_artifacts(options) if options.artifact else _of_models(options, progress)
        for workload in workloads:
            if not workload.operations:
                raise StmdeployError(
                    f"the graph of {workload.model} multiplies nothing",
                    "name a model with matrix products or convolutions",
                )
        kinds = (*options.precision, *(w.precision for w in workloads if w.precision))
        processors = _processors(options, kinds, progress)
        bounds = bounds_of(workloads, processors, options.batch, options.precision)
    figures = [entry.figures() for entry in bounds]
    document = {"kind": "bound, not measured", "assumptions": ASSUMPTIONS, "bounds": figures}
    console.show(document, bound_table(bounds), json=options.json)


def _check(options: BoundOptions) -> None:
    """Raises StmdeployError for precisions or batches that cannot be, before any work."""
    from stmdeploy.errors import nearest
    from stmdeploy.hardware.profiles import find_profiles, peaks_of
    from stmdeploy.hardware.roofline import rate_of
    from stmdeploy.spec.export import PRECISIONS
    from stmdeploy.spec.limits import at_least

    for word in options.precision:
        if word not in PRECISIONS:
            raise StmdeployError(f"unknown precision {word!r}", nearest(word, PRECISIONS))
    for number in options.batch:
        at_least(1, number, "batch")
    for profile in (p for name in options.gpu for p in find_profiles(name)):
        for word in options.precision:
            rate_of(word, peaks_of(profile))


def _of_models(options: BoundOptions, progress: Progress) -> list[Workload]:
    """What models must compute and move, from ONNX graphs exported for this purpose."""
    from stmdeploy.cli.requests import model_specs
    from stmdeploy.files.writing import scratch_folder
    from stmdeploy.hardware.machine import available_threads
    from stmdeploy.report.bounds import Workload
    from stmdeploy.spec.run import RunSpec
    from stmdeploy.spec.sweep import SweepSpec
    from stmdeploy.sweeps.exports import export_rows

    specs = model_specs(options, default_scale="tiny" if options.stm else "micro")
    form = options.lowering or ("reference" if options.gpu else None)
    sweep = SweepSpec(specs, (RunSpec("onnxruntime", 1, available_threads()),), lowering=form)
    with scratch_folder("bound") as folder:
        found = export_rows(sweep, folder, progress)
    return [Workload(row.model.label, one.operations) for row, one in found.items()]


def _of_artifacts(options: BoundOptions) -> list[Workload]:
    from stmdeploy.report.bounds import Workload
    from stmdeploy.schema.artifact import read_artifact

    if options.stm or options.model:
        raise StmdeployError("artifacts exclude --stm and --model", "give one of them")
    if options.precision:
        raise StmdeployError("an artifact has a precision of its own", "leave --precision out")
    found = []
    for path in options.artifact or ():
        manifest = read_artifact(path).manifest
        if not manifest.operations:
            raise StmdeployError(
                f"{path} came from no graph, so its operations are not known",
                "export the model with --target onnx, and give that file",
            )
        found.append(Workload(path.stem, manifest.operations, manifest.precision))
    return found


def _processors(
    options: BoundOptions, precisions: tuple[str, ...], progress: Progress
) -> list[Processor]:
    """The GPUs that are named, or this machine's processor, whose peaks are measured."""
    from stmdeploy.hardware.profiles import cpu_profile, find_profiles, peaks_of
    from stmdeploy.report.bounds import Processor

    if options.gpu:
        profiles = [profile for name in options.gpu for profile in find_profiles(name)]
        return [
            Processor(p.name, p.title, p.batches, p.precisions, peaks_of(p))
            for p in {profile.name: profile for profile in profiles}.values()
        ]
    from stmdeploy.hardware.machine import available_threads, processor_name
    from stmdeploy.sweeps.explanation import measured_peaks

    cpu = cpu_profile()
    wanted = {"fp32", *("int8" if word == "int8-dynamic" else word for word in precisions)}
    peaks = measured_peaks(
        available_threads(), tuple(sorted(wanted)), progress, timeout_s=options.timeout_s
    )
    if peaks is None:
        raise StmdeployError(
            "the peaks of this processor cannot be measured",
            "see the warning above, or name a GPU with --gpu",
            ExitCode.WORKER_FAILED,
        )
    return [Processor("cpu", processor_name(), cpu.batches, cpu.precisions, peaks)]
