"""`hardware`: profiles of processors, this machine's hardware, and its processor's peaks."""

from __future__ import annotations

from dataclasses import dataclass

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, Numbers, Words, add_command, argument, many, option
from stmdeploy.cli.options import MEASURING, OUTPUT, JsonOption
from stmdeploy.errors import ExitCode, StmdeployError

app = typer.Typer(no_args_is_help=True, help="Show known GPUs and this machine; measure its peaks.")
_PRODUCTS = ("fp32", "fp16", "bf16", "int8")


def list_(options: JsonOption) -> None:
    """List the GPUs that have a profile, with their datasheets' figures."""
    from stmdeploy.cli import listings

    entries, table = listings.gpus()
    console.show({"gpus": entries}, table, json=options.json)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(JsonOption):
    """Which profile is shown."""

    name: str = argument(
        "GPU, as `stmdeploy hardware list` names it; a family, such as a100; or cpu.", REQUIRED
    )


def show(options: ShowOptions) -> None:
    """Show every figure of a profile, each with its source."""
    from dataclasses import asdict

    from stmdeploy.cli import listings
    from stmdeploy.hardware.profiles import CPU, cpu_profile, find_profiles

    if options.name.strip().lower() == CPU:
        cpu = cpu_profile()
        document = {"profiles": [{"name": CPU, **asdict(cpu)}]}
        console.show(document, listings.cpu_figures(cpu), json=options.json)
        return
    found = find_profiles(options.name)
    document = {"profiles": [asdict(profile) for profile in found]}
    console.show(document, *map(listings.profile_figures, found), json=options.json)


def detect(options: JsonOption) -> None:
    """Show this machine's processor and GPUs, and which profile each has."""
    from stmdeploy.cli import listings

    document, table = listings.machine()
    console.show(document, table, json=options.json)


@dataclass(frozen=True, kw_only=True)
class MeasureOptions(JsonOption):
    """Which peaks are measured."""

    threads: Numbers = many(MEASURING, "CPU threads to measure with. [default: all]")
    precision: Words = many(
        MEASURING, f"Precisions of matrix products. [default: {','.join(_PRODUCTS)}]"
    )
    timeout_s: float = option(OUTPUT, "Seconds that a worker may live before it is ended.", 120.0)


def measure(options: MeasureOptions) -> None:
    """Measure the peaks of this machine's processor: matrix products and memory copies.

    Products: the fastest that NumPy or any installed runtime reaches, for every precision.
    """
    from stmdeploy.hardware.machine import available_threads, processor_name
    from stmdeploy.report.tables import peaks_table
    from stmdeploy.report.text_table import counted
    from stmdeploy.spec.limits import at_least, at_most
    from stmdeploy.sweeps.explanation import measured_peaks

    counts = options.threads or (available_threads(),)
    kinds = options.precision or _PRODUCTS
    for count in counts:
        at_least(1, count, "threads")
        at_most(available_threads(), count, "threads")
    if unknown := set(kinds) - set(_PRODUCTS):
        raise StmdeployError(
            f"no peak can be measured in {', '.join(sorted(unknown))}",
            f"choose from: {', '.join(_PRODUCTS)}",
        )
    with console.progress() as progress:
        progress.expect(len(counts))
        found = {}
        for count in counts:
            progress.step(f"measuring peaks with {counted(count, 'thread')}")
            peaks = measured_peaks(count, kinds, progress, timeout_s=options.timeout_s)
            if peaks is None:
                raise StmdeployError(
                    "the peaks of this processor cannot be measured",
                    "see the warning above",
                    ExitCode.WORKER_FAILED,
                )
            found[count] = peaks
    name = processor_name()
    measured = [{"threads": count, **peaks.model_dump()} for count, peaks in found.items()]
    tables = [
        peaks_table(f"{name}, {counted(count, 'thread')}", peaks) for count, peaks in found.items()
    ]
    console.show({"processor": name, "peaks": measured}, *tables, json=options.json)


for _command in (list_, show, detect, measure):
    add_command(app, _command)
