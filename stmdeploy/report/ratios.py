"""Rows compared: how many times slower each is than a reference, and which cannot be told apart."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from stmdeploy.measure.contrasts import Contrast, Ratio, letters
from stmdeploy.report.text_table import significant
from stmdeploy.results.frame import flat
from stmdeploy.schema.row import Row
from stmdeploy.spec.sweep import USUAL_REFERENCE, names


@dataclass(frozen=True)
class Compared:
    """A row beside its reference.

    Attributes:
        row, reference: their positions; they are the same for the reference itself.
        ratio: latency over that of the reference; None if they took no turns with each other.
        group: letters; rows of one batch that share a letter cannot be told apart.
    """

    row: int
    reference: int
    ratio: Ratio | None
    group: str


def name_of(row: Row) -> str:
    """As `RowSpec.name`; `--reference` takes words of it."""
    again = f"/repeat{row.repeat}" if row.repeat else ""
    return f"{row.label}/{row.runtime}/{row.precision}/batch{row.batch}{again}"


def compared(rows: Sequence[Row], reference: str = "") -> tuple[Compared, ...]:
    """Every row that took turns with others, compared with a reference of the same batch.

    Args:
        rows: in any order, of any sweeps.
        reference: words of the reference's name; empty for convnext, or else the first row. One
            that names no row of a batch, but of another, is the reference there too.
    """
    found: list[Compared] = []
    for batch in dict.fromkeys(row.batch for row in rows):
        every = [i for i, row in enumerate(rows) if row.batch == batch and row.contrasts]
        used = 0
        for mine in (part for part in _together(rows, every) if len(part) > 1):
            chosen = _reference(rows, mine, reference)
            groups = _groups(rows, mine, chosen, used)
            used += len(set("".join(groups.values())))
            for i in mine:
                between = contrast_of(rows[i], rows[chosen])
                ratio = between.ratio() if between is not None else None
                ratio = Ratio(1.0, 1.0, 1.0) if i == chosen else ratio
                found.append(Compared(i, chosen, ratio, groups[i]))
    return tuple(sorted(found, key=lambda one: one.row))


def _together(rows: Sequence[Row], every: Sequence[int]) -> list[list[int]]:
    """Parts whose rows took turns with each other, directly or by others; in the order of rows.
    Nothing is known of how rows of two such parts compare."""
    places = {rows[i].key: i for i in every}
    parts: list[list[int]] = []
    left = dict.fromkeys(every)
    while left:
        open_ones, part = [next(iter(left))], set[int]()
        while open_ones:
            i = open_ones.pop()
            if i not in left:
                continue
            del left[i]
            part.add(i)
            beside = (places.get(one.key) for one in rows[i].contrasts)
            open_ones += [
                j for j in beside if j in left and contrast_of(rows[i], rows[j]) is not None
            ]
        parts.append(sorted(part))
    return parts


def contrast_of(row: Row, other: Row) -> Contrast | None:
    """How a row compares with another; None if both were not measured by turns in one sweep."""
    mine = {one.key: one for one in row.contrasts}.get(other.key)
    theirs = {one.key: one for one in other.contrasts}.get(row.key)
    if mine is None or theirs is None or mine.difference != -theirs.difference:
        return None  # one of them was measured again, in another sweep
    return Contrast(mine.difference, mine.error, mine.freedom)


def _reference(rows: Sequence[Row], mine: Sequence[int], words: str) -> int:
    usual = words or USUAL_REFERENCE
    everywhere = [i for i, row in enumerate(rows) if row.contrasts] if words else []
    named = [i for i in (*mine, *everywhere) if names(usual, name_of(rows[i]))]
    return named[0] if named else mine[0]


def _groups(rows: Sequence[Row], mine: Sequence[int], reference: int, first: int) -> dict[int, str]:
    places = {i: _place(rows[i], rows[reference]) for i in mine}
    between = {pair: contrast_of(rows[pair[0]], rows[pair[1]]) for pair in combinations(mine, 2)}
    apart = [
        pair
        for pair, contrast in between.items()
        if contrast is not None and contrast.tells_apart(len(mine))
    ]
    return letters(places, apart, first)


def _place(row: Row, reference: Row) -> float:
    """Where a row stands among others: its ratio to their reference, by turns if there is one."""
    between = contrast_of(row, reference)
    if between is not None:
        return between.ratio().ratio
    latencies = [one.measurement.latency_ms_p50 for one in (row, reference) if one.measurement]
    return latencies[0] / latencies[1] if len(latencies) == 2 else math.inf


def in_words(ratio: Ratio | None) -> str:
    """``1.83 (1.79 .. 1.87)``; empty for none."""
    if ratio is None:
        return ""
    return f"{significant(ratio.ratio)} ({significant(ratio.low)} .. {significant(ratio.high)})"


def sentences(rows: Sequence[Row], found: Sequence[Compared]) -> tuple[str, ...]:
    """A sentence for every batch: how rows compare with its reference, and which are alike."""
    told = []
    for batch, reference in dict.fromkeys((rows[one.row].batch, one.reference) for one in found):
        mine = [one for one in found if (rows[one.row].batch, one.reference) == (batch, reference)]
        others = [one for one in mine if one.ratio is not None and one.row != reference]
        if not others:
            continue
        places = list(dict.fromkeys((*(one.row for one in mine), reference)))
        names_of = dict(zip(places, short_names([rows[i] for i in places]), strict=True))
        name = names_of[reference]
        slower = ", ".join(
            f"{names_of[one.row]} {in_words(one.ratio)}"
            for one in sorted(others, key=lambda one: one.ratio.ratio if one.ratio else 0.0)
        )
        alike = _alike(names_of, mine)
        told.append(
            f"Batch {batch}: latency over that of {name}, each with its 95 % interval: {slower}"
            f"{f'; cannot be told apart: {alike}' if alike else ''}."
        )
    return tuple(told)


def _alike(names_of: Mapping[int, str], mine: Sequence[Compared]) -> str:
    letters_used = sorted({letter for one in mine for letter in one.group})
    groups = [[names_of[one.row] for one in mine if letter in one.group] for letter in letters_used]
    return "; ".join(" and ".join(group) for group in groups if len(group) > 1)


def short_names(rows: Sequence[Row]) -> list[str]:
    """The names of rows, each as short as tells it apart from the others."""
    every = [_parts(row) for row in rows]
    begun = Counter(parts[:count] for parts in every for count in range(1, len(parts) + 1))
    return [
        next(
            (
                " ".join(filter(None, parts[:count]))
                for count in range(1, len(parts) + 1)
                if begun[parts[:count]] == 1
            ),
            name_of(row),
        )
        for row, parts in zip(rows, every, strict=True)
    ]


def _parts(row: Row) -> tuple[str, ...]:
    again = f"repeat {row.repeat}" if row.repeat else ""
    return (row.stm if row.scale else row.model, row.scale, row.runtime, row.precision, again)


#: What `figures_beside` says of a row.
BESIDE = ("reference", "ratio", "ratio_low", "ratio_high", "group")


def figures_beside(rows: Sequence[Row], found: Sequence[Compared]) -> dict[int, dict[str, Any]]:
    """What rows come to beside their references, by `BESIDE`, for every position compared."""
    return {
        one.row: dict(
            zip(
                BESIDE,
                (
                    name_of(rows[one.reference]),
                    *((r.ratio, r.low, r.high) if (r := one.ratio) is not None else [None] * 3),
                    one.group,
                ),
                strict=True,
            )
        )
        for one in found
    }


def document(rows: Sequence[Row], reference: str = "") -> dict[str, list[dict[str, Any]]]:
    """Rows as JSON has them, each with its group, and their ratios; a reference's own is left out.

    Args:
        reference: as for `compared`.
    """
    found = compared(rows, reference)
    beside = figures_beside(rows, found)
    return {
        "rows": [
            {**flat(row), "group": beside.get(i, {}).get("group")} for i, row in enumerate(rows)
        ],
        "ratios": [
            {"row": name_of(rows[one.row]), **{key: beside[one.row][key] for key in BESIDE[:-1]}}
            for one in found
            if one.ratio is not None and one.row != one.reference
        ],
    }
