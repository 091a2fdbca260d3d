"""Tables as text, in a terminal of some width and in a pipe."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from stmdeploy.cli.drawing import draw
from stmdeploy.files.reading import one_line
from stmdeploy.report.fitting import fit
from stmdeploy.report.text_table import TextTable
from tests.report.test_fitting import tables

TABLE = TextTable(
    ("backbone", "batch", "latency ms", "images/s", "why"),
    (
        ("unified_dcn_v3_tiny", "1", "10.0", "99.0", "the most accurate and the fastest"),
        ("unified_halo_tiny", "8", "~156", "51.0", "not certain"),
    ),
    notes=("Latency is the median of one inference.",),
    keys=2,
    drop_first=("images/s", "why"),
    wrap=("why",),
    title="Some processor",
)
REMEDY = "A wider terminal, a pipe or --json shows them."


def plain(text: str) -> list[str]:
    """The lines without what makes headers bold."""
    return [line.rstrip() for line in re.sub(r"\x1b\[\d+m", "", text).splitlines()]


def test_a_pipe_gets_everything_in_one_line_each() -> None:
    assert draw(TABLE).splitlines() == [
        "",
        "Some processor",
        "backbone             batch  latency ms  images/s  why",
        "─" * 83,
        "unified_dcn_v3_tiny      1        10.0      99.0  the most accurate and the fastest",
        "unified_halo_tiny        8        ~156      51.0  not certain",
        "",
        "Latency is the median of one inference.",
    ]


def test_text_wraps_at_words() -> None:
    assert plain(draw(replace(TABLE, title=""), 70)) == [
        "",
        "                            latency",
        "backbone             batch       ms  images/s  why",
        "─" * 70,
        "unified_dcn_v3_tiny      1     10.0      99.0  the most accurate and",
        "                                               the fastest",
        "unified_halo_tiny        8     ~156      51.0  not certain",
        "",
        "Latency is the median of one inference.",
    ]


def test_what_is_left_out_is_said() -> None:
    assert plain(draw(TABLE, 36)) == [
        "",
        "Some processor",
        "                            latency",
        "backbone             batch       ms",
        "─" * 35,
        "unified_dcn_v3_tiny      1     10.0",
        "unified_halo_tiny        8     ~156",
        "",
        "Not shown for want of room:",
        "images/s, why. A wider terminal, a",
        "pipe or --json shows them.",
        "Latency is the median of one",
        "inference.",
    ]


def test_rows_stack_where_nothing_else_fits() -> None:
    one = replace(TABLE, cells=TABLE.cells[:1], notes=(), title="")
    assert plain(draw(one, 34)) == [
        "",
        "backbone    unified_dcn_v3_tiny",
        "batch       1",
        "latency ms  10.0",
        "images/s    99.0",
        "why         the most accurate and",
        "            the fastest",
    ]
    assert plain(draw(one, 19)) == [
        "",
        "backbone",
        "unified_dcn_v3_tiny",
        "batch       1",
        "latency ms  10.0",
        "images/s    99.0",
        "why",
        "the most accurate",
        "and the fastest",
    ]


def test_signs_that_break_lines_do_not() -> None:
    table = TextTable(("row", "x"), (("a\nb\x1b[2J", "1"),), notes=("one\ntwo",))
    assert draw(table).splitlines() == [
        "",
        "row      x",
        "─" * 10,
        "a b [2J  1",
        "",
        "one two",
    ]


@given(tables(), st.integers(0, 150))
def test_nothing_is_lost_and_nothing_too_wide(table: TextTable, more: int) -> None:
    keys = [one_line(cell) for line in table.cells for cell in line[: table.keys]]
    width = max([2, *map(cell_len, keys)]) + more
    found, lines = fit(table, width), plain(draw(table, width))
    assert all(cell_len(line) <= width for line in lines)
    assert all(any(key in line for line in lines) for key in keys)
    columns = range(len(table.headers)) if found.stacked else found.columns
    headers = [table.headers[i] for i in columns] * (len(table.cells) if found.stacked else 1)
    cells = [line[i] for line in table.cells for i in columns]
    said = f"Not shown for want of room: {', '.join(found.dropped)}. {REMEDY}"
    written = [table.title, *table.notes, *headers, *cells, *([said] if found.dropped else [])]
    assert _signs(lines) == _signs(map(one_line, written))


@given(tables())
def test_a_pipe_loses_nothing(table: TextTable) -> None:
    lines = draw(table).splitlines()
    written = [
        table.title,
        *table.notes,
        *table.headers,
        *(c for line in table.cells for c in line),
    ]
    assert _signs(lines) == _signs(map(one_line, written))
    for line in table.cells:
        assert any(all(one_line(cell) in drawn for cell in line) for drawn in lines)


def _signs(texts: Iterable[str]) -> Counter[str]:
    """Every sign but spaces and the rule."""
    return Counter(sign for text in texts for sign in text if sign not in " ─")
