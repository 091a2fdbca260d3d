"""The commands. Each parses its flags into a spec, calls one stage or pipeline, prints."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stmdeploy.cli import options
from stmdeploy.cli.options import numbers, words
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from stmdeploy.results.row import Row


class Listing(StrEnum):
    """What `list` can list."""

    BACKBONES = "backbones"
    TARGETS = "targets"
    GPUS = "gpus"


def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.")] = Listing.BACKBONES,
    json: options.Json = False,
) -> None:
    """List backbones with their published accuracy, export targets, or known GPUs."""
    from stmdeploy.cli import console, listings

    entries, table = listings.LISTINGS[what.value]()
    if json:
        console.print_json({what.value: entries})
    else:
        console.print_table(table)


def count(
    stm: options.Stm = None,
    scale: options.Scale = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = 1000,
    modules: Annotated[bool, typer.Option("--modules", help="Also list every module.")] = False,
    json: options.Json = False,
) -> None:
    """Count parameters and MACs (multiply-accumulates, batch 1), and what was not counted."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import model_specs

    specs = model_specs(
        stm=stm, scale=scale, model=model, image_size=image_size,
        num_classes=num_classes, checkpoint=None,
    )  # fmt: skip
    from stmdeploy.pipeline import COUNT_STEPS, count_model
    from stmdeploy.report.tables import count_table, module_table

    with console.progress() as progress:
        progress.expect(COUNT_STEPS * len(specs))
        counts = [(spec, count_model(spec, progress).complexity) for spec in specs]
    if json:
        console.print_json({"counts": [{"model": s.name, "image_size": s.image_size, **asdict(c)}
                                       for s, c in counts]})  # fmt: skip
        return
    console.print_table(count_table([(spec.label, c) for spec, c in counts]))
    for spec, complexity in counts if modules else ():
        console.print_table(module_table(spec.label, complexity))


def export(
    stm: options.Stm = None,
    scale: options.Scale = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = 1000,
    checkpoint: options.Checkpoint = None,
    target: Annotated[str, typer.Option("--target", help="See `stmdeploy list targets`.")] = "onnx",
    precision: Annotated[str, typer.Option("--precision", help="fp32.")] = "fp32",
    lowering: options.Lowering = None,
    opset: Annotated[int | None, typer.Option("--opset", help="ONNX opset, 19 to 23.")] = None,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Export a backbone, verified against PyTorch in float64, with a manifest beside it."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import ARTIFACTS_ROOT, model_specs
    from stmdeploy.spec import ExportSpec

    if not words(stm) and not words(model):
        raise StmdeployError("nothing to export is named", "give --stm, as in --stm dcn")
    specs = [
        ExportSpec(spec, target, out or ARTIFACTS_ROOT, precision, lowering, opset)
        for spec in model_specs(
            stm=stm, scale=scale, model=model, image_size=image_size,
            num_classes=num_classes, checkpoint=checkpoint,
        )
    ]  # fmt: skip
    from stmdeploy.pipeline import export_model

    made = []
    with console.progress() as progress:
        for spec in specs:
            artifact = export_model(spec, progress)
            made.append(artifact)
            error = artifact.manifest.verification.relative_l2_error
            console.say(f"wrote {artifact.path} (relative L2 error {error:.1e})")
    if json:
        console.print_json(
            {
                "artifacts": [
                    {"path": str(a.path), **a.manifest.model_dump(mode="json")} for a in made
                ]
            }
        )


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
        typer.Option("--runtime", help="onnxruntime, torch. [default: onnxruntime]"),
    ] = None,
    threads: Annotated[
        list[str] | None, typer.Option("--threads", help="Of one operator. [default: all]")
    ] = None,
    lowering: options.Lowering = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", help="Measure on this GPU: see `stmdeploy list gpus`.")
    ] = None,
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
    from stmdeploy.cli.requests import RESULTS_ROOT, model_specs, run_specs
    from stmdeploy.spec import ProfileSpec, SamplingSpec

    spec = ProfileSpec(
        models=model_specs(
            stm=stm, scale=scale, model=model, image_size=image_size, num_classes=num_classes,
            checkpoint=checkpoint, default_scale="tiny" if words(stm) else "micro",
        ),
        runs=run_specs(
            words(runtime) or ["onnxruntime"],
            numbers(batch, "--batch") or [1, 8],
            numbers(threads, "--threads"),
            gpu,
        ),
        folder=out or RESULTS_ROOT / datetime.now().strftime("%Y%m%d-%H%M%S"),
        sampling=SamplingSpec(budget_s=budget_s),
        row_timeout_s=row_timeout_s,
        # The lowered form was made, and measured, for the CPU.
        lowering=lowering or ("reference" if gpu else None),
    )  # fmt: skip
    rows = _profile(spec)
    _show(rows, json, spec.folder)
    if any(row.measurement is None for row in rows):
        raise typer.Exit(int(ExitCode.WORKER_FAILED))


def _profile(spec: Any) -> tuple[Row, ...]:
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


def _show(rows: tuple[Row, ...], json: bool, folder: Path) -> None:
    from stmdeploy.cli import console
    from stmdeploy.report.tables import profile_table
    from stmdeploy.results.frame import flat

    if json:
        console.print_json({"results": str(folder), "rows": [flat(row) for row in rows]})
    else:
        console.print_table(profile_table(rows))
        console.say(f"rows, raw samples and artifacts are in {folder}")


def report(
    results: Annotated[
        Path | None, typer.Argument(help="Folder or results.json. [default: the newest]")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the rows as CSV.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="Write Parquet.")] = None,
    plot: Annotated[
        Path | None, typer.Option("--plot", help="Draw accuracy over latency: .png .svg .pdf.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Print stored results again, and write them as CSV, Parquet or a picture."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import latest_results
    from stmdeploy.report.tables import profile_table
    from stmdeploy.results.frame import write_frame
    from stmdeploy.results.store import read_results

    folder = latest_results(results)
    rows = read_results(folder).rows
    if not rows:
        raise StmdeployError(f"{folder} holds no rows", "profile something first")
    for form, path in (("csv", csv), ("parquet", parquet)):
        if path is not None:
            write_frame(rows, path, form)
    if plot is not None:
        from stmdeploy.report.plot import plot_accuracy_latency

        plot_accuracy_latency(rows, plot)
    if markdown:
        console.print_text(profile_table(rows).markdown())
    else:
        _show(rows, json, folder)
