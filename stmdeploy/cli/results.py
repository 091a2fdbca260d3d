"""`results`: what a store holds, listed, shown, exported, merged and pruned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stmdeploy.cli import console
from stmdeploy.cli.command import REQUIRED, add_command, argument, option
from stmdeploy.cli.options import (
    OUTPUT,
    RESULTS_ROOT,
    JsonOption,
    ReferenceOption,
    StoreOptions,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.report.text_table import TextTable, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stmdeploy.schema.evaluation import Evaluation

app = typer.Typer(
    no_args_is_help=True, help="List, show, export, merge and prune what was measured."
)
#: Artifacts that `results list` names.
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class ListOptions(JsonOption, StoreOptions):
    """Which store is read."""


def list_(options: ListOptions) -> None:
    """List the sweeps, and count the evaluations."""
    from stmdeploy.cli.requests import open_store

    store = open_store(options)
    sweeps, evaluated = store.sweeps(), store.evaluations()
    if options.json:
        console.print_json(
            {"sweeps": [{"id": s.id, "created_utc": s.created_utc, **s.states} for s in sweeps],
             "evaluations": len(evaluated)}
        )  # fmt: skip
        return
    if not sweeps:
        console.print_text(
            f"No sweeps. {_evaluated(evaluated) or 'To measure one: stmdeploy profile.'}"
        )
        return
    states = ("done", "failed", "measuring", "planned")
    cells = tuple(
        (s.id, s.created_utc[:19], *(str(s.states.get(state, 0)) for state in states))
        for s in sweeps
    )
    notes = (_evaluated(evaluated),) if evaluated else ()
    headers = ("sweep", "created (UTC)", *states)
    console.print_table(TextTable(headers, cells, left=2, notes=notes))


def _evaluated(found: Sequence[Evaluation]) -> str:
    """How many evaluations there are, and of what."""
    artifacts = {e.artifact_sha256: f"{e.model} {e.precision}" for e in found}
    names = list(artifacts.values())
    more = [f"{len(names) - _NAMED} more"] if len(names) > _NAMED else []
    if not names:
        return ""
    return (
        f"{counted(len(found), 'evaluation')} of {counted(len(names), 'artifact')}, "
        f"{', '.join(names[:_NAMED] + more)}: see `stmdeploy results evaluations`."
    )


def evaluations(options: ListOptions) -> None:
    """Print every accuracy that was measured, the oldest first."""
    from stmdeploy.cli.requests import open_store

    store = open_store(options)
    found = store.evaluations()
    if not found and not options.json:
        raise StmdeployError(
            f"{store.name} holds no evaluation",
            "measure one: stmdeploy evaluate ARTIFACT --data FOLDER",
        )
    console.show_evaluations(found, json=options.json)


@dataclass(frozen=True, kw_only=True)
class ShowOptions(JsonOption, ReferenceOption, StoreOptions):
    """Which sweep is shown."""

    sweep: str | None = argument(
        "Sweep, as `stmdeploy results list` names it, or the first characters of its name. "
        "[default: the newest]",
    )
    markdown: bool = option(OUTPUT, "Print the table as Markdown.", False)


def show(options: ShowOptions) -> None:
    """Print the rows of a sweep again."""
    from stmdeploy.cli.requests import open_store, reference_of, rows_of
    from stmdeploy.report.profile_table import profile_table

    store = open_store(options)
    info, rows = rows_of(store, options.sweep)
    reference = options.reference or reference_of(store, info.id)
    if options.markdown:
        console.print_text(profile_table(rows, reference).markdown())
    else:
        console.show_rows(rows, store.folder, info.id, reference, json=options.json)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(StoreOptions):
    """What is written, and where."""

    file: Path = argument("File to write, ending in .csv, .parquet or .json.", REQUIRED)
    sweep: str | None = option(
        OUTPUT, "Sweep, as `stmdeploy results list` names it. [default: the newest]"
    )
    timm: bool = option(OUTPUT, "Write CSV with the columns of timm's benchmarks.", False)


def export(options: ExportOptions) -> None:
    """Write the rows of a sweep to a file."""
    from stmdeploy.cli.requests import open_store, rows_of
    from stmdeploy.results.frame import write_frame

    form = "timm" if options.timm else options.file.suffix.removeprefix(".")
    write_frame(rows_of(open_store(options), options.sweep)[1], options.file, form)


@dataclass(frozen=True, kw_only=True)
class MergeOptions(StoreOptions):
    """Which stores are copied from."""

    stores: list[str] = argument("Stores to copy from: files, folders or URLs.", REQUIRED)


def merge(options: MergeOptions) -> None:
    """Copy from other stores what this one lacks."""
    from stmdeploy.cli.requests import open_store
    from stmdeploy.files.writing import writable
    from stmdeploy.results.store import Store

    others = [
        Store(RESULTS_ROOT, url=word) if "://" in word else Store(Path(word))
        for word in options.stores
    ]
    with writable(options.folder):
        mine = open_store(options, create=True)
        for other in others:
            if other.is_same_as(mine):
                raise StmdeployError(f"{other.name} is this store itself", "name another one")
            sweeps, processes = mine.merge(other)
            told = f"{counted(sweeps, 'new sweep')}, {counted(processes, 'new measurement')}"
            console.say(f"{other.name}: {told}")


@dataclass(frozen=True, kw_only=True)
class PruneOptions(StoreOptions):
    """What is deleted."""

    sweep: list[str] | None = argument("Sweeps to delete, as `stmdeploy results list` names them.")
    keep: int | None = option(OUTPUT, "Delete all sweeps but this many of the newest.")
    samples: bool = option(OUTPUT, "Delete raw samples only; figures stay.", False)


def prune(options: PruneOptions) -> None:
    """Delete sweeps with their artifacts and logs, or only their raw samples."""
    from stmdeploy.cli.requests import open_store
    from stmdeploy.sweeps.folder import prune as delete

    if (not options.sweep) == (options.keep is None):
        raise StmdeployError("nothing says what to prune", "name sweeps, or give --keep N")
    store = open_store(options)
    known = store.sweeps()
    if options.keep is not None and options.keep < 0:
        raise StmdeployError(f"--keep {options.keep} is below 0", "give 0 or more")
    doomed = (
        [store.find_sweep(word) for word in options.sweep]
        if options.sweep
        else list(known[: max(0, len(known) - (options.keep or 0))])
    )
    for info in doomed:
        delete(store, info.id, samples_only=options.samples)
    store.reclaim()
    what = "the raw samples of " if options.samples else ""
    console.say(f"deleted {what}{counted(len(doomed), 'sweep')}")


for _command in (list_, evaluations, show, export, merge, prune):
    add_command(app, _command)
