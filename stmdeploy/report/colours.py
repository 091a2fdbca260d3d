"""The colours of mixers: the same in the page, in notebooks and in figures for papers."""

from __future__ import annotations

from collections.abc import Iterable

#: Okabe and Ito's colours, which can be told apart by the colour-blind too, and two more.
PALETTE = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a", "#b2a100",
)  # fmt: skip
#: The mixers of the paper have theirs whatever else is drawn.
_OWN = ("halo", "pvt", "swin", "convnext", "dcn", "pvt_v2")


def colours_of(stms: Iterable[str]) -> dict[str, str]:
    """The colour of every mixer; others than the paper's get what is left, in alphabetical order,
    and share it if they are many."""
    every, own = list(dict.fromkeys(stms)), dict(zip(_OWN, PALETTE, strict=False))
    others = sorted(set(every) - own.keys())
    left = PALETTE[len(_OWN) :]
    return {stm: own[stm] if stm in own else left[others.index(stm) % len(left)] for stm in every}
