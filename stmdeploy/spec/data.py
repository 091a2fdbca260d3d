"""The images that a network is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.spec.limits import at_least


@dataclass(frozen=True)
class DataSpec:
    """A folder of images.

    Attributes:
        folder: holds a folder of images for each class; or images, if they are not labelled.
        class_map: JSON file that gives every folder its class; None takes the order of their names.
        limit: number of images at most, spread over all classes; None for all.
        labelled: whether the folders are classes.
    """

    folder: Path
    class_map: Path | None = None
    limit: int | None = None
    labelled: bool = True

    def __post_init__(self) -> None:
        if self.limit is not None:
            at_least(1, self.limit, "number of images")
        if self.class_map is not None and not self.labelled:
            raise StmdeployError("images without labels have no --class-map", "leave it out")
