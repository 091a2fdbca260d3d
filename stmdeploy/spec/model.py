"""The model to build."""

from __future__ import annotations

from dataclasses import dataclass

from stmdeploy.errors import StmdeployError
from stmdeploy.spec.limits import at_least, at_most

#: Larger models fit into no memory.
MAX_SIDE_PX = 16_384
MAX_CLASSES = 1_000_000
#: As in ImageNet-1k.
DEFAULT_CLASSES = 1000
#: What a backbone is for: the authors' classification and detection backbones are two networks.
CLASSIFICATION, DETECTION = "classification", "detection"
TASKS = (CLASSIFICATION, DETECTION)
#: Names of every model's one input and one output; the batch is their only free dimension.
INPUT_NAME = "image"
OUTPUT_NAME = "logits"


@dataclass(frozen=True)
class ModelSpec:
    """A model to build.

    Attributes:
        name: an official backbone name, ``package.module:callable`` or ``timm:NAME``.
        image_size: (height, width) in pixels.
        num_classes: outputs of the head; None for `DEFAULT_CLASSES`, or for as many as a user's
            own model has.
        checkpoint: a file, a URL, or ``official`` for the authors' weights; None for synthetic
            weights, or for those that a user's own model comes with.
        seed: seed of synthetic weights.
    """

    name: str
    image_size: tuple[int, int] = (224, 224)
    num_classes: int | None = None
    checkpoint: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_classes is not None:
            at_least(1, self.num_classes, "number of classes")
            at_most(MAX_CLASSES, self.num_classes, "number of classes")
        at_least(1, min(self.image_size), "image side")
        at_most(MAX_SIDE_PX, max(self.image_size), "image side")
        if self.checkpoint is not None and not self.checkpoint.strip():
            raise StmdeployError("--checkpoint is empty", "give a file, a URL or 'official'")

    @property
    def label(self) -> str:
        """The name, followed by the image size if that is not 224 x 224."""
        height, width = self.image_size
        return self.name if (height, width) == (224, 224) else f"{self.name} {height}x{width}"

    @property
    def head_classes(self) -> int:
        """Number of classes of a catalogue backbone, with the default filled in."""
        return DEFAULT_CLASSES if self.num_classes is None else self.num_classes

    @property
    def is_custom(self) -> bool:
        """Whether the model comes from outside the catalogue."""
        return ":" in self.name


def parse_image_size(text: str) -> tuple[int, int]:
    """``224`` -> (224, 224); ``224x320`` -> (224, 320), height first.

    Raises:
        StmdeployError: not one or two whole numbers.
    """
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.strip().isdecimal() and len(side) < 9 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise StmdeployError(f"image size {text!r} is not understood", "write 224 or HEIGHTxWIDTH")
