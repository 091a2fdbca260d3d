"""`profile`: rows measured on this machine."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options
from stmdeploy.cli.options import numbers, words
from stmdeploy.errors import ExitCode

if TYPE_CHECKING:
    from stmdeploy.results.row import Row
    from stmdeploy.spec import ProfileSpec

#: Runtimes whose lowered forms were made, and measured, for the CPU alone.
_CPU_FORMS = frozenset({"onnxruntime", "torch", "torch-compile"})


def profile(
    stm: options.Stm = None,
    scale: options.Scale = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = 1000,
    checkpoint: options.Checkpoint = None,
    batch: Annotated[list[str] | None, typer.Option("--batch", help="[default: 1,8]")] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime",
            help="onnxruntime, openvino, torch, torch-compile, aotinductor, tensorrt, "
            "tensorrt-rtx. [default: onnxruntime]",
        ),
    ] = None,
    precision: options.Precision = None,
    calibration: options.CalibrationFolder = None,
    calibration_images: options.CalibrationImages = 16,
    threads: Annotated[
        list[str] | None, typer.Option("--threads", help="Of one operator. [default: all]")
    ] = None,
    lowering: options.Lowering = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="Measure on this GPU: see `stmdeploy list gpus`.")
    ] = None,
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            help="Of onnxruntime: cpu, cuda, tensorrt, nvtensorrtrtx, openvino. "
            "[default: cpu, with --gpu cuda]",
        ),
    ] = "",
    hint: Annotated[
        str, typer.Option("--hint", help="What openvino arranges itself for: latency, throughput.")
    ] = "latency",
    use_cuda_graph: Annotated[
        bool, typer.Option("--use-cuda-graph", help="Replay the inference as one CUDA graph.")
    ] = False,
    workspace_mib: options.WorkspaceMib = None,
    builder_level: options.BuilderLevel = None,
    timing_cache: options.TimingCache = None,
    compute_capability: options.ComputeCapability = None,
    budget_s: Annotated[float, typer.Option("--budget-s", help="Sampling time of a row.")] = 10.0,
    row_timeout_s: Annotated[
        float, typer.Option("--row-timeout-s", help="A worker is ended so long after its budget.")
    ] = 600.0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Measure backbones on this machine and print accuracy beside real cost.

    Without arguments: the five micro backbones at batches 1 and 8 on the CPU.
    """
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import RESULTS_ROOT, engine_spec, model_specs, run_specs
    from stmdeploy.spec import CalibrationSpec, ProfileSpec, RunSettings, SamplingSpec

    batches = numbers(batch, "--batch") or [1, 8]
    runtimes = words(runtime) or ["onnxruntime"]
    engine = engine_spec(
        [f"{min(batches)},{max(batches)},{max(batches)}"],
        workspace_mib, builder_level, timing_cache, words(compute_capability),
    )  # fmt: skip
    spec = ProfileSpec(
        models=model_specs(
            stm=stm, scale=scale, model=model, image_size=image_size, num_classes=num_classes,
            checkpoint=checkpoint, default_scale="tiny" if words(stm) else "micro",
        ),
        runs=run_specs(
            runtimes, batches, numbers(threads, "--threads"), gpu,
            RunSettings(provider, hint, use_cuda_graph, engine),
        ),
        folder=out or RESULTS_ROOT / datetime.now().strftime("%Y%m%d-%H%M%S"),
        sampling=SamplingSpec(budget_s=budget_s),
        row_timeout_s=row_timeout_s,
        lowering=lowering or ("reference" if gpu and set(runtimes) <= _CPU_FORMS else None),
        precisions=tuple(words(precision) or ["fp32"]),
        calibration=CalibrationSpec(calibration, calibration_images),
        engine=engine,
    )  # fmt: skip
    rows = _profile(spec)
    console.show_rows(rows, spec.folder, json=json)
    if any(row.measurement is None for row in rows):
        raise typer.Exit(int(ExitCode.WORKER_FAILED))


def _profile(spec: ProfileSpec) -> tuple[Row, ...]:
    from stmdeploy.cli import console
    from stmdeploy.pipeline import profile as run_profile

    done: list[Row] = []
    try:
        with console.progress() as progress:
            return run_profile(spec, progress, done.append)
    except KeyboardInterrupt:
        kept = f"; {len(done)} finished rows are in {spec.folder}" if done else ""
        console.say(f"stmdeploy: interrupted{kept}")
        raise
