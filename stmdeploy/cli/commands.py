"""The commands that read. Each parses its flags, calls one stage or pipeline, prints."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from stmdeploy.cli import options


class Listing(StrEnum):
    """What `list` can list."""

    BACKBONES = "backbones"
    TARGETS = "targets"
    GPUS = "gpus"
    PROMISES = "promises"


def list_(
    what: Annotated[Listing, typer.Argument(help="What to list.")] = Listing.BACKBONES,
    json: options.Json = False,
) -> None:
    """List backbones with their published accuracy, export targets, known GPUs, or promises.

    Promises: for which mixer, target, precision and lowering an export works, and why not.
    """
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
    num_classes: options.NumClasses = None,
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
