"""The model to build."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.spec.limits import at_least, at_most

#: Larger models fit into no memory.
MAX_SIDE_PX = 16_384
MAX_CLASSES = 1_000_000
#: As in ImageNet-1k.
DEFAULT_CLASSES = 1000
#: What a backbone is for: the authors' classification and detection backbones are two networks.
CLASSIFICATION, DETECTION = "classification", "detection"
TASKS = (CLASSIFICATION, DETECTION)
#: Height and width in pixels, unless others are asked for: those of the published accuracies.
DEFAULT_SIZES = {CLASSIFICATION: (224, 224), DETECTION: (800, 1344)}
#: Necks that a detection backbone can be built with; the empty one is none.
NECKS = ("", "fpn")
#: The name of every model's one input, and those of its outputs, whose first dimension is the
#: batch, and free. Maps have the names that the paper of FPN gives them (arXiv 1612.03144): those
#: of the backbone are at strides 4 to 32, those of the neck at 4 to 64.
INPUT_NAME = "image"
#: What a dimension is called that is the number of images per inference.
BATCH = "batch"
OUTPUT_NAMES = {
    (CLASSIFICATION, ""): ("logits",),
    (DETECTION, ""): ("c2", "c3", "c4", "c5"),
    (DETECTION, "fpn"): ("p2", "p3", "p4", "p5", "p6"),
}


@dataclass(frozen=True)
class SizeRange:
    """Image sizes that one file takes: sides in pixels, multiples of `step`.

    Attributes:
        least, best, most: (height, width); a builder of engines tunes for `best`.
    """

    least: tuple[int, int]
    best: tuple[int, int]
    most: tuple[int, int]
    step: int = 32


@dataclass(frozen=True)
class InputSpec:
    """What is said of an input of a file from outside.

    Attributes:
        name: its name in the file.
        shape: its dimensions; the first one, where the file leaves it open, is the batch.
        dtype: as NumPy names it; empty for the file's own.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = ""


@dataclass(frozen=True)
class FileSpec:
    """A file that is measured as it is.

    Attributes:
        path: where it lies; relative ones stay so, that a stored one fits another checkout.
        ways: every runtime that takes it, with every precision that it may compute it in.
        inputs: what is said of its inputs, where it leaves something open.
        batch: images per inference, if the file takes no other number.
    """

    path: Path
    ways: tuple[tuple[str, str], ...]
    inputs: tuple[InputSpec, ...] = ()
    batch: int | None = None

    @property
    def precisions(self) -> tuple[str, ...]:
        """Those of all ways."""
        return tuple(dict.fromkeys(precision for _, precision in self.ways))

    def takes(self, runtime: str, precision: str, batch: int) -> bool:
        """Whether it can be run so."""
        return (runtime, precision) in self.ways and self.batch in (None, batch)


@dataclass(frozen=True)
class ModelSpec:
    """A model to build, or a file that somebody made elsewhere.

    Attributes:
        name: an official backbone name, ``package.module:callable`` or ``timm:NAME``.
        image_size: (height, width) in pixels.
        num_classes: outputs of the head; None for `DEFAULT_CLASSES`, for as many as a user's own
            model has, and for detection, which has no head.
        checkpoint: a file, a URL, or ``official`` for the authors' weights; None for synthetic
            weights, or for those that a user's own model comes with.
        seed: seed of synthetic weights.
        task: one of `TASKS`.
        neck: one of `NECKS`; its cost is then included.
        output: key or index of the output that is taken of a user's own model that gives several.
        file: a file that is measured as it is; `name` is then its file name, and `image_size` and
            `num_classes` are its own, if it takes images and gives logits.
    """

    name: str
    image_size: tuple[int, int] = (224, 224)
    num_classes: int | None = None
    checkpoint: str | None = None
    seed: int = 0
    task: str = CLASSIFICATION
    neck: str = ""
    output: str = ""
    file: FileSpec | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise StmdeployError(f"unknown task {self.task!r}", nearest(self.task, TASKS))
        if self.neck not in NECKS:
            raise StmdeployError(f"unknown neck {self.neck!r}", nearest(self.neck, NECKS[1:]))
        if self.neck and self.task != DETECTION:
            raise StmdeployError("only a detection backbone has a neck", "give --task detection")
        if self.task == DETECTION and self.is_custom:
            raise StmdeployError(
                f"{self.name} has no detection form: it is not of the catalogue",
                "give --stm halo, pvt, swin, convnext or dcn",
            )
        if self.task == DETECTION and self.num_classes is not None:
            raise StmdeployError("a detection backbone has no classes", "leave --num-classes out")
        if self.num_classes is not None:
            at_least(1, self.num_classes, "number of classes")
            at_most(MAX_CLASSES, self.num_classes, "number of classes")
        at_least(1, min(self.image_size), "image side")
        at_most(MAX_SIDE_PX, max(self.image_size), "image side")
        if self.checkpoint is not None and not self.checkpoint.strip():
            raise StmdeployError("--checkpoint is empty", "give a file, a URL or 'official'")

    @property
    def label(self) -> str:
        """The name, the task unless it is classification, and an image size that is not usual."""
        if self.file is not None:
            return self.name
        return label(self.name, self.task, self.neck, self.image_size)

    @property
    def head_classes(self) -> int:
        """Number of classes of a catalogue backbone, with the default filled in."""
        return DEFAULT_CLASSES if self.num_classes is None else self.num_classes

    @property
    def is_custom(self) -> bool:
        """Whether the model comes from outside the catalogue."""
        return ":" in self.name and self.file is None


def label(name: str, task: str, neck: str, image_size: tuple[int, int] | None) -> str:
    """A model's name, its task unless it is classification, its neck, and an image size that is not
    usual; None for what takes no images."""
    usual = image_size is None or DEFAULT_SIZES.get(task) == image_size
    size = "" if usual or image_size is None else "{}x{}".format(*image_size)
    return " ".join(filter(None, (name, "" if task == CLASSIFICATION else task, neck, size)))


def parse_image_size(text: str) -> tuple[int, int]:
    """``224`` -> (224, 224); ``224x320`` -> (224, 320), height first.

    Raises:
        StmdeployError: not one or two whole numbers.
    """
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(side.strip().isdecimal() and len(side) < 9 for side in sides):
        return int(sides[0]), int(sides[-1])
    raise StmdeployError(f"image size {text!r} is not understood", "write 224 or HEIGHTxWIDTH")


def parse_input(text: str) -> InputSpec:
    """``image:1x3x224x224:float32`` -> the input of that name; the type may be left out.

    Raises:
        StmdeployError: it is written in another way.
    """
    name, _, rest = text.rpartition(":")
    dtype = ""
    if not _is_shape(rest):
        dtype = rest
        name, _, rest = name.rpartition(":")
    if not name or not _is_shape(rest):
        raise StmdeployError(
            f"--input {text} is not understood", "write NAME:1x3x224x224, or NAME:1x10:int64"
        )
    shape = tuple(int(side) for side in rest.split("x"))
    at_least(1, min(shape), f"dimension of --input {name}")
    return InputSpec(name, shape, dtype)


def _is_shape(text: str) -> bool:
    return all(side.isdecimal() and len(side) < 10 for side in text.split("x"))
