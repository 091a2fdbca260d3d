"""Printing: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.report.escaping import log_line

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from stmdeploy.plugins.progress import Progress
    from stmdeploy.report.text_table import TextTable
    from stmdeploy.schema.row import Row


class ReaderGoneError(Exception):
    """Nobody reads stdout any more."""


def print_text(text: str) -> None:
    """Writes text to stdout.

    Raises:
        ReaderGoneError: the other end of the pipe is closed.
        StmdeployError: stdout cannot be written to.
    """
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError as error:
        raise ReaderGoneError from error
    except OSError as error:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        raise StmdeployError(
            f"cannot write to stdout: {(error.strerror or '').lower()}", "free some space"
        ) from error


def print_json(document: Any) -> None:
    """Writes one JSON document to stdout."""
    print_text(json.dumps(document, indent=1, default=str, allow_nan=False))


def show(document: Any, *tables: TextTable, json: bool) -> None:
    """Prints a document, or the tables that say the same."""
    if json:
        print_json(document)
    for table in () if json else tables:
        print_table(table)


def say(text: str) -> None:
    """Writes a line for the user to stderr; what is in it is text, for CI systems too."""
    tell_runner(log_line(one_line(text)))


def tell_runner(line: str) -> None:
    """Writes a line to stderr as it is; nobody reading it ends nothing."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def print_table(table: TextTable) -> None:
    """Writes a table and its notes to stdout: what fits into a terminal, all of it elsewhere."""
    from stmdeploy.cli.drawing import draw

    terminal = sys.stdout.isatty()
    print_lines(draw(table, shutil.get_terminal_size().columns if terminal else None))


def print_lines(text: str) -> None:
    """Writes text for people to stdout: no line of it is a command to a CI system."""
    print_text("\n".join(map(log_line, text.splitlines())))


def show_rows(rows: tuple[Row, ...], folder: Path, sweep: str, *, json: bool) -> None:
    """Prints measured rows as the table, or as a JSON document."""
    from stmdeploy.report.profile_table import profile_table
    from stmdeploy.results.frame import flat

    if json:
        document = {"results": str(folder), "sweep": sweep, "rows": [flat(row) for row in rows]}
        print_json(document)
    else:
        print_table(profile_table(rows))
        say(f"rows, raw samples and artifacts are in {folder}, sweep {sweep}")


class _Steps:
    """A `Progress` on a rich bar: each step completes the one before it."""

    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self._bar = bar
        self._task = task
        self._begun = False

    def expect(self, steps: int) -> None:
        total = self._bar.tasks[self._task].total or 0
        self._bar.update(self._task, total=total + steps)

    def step(self, text: str) -> None:
        self._bar.update(self._task, description=_shown(text), advance=1 if self._begun else 0)
        self._begun = True
        if self._bar.disable:
            say(text)

    def detail(self, text: str) -> None:
        self._bar.update(self._task, description=_shown(text))

    def warn(self, text: str) -> None:
        if self._bar.disable:
            say(text)
        else:
            self._bar.console.print(one_line(text), markup=False)


def _shown(text: str) -> str:
    """What a bar shows of a text: rich would take brackets for markup."""
    from rich.markup import escape

    return escape(one_line(text))


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
    # What models and libraries print must not end up in a document on stdout.
    with bar, redirect_stdout(sys.stderr):
        yield _Steps(bar, bar.add_task("", total=0))
