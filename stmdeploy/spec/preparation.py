"""How a photograph becomes an image that a network reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from stmdeploy.errors import StmdeployError, nearest

INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")
#: Of ImageNet's channels, of values in [0, 1].
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preparation:
    """How a photograph is resized, cropped and normalised; the defaults are those behind the
    published accuracies.

    Attributes:
        mean, std: of the channels red, green and blue, of values in [0, 1].
        crop: the shorter side is resized to the image's over this share (224 / 0.875 = 256), then
            the centre is cut out.
        interpolation: of the resizing, one of `INTERPOLATIONS`.
    """

    mean: Channels = IMAGENET_MEAN
    std: Channels = IMAGENET_STD
    crop: float = 0.875
    interpolation: str = "bicubic"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or not all(map(math.isfinite, self.mean)):
            raise StmdeployError(f"mean {_shown(self.mean)} is not understood", "give R,G,B")
        if len(self.std) != 3 or not all(0 < one < math.inf for one in self.std):
            raise StmdeployError(
                f"deviation {_shown(self.std)} is not understood", "give R,G,B, all above 0"
            )
        if not 0.05 <= self.crop <= 1:
            raise StmdeployError(
                f"crop {self.crop:g} is not a share", "give 0.05 to 1, as in 0.875"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise StmdeployError(
                f"unknown interpolation {self.interpolation!r}",
                nearest(self.interpolation, INTERPOLATIONS),
            )

    def resized(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) that a photograph is resized to cover, for images of a size."""
        height, width = image_size
        return round(height / self.crop), round(width / self.crop)


#: That of the published accuracies.
STANDARD = Preparation()


@dataclass(frozen=True)
class Prepared:
    """What is asked of a preparation; None leaves it as the model says."""

    mean: Channels | None = None
    std: Channels | None = None
    crop: float | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        self.over(STANDARD)  # raises for what is not understood

    def over(self, model: Preparation) -> Preparation:
        """The preparation of a model, with what is asked instead."""
        asked = {name: value for name, value in vars(self).items() if value is not None}
        return replace(model, **asked)


def _shown(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def parse_channels(text: str, flag: str) -> Channels:
    """``0.5`` -> (0.5, 0.5, 0.5); ``0.485,0.456,0.406`` -> one of each channel.

    Raises:
        StmdeployError: not one or three numbers.
    """
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise StmdeployError(
            f"{flag} {text} is not understood", "give R,G,B in [0, 1], or one value"
        )
    first, *others = values
    return (first, first, first) if not others else (first, others[0], others[1])
