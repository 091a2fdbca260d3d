"""Which columns of a table fit into a width, and how wide each of them is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from stmdeploy.files.reading import one_line
from stmdeploy.report.text_table import TextTable

#: Cells between two columns.
GAP = 2
#: A column that may wrap keeps its longest word whole up to this many cells.
_WHOLE_WORD = 30


@dataclass(frozen=True)
class Fit:
    """The columns that are shown, the width of each in cells, and the headers of those left out.

    It has no columns where not even the keys and the most important figure fit: rows stack.
    """

    columns: tuple[int, ...]
    widths: tuple[int, ...]
    dropped: tuple[str, ...] = ()

    @property
    def stacked(self) -> bool:
        """Whether each row is a block of lines."""
        return not self.columns

    @property
    def width(self) -> int:
        """Cells of a whole line, gaps included."""
        return _together(self.widths)


def fit(table: TextTable, width: int | None = None) -> Fit:
    """Fits a table into `width` terminal cells; None for no limit.

    Keys are never made narrower. Headers wrap at words, then columns of `table.wrap` get narrower,
    then columns are dropped, the least important first.
    """
    natural = [max(cell_len(text) for text in column) for column in _columns(table)]
    everything = tuple(range(len(natural)))
    if width is None or _together(natural) <= width:
        return Fit(everything, tuple(natural))
    least = [_least(table, i, column) for i, column in enumerate(_columns(table))]
    shown = list(everything)
    for i in _least_important_first(table)[:-1]:
        if _together([least[i] for i in shown]) <= width:
            break
        shown.remove(i)
    if _together([least[i] for i in shown]) > width:
        return Fit((), ())
    return Fit(
        tuple(shown),
        _widened(table, shown, natural, least, width),
        tuple(header for i, header in enumerate(table.headers) if i not in shown),
    )


def may_wrap(table: TextTable, i: int) -> bool:
    """Whether the texts of a column wrap where there is no room."""
    return i >= table.keys and table.headers[i] in table.wrap


def _columns(table: TextTable) -> list[list[str]]:
    """Header and cells of every column."""
    lines = (table.headers, *table.cells)
    return [[one_line(text) for text in column] for column in zip(*lines, strict=True)]


def _together(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)


def _least(table: TextTable, i: int, column: Sequence[str]) -> int:
    """How narrow a column can be, its header wrapped at words."""
    header, *cells = column
    if may_wrap(table, i):
        return min(_longest_word(column), _WHOLE_WORD)
    return max([_longest_word([header]), *map(cell_len, cells)])


def _longest_word(texts: Sequence[str]) -> int:
    return max((cell_len(word) for text in texts for word in text.split()), default=0)


def _least_important_first(table: TextTable) -> list[int]:
    """Columns other than keys, in the order in which they are dropped."""
    rest = range(len(table.headers) - 1, table.keys - 1, -1)
    named = [i for header in table.drop_first for i in rest if table.headers[i] == header]
    return list(dict.fromkeys([*named, *rest]))


def _widened(
    table: TextTable, shown: Sequence[int], natural: Sequence[int], least: Sequence[int], width: int
) -> tuple[int, ...]:
    """Widths with the room that is left: for the text that wraps most, then for whole headers."""
    widths = {i: least[i] for i in shown}
    room = width - _together(list(widths.values()))
    while room and (narrow := [i for i in shown if may_wrap(table, i) and widths[i] < natural[i]]):
        widths[max(narrow, key=lambda i: natural[i] / max(1, widths[i]))] += 1
        room -= 1
    for i in shown:
        if not may_wrap(table, i) and natural[i] - least[i] <= room:
            room -= natural[i] - least[i]
            widths[i] = natural[i]
    return tuple(widths.values())
