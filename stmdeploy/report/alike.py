"""Texts that many rows share, each once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: A text and the name of a row that it is true of.
Told = Iterable[tuple[str, str]]
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Caveat:
    """One thing to know, and the names of the rows that it is true of."""

    text: str
    rows: tuple[str, ...]


def alike(told: Told, *, ranges: bool = False) -> tuple[Caveat, ...]:
    """Groups rows by text; with `ranges`, texts that differ only by their numbers are one."""
    found: dict[str, list[tuple[str, str]]] = {}
    for text, name in told:
        found.setdefault(_NUMBER.sub("#", text) if ranges else text, []).append((text, name))
    return tuple(
        Caveat(_with_ranges([text for text, _ in some]), tuple(name for _, name in some))
        for some in found.values()
    )


def _with_ranges(texts: Sequence[str]) -> str:
    """One text for those that differ only by numbers: ``1 s``, ``3 s`` -> ``1 .. 3 s``."""
    figures = zip(*(_NUMBER.findall(text) for text in texts), strict=True)
    ends = iter([(min(some, key=float), max(some, key=float)) for some in figures])

    def told(_: re.Match[str]) -> str:
        least, most = next(ends)
        return least if float(least) == float(most) else f"{least} .. {most}"

    return _NUMBER.sub(told, texts[0])
