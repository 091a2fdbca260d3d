"""`baseline`: create one, and show what is in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import add_command, argument, option
from stmdeploy.cli.options import (
    OUTPUT,
    JsonOption,
    RowOptions,
    SweepFileOption,
    SweepOptions,
    TrustOption,
    part_of,
)
from stmdeploy.cli.outside import InputOption
from stmdeploy.report.text_table import counted

if TYPE_CHECKING:
    from stmdeploy.check.bundle import Baseline

app = typer.Typer(no_args_is_help=True, help="Create and show baselines for `stmdeploy check`.")

DEFAULT_PATH = Path("stmdeploy-baseline")


@dataclass(frozen=True, kw_only=True)
class CreateOptions(JsonOption, TrustOption, InputOption, SweepFileOption, RowOptions):
    """Which rows a baseline has, and where it goes."""

    files: tuple[Path, ...] = argument(
        "Models that you have, as for `profile`. [default: the backbones that the flags name]", ()
    )
    out: Path = option(OUTPUT, "Baseline to write: a folder, or a .tar.gz file.", DEFAULT_PATH)


def create(options: CreateOptions) -> None:
    """Export and measure backbones, and keep artifacts and figures as a baseline."""
    from stmdeploy.check.baseline import create_baseline
    from stmdeploy.cli.outside import file_models
    from stmdeploy.cli.requests import notes_of, sweep_spec
    from stmdeploy.cli.sweep_file import file_of_flags, with_file
    from stmdeploy.cli.tuned_file import tuned_of, warn_if_elsewhere

    asked = with_file(part_of(options, SweepOptions), *file_of_flags(options), trust=options.trust)
    with console.progress() as progress:
        asked_of = (options.files, options.input, asked.runtime, asked.precision)
        spec = sweep_spec(asked, files=file_models(*asked_of, progress))
        for note in notes_of(asked, spec):
            progress.warn(note)
        if options.config is not None:
            warn_if_elsewhere(tuned_of(options.config), str(options.config), progress)
        baseline = create_baseline(spec, options.out, progress)
    if options.json:
        console.print_json(_described(baseline, options.out))
    else:
        rows = counted(len(baseline.rows), "row")
        console.print_text(f"wrote {options.out}: baseline {baseline.id}, {rows}")


@dataclass(frozen=True, kw_only=True)
class ShowOptions(JsonOption):
    """Which baseline is shown."""

    path: Path = argument("Baseline to show.", DEFAULT_PATH)


def show(options: ShowOptions) -> None:
    """Verify a baseline, and show what is in it."""
    from stmdeploy.check.bundle import open_bundle
    from stmdeploy.check.formats.table import baseline_table

    with open_bundle(options.path) as bundle:
        baseline = bundle.baseline
    described = _described(baseline, options.path)
    console.show(described, baseline_table(baseline), json=options.json)


def _described(baseline: Baseline, path: Path) -> dict[str, object]:
    from stmdeploy.results.frame import flat

    return {
        "path": str(path),
        "id": baseline.id,
        "created_utc": baseline.created_utc,
        "machine": baseline.machine.model_dump(),
        "rows": [
            {"name": row.name, "artifact": row.artifact, **flat(row.row)} for row in baseline.rows
        ],
    }


for _command in (create, show):
    add_command(app, _command)
