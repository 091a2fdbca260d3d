"""`report`: what was measured, as a page, as figures and as tables for papers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stmdeploy.cli import options

if TYPE_CHECKING:
    from stmdeploy.report.tables import TextTable
    from stmdeploy.results.newest import NewestRows
    from stmdeploy.results.store import Store

#: The page, in the folder of the store.
FILE_NAME = "report.html"


def report(
    sweep: Annotated[
        str | None,
        typer.Argument(
            help="Of `results list`. [default: the newest measurement of every row of all sweeps]"
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option("--html", help="The page to write. [default: report.html beside the store]"),
    ] = None,
    figures: Annotated[
        Path | None, typer.Option("--figures", help="Folder for figures as PNG and SVG.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table in Markdown.")
    ] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Print the table for LaTeX.")] = False,
    title: Annotated[
        str, typer.Option("--title", help="Heading of the page.")
    ] = "Accuracy beside real cost",
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the store. [default: stmdeploy-results]")
    ] = None,
    store_url: options.StoreUrl = None,
    json: options.Json = False,
) -> None:
    """Write everything that was measured into one HTML file that needs no network.

    With --markdown or --latex the table is printed too, with --figures drawn for papers.
    """
    from stmdeploy.cli import console
    from stmdeploy.cli.requests import open_store
    from stmdeploy.errors import StmdeployError
    from stmdeploy.files import writable, write_atomically
    from stmdeploy.report.page import report_page
    from stmdeploy.results.store import now_utc

    store = open_store(out, store_url)
    found = _newest(store, sweep)
    rows = found.rows
    if not rows:
        raise StmdeployError(f"{store.name} holds no finished row", "go on: profile --resume")
    path = html or store.folder / FILE_NAME
    write_atomically(path, report_page(rows, title, now_utc()[:19], found.failed_since))
    failed = sum(row.failure is not None for row in rows)
    told = f"{len(rows)} row{'' if len(rows) == 1 else 's'}"
    console.say(f"wrote {path}, {told}{f', {failed} of them failed' if failed else ''}")
    drawn: list[Path] = []
    if figures is not None:
        from stmdeploy.report.figures import write_figures

        with writable(figures):
            drawn = write_figures(rows, figures)
        console.say(f"wrote {', '.join(map(str, drawn))}")
    if json:
        from stmdeploy.results.frame import flat

        document = {"report": str(path), "figures": list(map(str, drawn)),
                    "rows": [flat(row) for row in rows],
                    "failed_since": [flat(row) for row in found.failed_since]}  # fmt: skip
        console.print_json(document)
    elif markdown:
        console.print_text(_table(found).markdown())
    elif latex:
        console.print_text(_table(found).latex())


def _newest(store: Store, sweep: str | None) -> NewestRows:
    """The rows of a sweep, or of all: the newest of each."""
    from stmdeploy.cli.requests import rows_of
    from stmdeploy.results.newest import NewestRows

    if sweep is None:
        return store.newest_states()
    return NewestRows(rows_of(store, sweep)[1], ())


def _table(found: NewestRows) -> TextTable:
    """The table of the rows; failures since then are among its notes."""
    from stmdeploy.report.tables import profile_table

    table = profile_table(found.rows)
    since = [
        f"failed after this measurement: {row.model}, {row.runtime}, batch {row.batch}: "
        f"{row.failure}"
        for row in found.failed_since
    ]
    return replace(table, notes=(*table.notes, *since))
