"""`results`: what was measured, looked at, written out, merged and thrown away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options
from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stmdeploy.results.row import Evaluation

app = typer.Typer(
    no_args_is_help=True, help="List, show, export, merge and prune what was measured."
)

Sweep = Annotated[
    str | None,
    typer.Argument(help="Of `results list`, or how it begins. [default: the newest]"),
]
Where = Annotated[
    Path | None, typer.Option("--out", help="Folder of the store. [default: stmdeploy-results]")
]
#: Artifacts that `results list` names.
_NAMED = 5


@app.command("list")
def list_(
    out: Where = None, store_url: options.StoreUrl = None, json: options.Json = False
) -> None:
    """List the sweeps, and say what else the store holds."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import open_store
    from stmdeploy.report.tables import TextTable

    store = open_store(out, store_url)
    sweeps, evaluated = store.sweeps(), store.evaluations()
    if json:
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
        f"{_count(len(found), 'evaluation')} of {_count(len(names), 'artifact')}, "
        f"{', '.join(names[:_NAMED] + more)}: see `stmdeploy results evaluations`."
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


@app.command()
def evaluations(
    out: Where = None, store_url: options.StoreUrl = None, json: options.Json = False
) -> None:
    """Print every accuracy that was measured, the oldest first."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import open_store
    from stmdeploy.report.accuracy import evaluation_table

    store = open_store(out, store_url)
    found = store.evaluations()
    if json:
        console.print_json({"evaluations": [e.model_dump(mode="json") for e in found]})
        return
    if not found:
        raise StmdeployError(
            f"{store.name} holds no evaluation",
            "measure one: stmdeploy evaluate ARTIFACT --data FOLDER",
        )
    console.print_table(evaluation_table(found))


@app.command()
def show(
    sweep: Sweep = None,
    out: Where = None,
    store_url: options.StoreUrl = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
    json: options.Json = False,
) -> None:
    """Print the rows of a sweep again."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import open_store, rows_of
    from stmdeploy.report.tables import profile_table

    store = open_store(out, store_url)
    info, rows = rows_of(store, sweep)
    if markdown:
        console.print_text(profile_table(rows).markdown())
    else:
        console.show_rows(rows, store.folder, info.id, json=json)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(help="What to write: .csv .parquet .json")],
    sweep: Annotated[str | None, typer.Option("--sweep", help="[default: the newest]")] = None,
    timm: Annotated[
        bool, typer.Option("--timm", help="CSV with the columns of timm's benchmarks.")
    ] = False,
    out: Where = None,
    store_url: options.StoreUrl = None,
) -> None:
    """Write the rows of a sweep to a file."""
    from stmdeploy.cli.requests import open_store, rows_of
    from stmdeploy.results.frame import write_frame

    form = "timm" if timm else file.suffix.removeprefix(".")
    write_frame(rows_of(open_store(out, store_url), sweep)[1], file, form)


@app.command()
def merge(
    stores: Annotated[
        list[str], typer.Argument(help="Stores to take over: files, folders or URLs.")
    ],
    out: Where = None,
    store_url: options.StoreUrl = None,
) -> None:
    """Take over what other stores have and this one has not."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import RESULTS_ROOT, store_of
    from stmdeploy.files import writable
    from stmdeploy.results.store import Store

    others = [store_of(word) for word in stores]
    folder = out or RESULTS_ROOT
    with writable(folder):
        mine = Store(folder, url=store_url or "", create=True)
        for other in others:
            if other.is_same_as(mine):
                raise StmdeployError(f"{other.name} is this store itself", "name another one")
            sweeps, processes = mine.merge(other)
            console.say(f"{other.name}: {sweeps} new sweeps, {processes} new measurements")


@app.command()
def prune(
    sweep: Annotated[list[str] | None, typer.Argument(help="Sweeps to throw away.")] = None,
    keep: Annotated[
        int | None, typer.Option("--keep", help="Throw away all but the newest so many.")
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="Throw away raw samples only; figures stay.")
    ] = False,
    out: Where = None,
    store_url: options.StoreUrl = None,
) -> None:
    """Throw sweeps away, or their raw samples, with their artifacts."""
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import open_store
    from stmdeploy.pipeline import prune as throw_away

    if (sweep is None) == (keep is None):
        raise StmdeployError("nothing says what to prune", "name sweeps, or give --keep N")
    store = open_store(out, store_url)
    known = store.sweeps()
    if keep is not None and keep < 0:
        raise StmdeployError(f"--keep {keep} is below 0", "give 0 or more")
    doomed = (
        [store.find_sweep(word) for word in sweep]
        if sweep is not None
        else list(known[: max(0, len(known) - (keep or 0))])
    )
    for info in doomed:
        throw_away(store, info.id, samples_only=samples)
    store.reclaim()
    console.say(f"{'samples of ' if samples else ''}{len(doomed)} sweeps thrown away")
