"""Views of a photograph: moved, turned, nearer or farther.

The authors' protocol is that of `tools/variance_transforms.py` of STM-Evaluation. It departs from
its name in three ways, which the clean one does not share: of eight directions it draws seven; once
the crop leaves the photograph, the rest of it is centred again instead of moving on; and the crop's
centre is half of the sides, rounded down, so that the view at level 0 may be a pixel off. Rotation
and scale are the same in both.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.backbones.images import centre, normalised, open_image, resized
from stmdeploy.plugins.runner import Array
from stmdeploy.spec.preparation import Preparation
from stmdeploy.spec.views import AUTHORS, STANDARD_VIEW, View, ViewSpec

if TYPE_CHECKING:
    from PIL.Image import Image

#: Down and right, in the order of the authors, who never draw the last.
DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1), (1, 1), (-1, 1), (-1, -1), (1, -1))
_DRAWN_BY_AUTHORS = 7
#: The image side that levels of translation are given for, in pixels.
_SIDE_PX = 224
#: Pixels of a photograph that is held in memory while its views are made.
_HELD_PIXELS = 4_000_000


@dataclass(frozen=True)
class Photograph:
    """A photograph, resized as for its standard view.

    Attributes:
        path: file that it is read from again where all its pixels are needed, and not held.
        place: its place in the data; with the seed, it sets the directions.
        standard: the resized image.
        whole: all its pixels, unless they are many, or no view needs them.
    """

    path: Path
    place: int
    standard: Image
    whole: Image | None

    @staticmethod
    def read(
        path: Path, place: int, size: tuple[int, int], preparation: Preparation, spec: ViewSpec
    ) -> Photograph:
        """Reads a photograph for images of (height, width) pixels; raises as `open_image`."""
        whole = open_image(path)
        standard = resized(whole, preparation.resized(size), preparation)
        held = "scale" in spec.transforms and whole.width * whole.height <= _HELD_PIXELS
        return Photograph(path, place, standard, whole if held else None)

    def original(self) -> Image:
        """All its pixels."""
        return open_image(self.path) if self.whole is None else self.whole


def look(
    photograph: Photograph,
    view: View,
    size: tuple[int, int],
    preparation: Preparation,
    spec: ViewSpec,
) -> Array:
    """A view of a photograph, 3 H W float32, normalised; what lies outside of it is black.

    Args:
        size: (height, width) in pixels.
        spec: has the protocol, and the seed.
    """
    return normalised(seen(photograph, view, size, preparation, spec), preparation)


def seen(
    photograph: Photograph,
    view: View,
    size: tuple[int, int],
    preparation: Preparation,
    spec: ViewSpec,
) -> Image:
    """The same before it is normalised."""
    from PIL.Image import Resampling

    standard, level = photograph.standard, view.level
    if view.transform == STANDARD_VIEW:
        return centre(standard, size)
    if view.transform == "translation":
        down, right = _direction(photograph, level, spec)
        shift = (
            round(down * level * size[0] / _SIDE_PX),
            round(right * level * size[1] / _SIDE_PX),
        )
        return (_moved_by_authors if spec.protocol == AUTHORS else centre)(standard, size, shift)
    if view.transform == "rotation":
        return centre(standard.rotate(level, Resampling.BICUBIC), size)
    if view.transform == "rotation-after":
        return centre(standard, size).rotate(level, Resampling.BICUBIC)
    height, width = size
    cover = (max(1, int(height / level)), max(1, int(width / level)))
    return centre(resized(photograph.original(), cover, preparation), size)


def _direction(photograph: Photograph, level: float, spec: ViewSpec) -> tuple[int, int]:
    """Drawn per photograph, as the levels of a curve should differ by their level alone; the
    authors draw anew at each level."""
    if spec.protocol == AUTHORS:
        dice = random.Random(f"{spec.seed} {photograph.place} {level}")
        return DIRECTIONS[dice.randrange(_DRAWN_BY_AUTHORS)]
    dice = random.Random(f"{spec.seed} {photograph.place}")
    return DIRECTIONS[dice.randrange(len(DIRECTIONS))]


def _moved_by_authors(image: Image, size: tuple[int, int], shift: tuple[int, int]) -> Image:
    """The crop, cut at the edges of the image; what is left of it lies in the middle of black."""
    from PIL.Image import new

    (height, width), (down, right) = size, shift
    y, x = image.height // 2 + down, image.width // 2 + right
    box = (
        max(x - width // 2, 0),
        max(y - height // 2, 0),
        min(x + width // 2, image.width),
        min(y + height // 2, image.height),
    )
    left = image.crop((box[0], box[1], max(box[0], box[2]), max(box[1], box[3])))
    black = new("RGB", (width, height))
    black.paste(left, ((width - left.width) // 2, (height - left.height) // 2))
    return black
