"""A table as text: columns that fit side by side, or each row as a block of lines."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stmdeploy.files.reading import one_line
from stmdeploy.report.fitting import GAP, Fit, fit, may_wrap
from stmdeploy.report.text_table import TextTable

#: In a block, a text that has less room than this beside its header stands below it.
_BESIDE = 20


def draw(table: TextTable, width: int | None = None) -> str:
    """Title, rows and notes in lines of at most `width` terminal cells.

    None, for files and pipes: every column, nothing wrapped.
    """
    found = fit(table, width)
    lines = ["", *_wrapped(table.title, width)] if table.title else [""]
    lines += (
        _blocks(table, width) if found.stacked and width else _side_by_side(table, found, width)
    )
    lines.append("")
    if found.dropped:
        left_out = f"Not shown for want of room: {', '.join(found.dropped)}."
        lines += _wrapped(f"{left_out} A wider terminal, a pipe or --json shows them.", width)
    for note in table.notes:
        lines += _wrapped(note, width)
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def _side_by_side(table: TextTable, found: Fit, width: int | None) -> list[str]:
    drawn = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1),
        collapse_padding=True,
    )
    for i, cells in zip(found.columns, found.widths, strict=True):
        drawn.add_column(
            Text(one_line(table.headers[i])),
            justify="left" if i < table.left or may_wrap(table, i) else "right",
            vertical="top",
            overflow="fold",
            width=cells,
        )
    styles = dict(table.verdicts) if width is not None else {}
    for line in table.cells:
        drawn.add_row(
            *(Text(one_line(line[i]), style=styles.get(line[i], "")) for i in found.columns)
        )
    console = _console(max(1, found.width), terminal=width is not None)
    console.print(drawn)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def _blocks(table: TextTable, width: int) -> Iterator[str]:
    """Every row as lines of header and text; keys are never wrapped beside their headers."""
    label = max(cell_len(one_line(header)) for header in table.headers) + GAP
    for number, line in enumerate(table.cells):
        if number:
            yield ""
        for i, (header, cell) in enumerate(zip(table.headers, line, strict=True)):
            yield from _entry(one_line(header), one_line(cell), label, width, key=i < table.keys)


def _entry(header: str, text: str, label: int, width: int, *, key: bool) -> Iterator[str]:
    room = width - label
    if room < cell_len(text) and (key or room < _BESIDE):
        yield from _wrapped(header, width)
        yield from _wrapped(text, width)
        return
    first, *others = _wrapped(text, room) or [""]
    yield header + " " * (label - cell_len(header)) + first
    yield from (" " * label + other for other in others)


def _wrapped(text: str, width: int | None) -> Sequence[str]:
    """The text in lines of at most `width` cells, broken between words where they fit."""
    text = one_line(text)
    if width is None or not text:
        return [text] if text else []
    lines = Text(text).wrap(_console(width, terminal=True), width, overflow="fold")
    return [line.plain.rstrip() for line in lines]


def _console(width: int, *, terminal: bool) -> Console:
    # Without a height, rich takes 80 cells for the width of a dumb terminal.
    return Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=100, highlight=False
    )
