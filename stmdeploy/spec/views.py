"""Transforms that a classifier should not mind: by how much, and as whom they are defined by.

The authors of the backbones compare mixers by them (`invariance_eval_all.py` of STM-Evaluation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stmdeploy.errors import StmdeployError, nearest

STANDARD_VIEW = "standard"
#: Levels of every transform: pixels of an image of 224 that its content moves by, degrees
#: (anticlockwise) that it turns by before or after it is cropped, share of the shorter side that is
#: cut out (above 1: black around a smaller image).
TRANSFORMS: dict[str, tuple[float, ...]] = {
    "translation": tuple(float(px) for px in range(0, 65, 4)),
    "rotation": tuple(float(degrees) for degrees in range(0, 91, 5)),
    "rotation-after": tuple(float(degrees) for degrees in range(0, 91, 5)),
    "scale": tuple(thousandths / 1000 for thousandths in range(200, 2001, 125)),
}
UNITS = {
    "translation": "px of 224", "rotation": "degrees", "rotation-after": "degrees",
    "scale": "crop ratio",
}  # fmt: skip
CLEAN, AUTHORS = "clean", "authors"
#: clean: content moves in eight directions, and what moves out of the photograph is black.
#: authors: as their script does it, see `stmdeploy.backbones.views`.
PROTOCOLS = (CLEAN, AUTHORS)


@dataclass(frozen=True)
class View:
    """A way to look at a photograph; the standard one is that of the published accuracies."""

    transform: str = STANDARD_VIEW
    level: float = 0.0


@dataclass(frozen=True)
class ViewSpec:
    """In which views images are looked at; the standard one comes first.

    Attributes:
        transforms: of `TRANSFORMS`.
        protocol: one of `PROTOCOLS`.
        seed: of the directions that content moves in.
    """

    transforms: tuple[str, ...] = ()
    protocol: str = CLEAN
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.transforms:
            if name not in TRANSFORMS:
                raise StmdeployError(f"unknown transform {name!r}", nearest(name, TRANSFORMS))
        if self.protocol not in PROTOCOLS:
            hint = f"choose one of: {', '.join(PROTOCOLS)}"
            raise StmdeployError(f"unknown protocol {self.protocol!r}", hint)

    @property
    def views(self) -> tuple[View, ...]:
        """All views, in order."""
        return (View(), *(View(name, x) for name in self.transforms for x in TRANSFORMS[name]))

    def of(self, transform: str) -> tuple[int, Sequence[float]]:
        """Place of a transform's first view in `views`, and its levels."""
        first = 1
        for name in self.transforms:
            if name == transform:
                break
            first += len(TRANSFORMS[name])
        return first, TRANSFORMS[transform]
