"""`report`: what was measured, as a page, as figures and as tables for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stmdeploy.cli import options

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
    from stmdeploy.cli.requests import open_store, rows_of
    from stmdeploy.errors import StmdeployError
    from stmdeploy.files import writable, write_atomically
    from stmdeploy.report.page import report_page
    from stmdeploy.report.tables import profile_table
    from stmdeploy.results.store import now_utc

    store = open_store(out, store_url)
    rows = store.newest_rows() if sweep is None else rows_of(store, sweep)[1]
    if not rows:
        raise StmdeployError(f"{store.name} holds no finished row", "go on: profile --resume")
    path = html or store.folder / FILE_NAME
    write_atomically(path, report_page(rows, title, now_utc()[:19]))
    console.say(f"wrote {path}, {len(rows)} rows")
    drawn: list[Path] = []
    if figures is not None:
        from stmdeploy.report.figures import write_figures

        with writable(figures):
            drawn = write_figures(rows, figures)
        console.say(f"wrote {', '.join(map(str, drawn))}")
    if json:
        from stmdeploy.results.frame import flat

        document = {"report": str(path), "figures": list(map(str, drawn)),
                    "rows": [flat(row) for row in rows]}  # fmt: skip
        console.print_json(document)
    elif markdown:
        console.print_text(profile_table(rows).markdown())
    elif latex:
        console.print_text(profile_table(rows).latex())
