"""Printing: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from stmdeploy.contracts import Progress
    from stmdeploy.report.tables import TextTable

#: Width of a table where stdout is no terminal; wide enough for every column.
_FILE_WIDTH = 200


def print_json(document: Any) -> None:
    """Writes one JSON document to stdout."""
    sys.stdout.write(json.dumps(document, indent=1, default=str) + "\n")


def print_text(text: str) -> None:
    """Writes text to stdout."""
    sys.stdout.write(text + "\n")


def say(text: str) -> None:
    """Writes a line for the user to stderr."""
    sys.stderr.write(text + "\n")


def print_table(table: TextTable) -> None:
    """Writes a table and its notes to stdout."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH, highlight=False)
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, header in enumerate(table.headers):
        drawn.add_column(
            header,
            justify="left" if i < table.left else "right",
            overflow="fold" if i == 0 else "ellipsis",
            no_wrap=i > 0,
        )
    for cells in table.cells:
        drawn.add_row(*cells)
    console.print(drawn)
    for note in table.notes:
        console.print(note, markup=False)


class _Steps:
    """`contracts.Progress` on a rich bar: each step completes the one before it."""

    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self._bar = bar
        self._task = task
        self._begun = False

    def expect(self, steps: int) -> None:
        total = self._bar.tasks[self._task].total or 0
        self._bar.update(self._task, total=total + steps)

    def step(self, text: str) -> None:
        self._bar.update(self._task, description=text, advance=1 if self._begun else 0)
        self._begun = True
        if not self._bar.console.is_terminal:
            say(text)


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr; plain lines where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        yield _Steps(bar, bar.add_task("", total=0))
