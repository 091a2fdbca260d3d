"""Printing: tables and JSON to stdout, progress to stderr."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.report.escaping import log_line
from stmdeploy.report.text_table import counted

if TYPE_CHECKING:
    from pathlib import Path

    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID

    from stmdeploy.plugins.progress import Progress
    from stmdeploy.report.text_table import TextTable
    from stmdeploy.schema.evaluation import Evaluation
    from stmdeploy.schema.row import Row


#: How lines begin that are shown whatever else is not.
WARNING = "WARNING"


@dataclass
class Talk:
    """How much is said beside results: with `quiet` warnings and errors alone, with `verbose` every
    step as a line, and where an error came from."""

    quiet: bool = False
    verbose: bool = False


_talk = Talk()


def set_talk(*, quiet: bool, verbose: bool) -> None:
    """How much this process says from now on.

    Raises:
        StmdeployError: it cannot be both.
    """
    if quiet and verbose:
        raise StmdeployError("--quiet and --verbose exclude each other", "give one of them")
    _talk.quiet, _talk.verbose = quiet, verbose


def is_verbose() -> bool:
    """Whether the user wants to know everything."""
    return _talk.verbose


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


def note(text: str) -> None:
    """As `say`, unless the user wants to hear warnings alone."""
    if not _talk.quiet:
        say(text)


def say(text: str) -> None:
    """Writes a line for the user to stderr, in which a CI system finds no command."""
    tell_runner(log_line(one_line(text)))


def tell_runner(line: str) -> None:
    """Writes a line to stderr as it is; where nobody can read it, nothing happens."""
    with suppress(OSError, ValueError):
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def print_table(table: TextTable) -> None:
    """Writes a table and its notes to stdout: to a terminal what fits, elsewhere all of it."""
    from stmdeploy.cli.drawing import draw

    text = draw(table, shutil.get_terminal_size().columns if sys.stdout.isatty() else None)
    print_text("\n".join(map(log_line, text.splitlines())))  # none of it a command to a CI system


def show_rows(
    rows: tuple[Row, ...], folder: Path, sweep: str, reference: str = "", *, json: bool
) -> None:
    """Prints measured rows, compared with a reference, as the table or as a JSON document."""
    from stmdeploy.report.profile_table import profile_table
    from stmdeploy.report.ratios import document

    if json:
        print_json({"results": str(folder), "sweep": sweep, **document(rows, reference)})
    else:
        print_table(profile_table(rows, reference))
        note(f"rows, raw samples and artifacts are in {folder}, sweep {sweep}")


def show_evaluations(found: Sequence[Evaluation], *, json: bool) -> None:
    """Prints measured accuracies as the table, or as a JSON document."""
    from stmdeploy.report.accuracy import evaluation_table

    document = {"evaluations": [one.model_dump(mode="json") for one in found]}
    show(document, evaluation_table(found), json=json)


class _Steps:
    """A `Progress` on a rich bar: each step completes the one before it."""

    def __init__(self, bar: RichProgress, task: TaskID) -> None:
        self._bar, self._task = bar, task
        self._begun = self._in_phase = False

    def phase(self, name: str, steps: int) -> None:
        self._bar.reset(self._task, total=steps, description=_shown(name))
        self._begun, self._in_phase = False, True
        if _talk.verbose:
            self._tell(f"{name}: {counted(steps, 'step')}")

    def expect(self, steps: int) -> None:
        if not self._in_phase:
            total = self._bar.tasks[self._task].total or 0
            self._bar.update(self._task, total=total + steps)

    def step(self, text: str) -> None:
        done = self._bar.tasks[self._task].completed + 1
        if self._begun:
            total = max(self._bar.tasks[self._task].total or 0, done)
            self._bar.update(self._task, completed=done, total=total)
        self._bar.update(self._task, description=_shown(text))
        self._begun = True
        if _talk.verbose or (self._bar.disable and not _talk.quiet):
            self._tell(text)

    def detail(self, text: str) -> None:
        self._bar.update(self._task, description=_shown(text))

    def warn(self, text: str) -> None:
        if not _talk.quiet or text.startswith(WARNING):
            self._tell(text)

    def _tell(self, text: str) -> None:
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
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.SpinnerColumn(),
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=24),
        bars.MofNCompleteColumn(),
        bars.TimeElapsedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=_talk.quiet or not sys.stderr.isatty(),
    )
    # What models and libraries print must not end up in a document on stdout.
    with bar, redirect_stdout(sys.stderr):
        yield _Steps(bar, bar.add_task("", total=0))
