"""`hardware`: profiles of processors, what this machine has, and what its processor can do."""

from __future__ import annotations

from typing import Annotated

import typer

from stmdeploy.cli import options
from stmdeploy.cli.options import numbers, words
from stmdeploy.errors import ExitCode, StmdeployError

app = typer.Typer(no_args_is_help=True, help="Known GPUs, this machine, and its peaks.")


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the processors that have a profile."""
    from stmdeploy.cli import console, listings

    entries, table = listings.gpus()
    if json:
        console.print_json({"gpus": entries})
    else:
        console.print_table(table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="As of `hardware list`, a family (a100), or cpu.")],
    json: options.Json = False,
) -> None:
    """Show every figure of a profile, and which datasheet says so."""
    from dataclasses import asdict

    from stmdeploy.cli import console, listings
    from stmdeploy.processors import CPU, cpu_profile, find_profiles

    if name.strip().lower() == CPU:
        cpu = cpu_profile()
        if json:
            console.print_json({"profiles": [{"name": CPU, **asdict(cpu)}]})
        else:
            console.print_table(listings.cpu_figures(cpu))
        return
    found = find_profiles(name)
    if json:
        console.print_json({"profiles": [asdict(profile) for profile in found]})
        return
    for profile in found:
        console.print_table(listings.profile_figures(profile))


@app.command()
def detect(json: options.Json = False) -> None:
    """Show what this machine has, and which profiles its GPUs have."""
    from stmdeploy.cli import console, listings

    document, table = listings.machine()
    if json:
        console.print_json(document)
    else:
        console.print_table(table)


@app.command()
def measure(
    threads: Annotated[
        list[str] | None, typer.Option("--threads", help="[default: all processors]")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option("--precision", help="[default: fp32,fp16,bf16,int8]")
    ] = None,
    timeout_s: options.TimeoutS = 120.0,
    json: options.Json = False,
) -> None:
    """Measure what this machine's processor can do at most: products and copies.

    Of every product the best that NumPy or any installed runtime reaches.
    """
    from stmdeploy.cli import console
    from stmdeploy.explaining import measured_peaks
    from stmdeploy.hardware import processor_name
    from stmdeploy.report.tables import peaks_table
    from stmdeploy.spec import at_least, at_most, available_threads

    counts = numbers(threads, "--threads") or [available_threads()]
    kinds = tuple(words(precision) or ("fp32", "fp16", "bf16", "int8"))
    for count in counts:
        at_least(1, count, "threads")
        at_most(available_threads(), count, "threads")
    if unknown := set(kinds) - {"fp32", "fp16", "bf16", "int8"}:
        raise StmdeployError(
            f"no product is of precision {', '.join(sorted(unknown))}",
            "choose of: fp32, fp16, bf16, int8",
        )
    with console.progress() as progress:
        progress.expect(len(counts))
        found = {}
        for count in counts:
            progress.step(f"measuring with {count} threads")
            peaks = measured_peaks(count, kinds, progress, timeout_s=timeout_s)
            if peaks is None:
                raise StmdeployError(
                    "the peaks cannot be measured", "see above", ExitCode.WORKER_FAILED
                )
            found[count] = peaks
    if json:
        measured = [{"threads": count, **peaks.model_dump()} for count, peaks in found.items()]
        console.print_json({"processor": processor_name(), "peaks": measured})
        return
    for count, peaks in found.items():
        console.print_table(peaks_table(f"{processor_name()}, {count} threads", peaks))
