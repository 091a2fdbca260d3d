"""`report`: what was measured, as a page, as figures and as tables for papers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.cli import console
from stmdeploy.cli.command import argument, option
from stmdeploy.cli.options import OUTPUT, JsonOption, ReferenceOption, StoreOptions, TaskOption
from stmdeploy.report.text_table import TextTable, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stmdeploy.report.history import History
    from stmdeploy.results.newest import NewestRows

#: The page, in the folder of the store.
FILE_NAME = "report.html"


@dataclass(frozen=True, kw_only=True)
class ReportOptions(JsonOption, ReferenceOption, TaskOption, StoreOptions):
    """What is reported, and how."""

    sweep: str | None = argument(
        "Sweep, as `stmdeploy results list` names it. [default: the newest measurement of every "
        "row, of all sweeps]",
    )
    html: Path | None = option(
        OUTPUT, "Page to write. [default: report.html in the store's folder]"
    )
    figures: Path | None = option(OUTPUT, "Folder to draw figures into, as PNG, SVG and PDF.")
    markdown: bool = option(OUTPUT, "Also print the table as Markdown.", False)
    latex: bool = option(OUTPUT, "Also print the table as LaTeX.", False)
    title: str = option(OUTPUT, "Heading of the page.", "Accuracy beside real cost")


def report(options: ReportOptions) -> None:
    """Write everything that was measured into one HTML file that needs no network.

    --markdown and --latex print the table too; --figures draws figures for papers.
    """
    from stmdeploy.cli.requests import check_task, open_store, reference_of, rows_of
    from stmdeploy.errors import StmdeployError
    from stmdeploy.report.history import history_of
    from stmdeploy.results.newest import NewestRows

    task = check_task(options.task)
    store, reference = open_store(options), options.reference or ""
    if options.sweep is None:
        found = store.newest_states()
    else:
        info, rows = rows_of(store, options.sweep)
        found, reference = NewestRows(rows, ()), reference or reference_of(store, info.id)
    if task is not None:
        found = found.only(task)
    if not found.rows:
        of_task = f" of {task}" if task else ""
        raise StmdeployError(
            f"{store.name} holds no finished row{of_task}",
            "finish its sweep: stmdeploy profile --resume",
        )
    path = options.html or store.folder / FILE_NAME
    histories = [one for same in store.history() if (one := history_of(same)) is not None]
    _write_page(found, path, options.title, reference, histories)
    drawn = _draw(found, options.figures)
    if options.json:
        from stmdeploy.report.ratios import document as rows_document
        from stmdeploy.results.frame import flat

        document = {"report": str(path), "figures": list(map(str, drawn)),
                    **rows_document(found.rows, reference),
                    "failed_since": [flat(row) for row in found.failed_since]}  # fmt: skip
        console.print_json(document)
    elif options.markdown:
        console.print_text(_table(found, reference).markdown())
    elif options.latex:
        console.print_text(_table(found, reference).latex())


def _write_page(
    found: NewestRows, path: Path, title: str, reference: str, histories: Sequence[History]
) -> None:
    from stmdeploy.files.writing import write_atomically
    from stmdeploy.report.page import report_page
    from stmdeploy.results.state import now_utc

    rows = found.rows
    page = report_page(rows, title, now_utc()[:19], found.failed_since, reference, histories)
    write_atomically(path, page)
    failed = sum(row.failure is not None for row in rows)
    told = f", {failed} of them failed" if failed else ""
    console.say(f"wrote {path}, {counted(len(rows), 'row')}{told}")


def _draw(found: NewestRows, folder: Path | None) -> list[Path]:
    from stmdeploy.files.writing import writable
    from stmdeploy.report.figures import write_figures

    if folder is None:
        return []
    with writable(folder):
        drawn = write_figures(found.rows, folder)
    console.say(f"wrote {', '.join(map(str, drawn))}")
    return drawn


def _table(found: NewestRows, reference: str) -> TextTable:
    """The table of the rows; failures since then are among its notes."""
    from stmdeploy.report.profile_table import profile_table

    table = profile_table(found.rows, reference)
    since = [
        f"failed after this measurement: {row.model}, {row.runtime}, batch {row.batch}: "
        f"{row.failure}"
        for row in found.failed_since
    ]
    return replace(table, notes=(*table.notes, *since))
