"""Which columns fit, and how wide they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from stmdeploy.files.reading import one_line
from stmdeploy.report.fitting import GAP, Fit, fit
from stmdeploy.report.text_table import TextTable

#: Natural widths: 4, 5, 10, 7; with the headers wrapped: 4, 5, 7, 5.
TABLE = TextTable(
    ("name", "batch", "latency ms", "top-1 %"),
    (("dcn", "1", "10.0", "75.3"), ("halo", "8", "~156", "75.8")),
    keys=2,
    drop_first=("top-1 %",),
)
ALL = (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("width", "found"),
    [
        (None, Fit(ALL, (4, 5, 10, 7))),
        (32, Fit(ALL, (4, 5, 10, 7))),
        (31, Fit(ALL, (4, 5, 10, 5))),
        (30, Fit(ALL, (4, 5, 10, 5))),
        (29, Fit(ALL, (4, 5, 7, 7))),
        (27, Fit(ALL, (4, 5, 7, 5))),
        (26, Fit((0, 1, 2), (4, 5, 10), ("top-1 %",))),
        (20, Fit((0, 1, 2), (4, 5, 7), ("top-1 %",))),
        (19, Fit((), ())),
    ],
)
def test_headers_wrap_then_columns_go_then_rows_stack(width: int | None, found: Fit) -> None:
    assert fit(TABLE, width) == found
    assert found.stacked == (width == 19)


def test_columns_that_are_not_named_go_from_the_right() -> None:
    table = TextTable(("key", "aaa", "bbb", "ccc", "ddd"), (), drop_first=("bbb",))
    dropped = [fit(table, width).dropped for width in (23, 18, 13, 8)]
    assert dropped == [(), ("bbb",), ("bbb", "ddd"), ("bbb", "ccc", "ddd")]
    assert fit(table, 7).stacked


def test_text_wraps_before_a_column_goes() -> None:
    table = TextTable(
        ("key", "text", "more"),
        (("k", "one two three four", "five six"),),
        drop_first=("more",),
        wrap=("text", "more"),
    )
    assert fit(table, 33) == Fit((0, 1, 2), (3, 18, 8))
    assert fit(table, 24) == Fit((0, 1, 2), (3, 12, 5))
    assert fit(table, 16) == Fit((0, 1, 2), (3, 5, 4))
    assert fit(table, 15) == Fit((0, 1), (3, 10), ("more",))
    assert fit(table, 10) == Fit((0, 1), (3, 5), ("more",))


def test_a_key_never_wraps() -> None:
    table = TextTable(("key", "text"), (("a b c d e f", "one two"),), wrap=("key", "text"))
    assert fit(table, 17) == Fit((0, 1), (11, 4))
    assert fit(table, 16).stacked


def test_a_word_that_is_very_long_does_not_drive_columns_out() -> None:
    path = "/a/very/long/path/" + "x" * 100
    table = TextTable(("what", "value"), (("file", path),), wrap=("value",))
    assert fit(table, 60) == Fit((0, 1), (4, 54))
    assert fit(table, 35).stacked


def test_wide_signs_take_two_cells() -> None:
    table = TextTable(("key", "x"), (("猫猫", "1"),))
    assert fit(table, 7) == Fit((0, 1), (4, 1))
    assert fit(table, 6).stacked


def test_one_line() -> None:
    assert one_line(" a\nb\tc \x1b[31m\u202e d") == "a b c [31m d"


#: Signs of no width of their own join others, each terminal in its way.
signs = st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Mn", "Me", "Sk"]).filter(
    lambda sign: cell_len(sign) > 0 or not sign.isprintable()
)
texts = st.text(signs, max_size=30)
words = st.sampled_from(["", "a", "bb", "ccc ddd", "0.25 %", "unified_dcn_v3_tiny", "猫"])


@st.composite
def tables(draw: st.DrawFn) -> TextTable:
    columns = draw(st.integers(1, 6))
    line = st.tuples(*[texts | words] * columns)
    headers = draw(line)
    some = st.lists(st.sampled_from([*headers, "no such"]), max_size=4).map(tuple)
    return TextTable(
        headers,
        tuple(draw(st.lists(line, max_size=4))),
        left=draw(st.integers(0, columns)),
        notes=tuple(draw(st.lists(texts, max_size=2))),
        keys=draw(st.integers(1, columns)),
        drop_first=draw(some),
        wrap=draw(some),
        title=draw(texts),
    )


@given(tables(), st.integers(1, 200))
def test_whatever_fits_holds_every_key_whole(table: TextTable, width: int) -> None:
    found = fit(table, width)
    lines = [[one_line(text) for text in line] for line in table.cells]
    if found.stacked:
        return
    assert sum(found.widths) + GAP * (len(found.widths) - 1) == found.width <= width
    assert found.columns[: table.keys] == tuple(range(table.keys))
    assert found.dropped == tuple(
        header for i, header in enumerate(table.headers) if i not in found.columns
    )
    for i, cells in zip(found.columns, found.widths, strict=True):
        if i < table.keys or table.headers[i] not in table.wrap:
            assert all(cell_len(line[i]) <= cells for line in lines)


@given(tables(), st.integers(1, 200))
def test_more_room_never_shows_fewer_columns(table: TextTable, width: int) -> None:
    narrow, wide = fit(table, width), fit(table, width + 1)
    assert set(narrow.columns) <= set(wide.columns)


@given(tables())
def test_a_pipe_shows_everything(table: TextTable) -> None:
    found = fit(table)
    assert found.columns == tuple(range(len(table.headers)))
    assert found.dropped == ()
    columns = zip(table.headers, *table.cells, strict=True)
    natural = [max(cell_len(one_line(text)) for text in column) for column in columns]
    assert list(found.widths) == natural
