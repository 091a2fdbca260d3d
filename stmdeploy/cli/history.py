"""`history`: what rows came to over time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import option
from stmdeploy.cli.options import MEASURING, OUTPUT, JsonOption, StoreOptions
from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    from stmdeploy.results.newest import Entry


@dataclass(frozen=True, kw_only=True)
class HistoryOptions(JsonOption, StoreOptions):
    """Which rows, and what counts as a step."""

    row: str | None = option(
        MEASURING, "Rows whose names have these words, such as 'swin/openvino'. [default: all]"
    )
    relative_to: str | None = option(
        MEASURING,
        "Look at the ratio by turns to this row of the same sweep, by words of its name, not at "
        "the latency: it knows nothing of a machine that is slower as a whole.",
    )
    threshold_percent: float = option(
        MEASURING, "Growth by the last step that makes the exit code 1, in per cent.", 3.0
    )
    figure: Path | None = option(OUTPUT, "Draw the rows into this file: .png, .svg or .pdf.")


def history(options: HistoryOptions) -> None:
    """Show what rows came to from sweep to sweep, and find steps: what creeps up slowly, or what no
    single check saw.

    Exit codes: 0 no row is slower since its last step, 1 one is, 3 none was measured often enough.
    """
    from stmdeploy.cli.requests import open_store
    from stmdeploy.report.history import (
        history_document,
        history_of,
        history_table,
        write_history_figure,
    )
    from stmdeploy.report.invariance import check_figure
    from stmdeploy.report.ratios import name_of
    from stmdeploy.spec.limits import positive
    from stmdeploy.spec.sweep import names

    positive(options.threshold_percent, "--threshold-percent")
    if options.figure is not None:
        check_figure(options.figure)
    store = open_store(options)
    every = store.history()
    beside = _keys(every, options.relative_to)
    unit = f"times {options.relative_to}" if options.relative_to else "ms"
    found = [
        one
        for same in every
        if options.row is None or names(options.row, name_of(same[-1].row))
        if (one := history_of(same, unit, beside)) is not None
    ]
    if not found:
        raise StmdeployError(
            f"{store.name} holds no such row", "see stmdeploy results show for their names"
        )
    if options.figure is not None:
        write_history_figure(found, options.figure)
    table = history_table(found, options.threshold_percent)
    console.show({"history": history_document(found)}, table, json=options.json)
    if any(one.steps and one.steps[-1].percent >= options.threshold_percent for one in found):
        raise typer.Exit(int(ExitCode.REGRESSION))
    if not any(one.enough for one in found):
        raise typer.Exit(int(ExitCode.CANNOT_TELL))


def _keys(every: Sequence[Sequence[Entry]], words: str | None) -> dict[int, str]:
    """The key of the first row of every batch whose name has some words; none for None.

    Raises:
        StmdeployError: no row has such a name.
    """
    from stmdeploy.report.ratios import name_of
    from stmdeploy.spec.sweep import names

    if words is None:
        return {}
    found: dict[int, str] = {}
    for same in every:
        if names(words, name_of(same[-1].row)):
            found.setdefault(same[-1].row.batch, same[-1].key)
    if not found:
        raise StmdeployError(f"no row is named {words!r}", "see stmdeploy results show")
    return found
