"""A table of text, ready for a terminal, Markdown or LaTeX, and how figures become its cells."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stmdeploy.files.reading import one_line
from stmdeploy.report.escaping import latex_text, markdown_text

#: Stands where there is no figure.
ABSENT = "-"
#: How verdicts stand out on a terminal.
GOOD, BAD, OPEN = "green", "bold red", "yellow"


@dataclass(frozen=True)
class TextTable:
    """A table as text; `left` columns are left-aligned, the others right. Notes go below.

    The first `keys` columns say what a row is: they are never wrapped and always shown. Where
    there is no room, texts of the columns `wrap` wrap, then the columns `drop_first` are dropped,
    the first named first, and after them the others from the right. ``verdicts`` are cells that
    stand out on a terminal, each with how: `GOOD`, `BAD` or `OPEN`.
    """

    headers: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    left: int = 1
    notes: tuple[str, ...] = ()
    keys: int = 1
    drop_first: tuple[str, ...] = ()
    wrap: tuple[str, ...] = ()
    title: str = ""
    verdicts: tuple[tuple[str, str], ...] = ()

    def markdown(self) -> str:
        """The table in GitHub's Markdown, its notes as paragraphs."""
        rule = [":---" if i < self.left else "---:" for i in range(len(self.headers))]
        texts = (map(markdown_text, line) for line in self.cells)
        lines = ["| " + " | ".join(line) + " |" for line in (self.headers, rule, *texts)]
        above = [markdown_text(self.title), ""] if self.title else []
        notes = (f"\n{markdown_text(note)}" for note in self.notes)
        return "\n".join([*above, *lines, *notes])

    def latex(self) -> str:
        """The table for LaTeX with the package booktabs, its notes as comments."""
        columns = "".join("l" if i < self.left else "r" for i in range(len(self.headers)))
        lines = [
            *(f"% {one_line(note)}" for note in (self.title, *self.notes) if note),
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            _latex_line(self.headers),
            r"\midrule",
            *map(_latex_line, self.cells),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(map(latex_text, cells)) + r" \\"


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with `digits` digits after the point; `ABSENT` for None."""
    return ABSENT if value is None else f"{value:.{digits}f}"


def significant(value: float | None, digits: int = 3) -> str:
    """A number in `digits` significant digits, but with all whole ones: 0.00420, 12.3, 1234;
    `ABSENT` for None."""
    if value is None:
        return ABSENT
    rounded = abs(float(f"{value:.{digits}g}"))
    whole = math.floor(math.log10(rounded)) + 1 if rounded else 1
    return f"{value:.{max(0, digits - whole)}f}"


def counted(number: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def tally(counts: Mapping[str, int], absent: str) -> str:
    """How often each name occurs, as ``Conv x12, Add x4``; `absent` if none does."""
    return ", ".join(f"{name} x{n}" for name, n in counts.items()) or absent
