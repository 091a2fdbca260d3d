"""`baseline`: made, and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stmdeploy.cli import options

app = typer.Typer(no_args_is_help=True, help="Make and show baselines of the latency check.")

DEFAULT_PATH = Path("stmdeploy-baseline")


@app.command()
def create(
    stm: options.Stm = None,
    scale: options.Scale = None,
    model: options.Model = None,
    image_size: options.ImageSize = None,
    num_classes: options.NumClasses = None,
    checkpoint: options.Checkpoint = None,
    batch: Annotated[list[str] | None, typer.Option("--batch", help="[default: 1,8]")] = None,
    runtime: Annotated[
        list[str] | None, typer.Option("--runtime", help="[default: onnxruntime]")
    ] = None,
    precision: options.Precision = None,
    threads: Annotated[
        list[str] | None, typer.Option("--threads", help="Of one operator. [default: all]")
    ] = None,
    lowering: options.Lowering = None,
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="Measure on this GPU: see `hardware list`.")
    ] = None,
    provider: Annotated[str | None, typer.Option("--provider", help="Of onnxruntime.")] = None,
    budget_s: Annotated[
        float | None, typer.Option("--budget-s", help="Sampling time of a row. [default: 10]")
    ] = None,
    sweep: Annotated[
        Path | None,
        typer.Option("--sweep", help="TOML file whose keys are the flags of profile."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="A folder, or a file .tar.gz. [default: stmdeploy-baseline]"),
    ] = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Export and measure backbones, and keep all of it as a baseline."""
    # First, while nothing but the flags is local here.
    values = dict(locals())
    from dataclasses import fields

    from stmdeploy.cli import console
    from stmdeploy.cli.flags import SweepFlags, sweep_spec, with_file
    from stmdeploy.regression.creating import create_baseline

    flags = SweepFlags(**{f.name: values.get(f.name) for f in fields(SweepFlags)})
    path = out or DEFAULT_PATH
    spec = sweep_spec(flags if sweep is None else with_file(flags, sweep, trust=trust))
    with console.progress() as progress:
        baseline = create_baseline(spec, path, progress)
    if json:
        console.print_json({"path": str(path), "id": baseline.id, **_described(baseline)})
    else:
        console.print_text(f"wrote {path}: baseline {baseline.id}, {len(baseline.rows)} rows")


@app.command()
def show(
    path: Annotated[Path, typer.Argument(help="A baseline.")] = DEFAULT_PATH,
    json: options.Json = False,
) -> None:
    """Verify a baseline, and show what is in it."""
    from stmdeploy.cli import console
    from stmdeploy.regression.bundle import open_bundle
    from stmdeploy.regression.formats.table import baseline_table

    with open_bundle(path) as bundle:
        baseline = bundle.baseline
    if json:
        console.print_json({"path": str(path), "id": baseline.id, **_described(baseline)})
        return
    console.print_table(baseline_table(baseline))


def _described(baseline: object) -> dict[str, object]:
    from stmdeploy.regression.bundle import Baseline
    from stmdeploy.results.frame import flat

    assert isinstance(baseline, Baseline)
    return {
        "created_utc": baseline.created_utc,
        "machine": baseline.machine.model_dump(),
        "rows": [
            {"name": row.name, "artifact": row.artifact, **flat(row.row)} for row in baseline.rows
        ],
    }
