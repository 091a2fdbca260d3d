"""`recommend`: which of the measured rows to choose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options
from stmdeploy.cli.options import numbers, words
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stmdeploy.results.row import Row


def recommend(
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", help="Of one inference of the batch.")
    ] = None,
    min_throughput: Annotated[
        float | None, typer.Option("--min-throughput", help="Images a second.")
    ] = None,
    max_memory_mib: Annotated[
        float | None, typer.Option("--max-memory-mib", help="Of the GPU; of the worker on a CPU.")
    ] = None,
    max_energy_j: Annotated[
        float | None, typer.Option("--max-energy-j", help="Joule an image.")
    ] = None,
    min_top1: Annotated[
        float | None, typer.Option("--min-top1", help="Per cent; measured, or else published.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option("--gpu", help="As of `hardware list`. [default: this machine's processor]"),
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Or any device by a part of its name.")
    ] = None,
    stm: Annotated[list[str] | None, typer.Option("--stm", help="Only these.")] = None,
    runtime: Annotated[list[str] | None, typer.Option("--runtime", help="Only these.")] = None,
    precision: Annotated[list[str] | None, typer.Option("--precision", help="Only these.")] = None,
    batch: Annotated[list[str] | None, typer.Option("--batch", help="Only these.")] = None,
    runners_up: Annotated[int, typer.Option("--runners-up", help="How many are shown.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the store. [default: stmdeploy-results]")
    ] = None,
    store_url: options.StoreUrl = None,
    json: options.Json = False,
) -> None:
    """Choose among what was measured: the rows that keep every limit, the most accurate first.

    Exit code 3 if nothing was measured on that hardware, or nothing keeps the limits.
    """
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import open_store
    from stmdeploy.recommendation import Limits
    from stmdeploy.recommendation import recommend as choose
    from stmdeploy.report.recommended import recommendation_document, recommendation_table
    from stmdeploy.spec import at_least

    at_least(0, runners_up, "runners-up")
    limits = Limits(max_latency_ms, min_throughput, max_memory_mib, max_energy_j, min_top1)
    rows, title = _of_device(open_store(out, store_url).newest_rows(), gpu, device)
    rows = _only(rows, stm, words(runtime), words(precision), numbers(batch, "--batch"))
    found = choose(rows, limits)
    if json:
        console.print_json({"device": title, **recommendation_document(found)})
    else:
        console.print_table(recommendation_table(found, title, runners_up))
    if not found.choices:
        raise StmdeployError(
            f"none of {len(rows)} measured rows is certain to keep every limit",
            "loosen one, or measure more",
            ExitCode.CANNOT_TELL,
        )


def _of_device(rows: Sequence[Row], gpu: str | None, device: str | None) -> tuple[list[Row], str]:
    """The rows that were measured on a device, and what it is.

    Raises:
        StmdeployError: (exit code 3) there are none.
    """
    from stmdeploy.hardware import processor_name
    from stmdeploy.processors import find_profiles
    from stmdeploy.spec import LOOP

    if gpu is not None and device is not None:
        raise StmdeployError("--gpu and --device exclude each other", "give one of them")
    if gpu is not None:
        profiles = find_profiles(gpu)
        title = " or ".join(profile.title for profile in profiles)
        found = [row for row in rows if any(p.fits(row.device_name) for p in profiles)]
    elif device is not None:
        title = device
        found = [row for row in rows if device.lower() in row.device_name.lower()]
    else:
        title = processor_name()
        found = [row for row in rows if row.device == "cpu" and row.device_name == title]
    found = [row for row in found if row.scenario == LOOP]
    if not found:
        known = ", ".join(sorted({row.device_name for row in rows})) or "nothing at all"
        raise StmdeployError(
            f"nothing is measured on {title}; the store knows {known}",
            "measure there: stmdeploy profile",
            ExitCode.CANNOT_TELL,
        )
    return found, title


def _only(
    rows: Sequence[Row],
    stm: list[str] | None,
    runtimes: list[str],
    precisions: list[str],
    batches: list[int],
) -> list[Row]:
    from stmdeploy.backbones.catalog import resolve

    wanted = {resolve(word).stm for word in words(stm)}
    found = [
        row
        for row in rows
        if (not wanted or row.stm in wanted)
        and (not runtimes or row.runtime in runtimes)
        and (not precisions or row.precision in precisions)
        and (not batches or row.batch in batches)
    ]
    if not found:
        raise StmdeployError(
            "nothing of that kind is measured there", "see stmdeploy report", ExitCode.CANNOT_TELL
        )
    return found
