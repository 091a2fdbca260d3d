"""Photographs as a network reads them, and folders of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import DOCUMENT_MIB, one_line, parse_json, printable, read_bytes
from stmdeploy.plugins.runner import Array
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.preparation import STANDARD, Preparation

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
#: What `open_image` raises for a file that is no image, or a damaged one.
UNREADABLE = (OSError, ValueError, SyntaxError)
#: The largest photograph of ImageNet has 60 million; a few kilobytes can unpack to far more.
_MOST_PIXELS = 80_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})
#: The class of an image that nobody has labelled.
NO_LABEL = -1


@dataclass(frozen=True)
class ImageFolder:
    """Images on disk: a folder for each class, or images without labels.

    Attributes:
        folder: the folder that holds all of them.
        files: path and class of every image, class by class, sorted by path.
    """

    folder: Path
    files: tuple[tuple[Path, int], ...]

    def limited(self, count: int | None) -> ImageFolder:
        """At most `count` of the images, spread evenly over all classes; None takes all."""
        if count is None or count >= len(self.files):
            return self
        chosen = (self.files[i * len(self.files) // count] for i in range(count))
        return ImageFolder(self.folder, tuple(chosen))

    @property
    def sha256(self) -> str:
        """SHA-256 over the names, sizes and classes of all images, to tell sets of them apart."""
        digest = hashlib.sha256()
        for path, label in self.files:
            name = path.relative_to(self.folder).as_posix()
            line = f"{name}\0{path.stat().st_size}\0{label}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def images_of(data: DataSpec, num_classes: int) -> ImageFolder:
    """Finds the images that are asked for; raises as `image_folder` and `unlabelled_folder`."""
    if data.labelled:
        found = image_folder(data.folder, num_classes, data.class_map)
    else:
        found = unlabelled_folder(data.folder)
    return found.limited(data.limit)


def image_folder(folder: Path, num_classes: int, class_map: Path | None = None) -> ImageFolder:
    """Finds the labelled images in a folder of class folders.

    Classes count from 0 in the order of the folders' names, as in torchvision's ImageFolder, unless
    `class_map`, a JSON file with one object, gives every folder its class.

    Raises:
        StmdeployError: no such folder; no images; not as many classes as the model has; a map
            that omits a folder or names a class that the model does not have.
    """
    if not folder.is_dir():
        raise StmdeployError(f"{folder} is not a folder", "give a folder of class folders")
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise StmdeployError(
            f"{folder} cannot be read: {(error.strerror or '').lower()}", "give another folder"
        ) from error
    if not names:
        raise StmdeployError(f"{folder} holds no folders", "make one for the images of each class")
    classes = _mapped(names, num_classes, class_map) if class_map else _counted(names, num_classes)
    files = tuple((path, classes[name]) for name in names for path in _images_below(folder / name))
    if not files:
        raise StmdeployError(f"{folder} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
    return ImageFolder(folder, files)


def unlabelled_folder(folder: Path) -> ImageFolder:
    """Finds images in a folder, at any depth, of no class.

    Raises:
        StmdeployError: no such folder, or no images.
    """
    if not folder.is_dir():
        raise StmdeployError(f"{folder} is not a folder", "give a folder of photographs")
    files = tuple((path, NO_LABEL) for path in _images_below(folder))
    if not files:
        raise StmdeployError(f"{folder} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
    return ImageFolder(folder, files)


def _images_below(folder: Path) -> list[Path]:
    """The image files in a folder, by their suffixes, at any depth, sorted by path."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file())


def _counted(names: list[str], num_classes: int) -> dict[str, int]:
    if len(names) != num_classes:
        raise StmdeployError(
            f"the data has {len(names)} class folders, but the model {num_classes} classes",
            "give the whole data set, or --class-map FILE with the class of every folder",
        )
    return {name: index for index, name in enumerate(names)}


def _mapped(names: list[str], num_classes: int, class_map: Path) -> dict[str, int]:
    text = read_bytes(class_map, "--class-map", "give a JSON file", DOCUMENT_MIB)
    where, hint = f"--class-map {class_map}", 'write {"FOLDER": CLASS, ...}'
    table = parse_json(text, where, hint)
    for name in names:
        index = table.get(name) if isinstance(table, dict) else None
        if type(index) is not int or not 0 <= index < num_classes:
            found = f"gives folder {printable(name)!r} no class from 0 to {num_classes - 1}"
            raise StmdeployError(f"{where} {found}", hint)
    return {name: table[name] for name in names}


def load_images(
    folder: Path,
    count: int,
    size: tuple[int, int],
    tell: Callable[[str], None],
    preparation: Preparation = STANDARD,
) -> Array:
    """Reads at most `count` images of a folder, spread evenly over their sorted paths.

    Args:
        folder: searched to any depth.
        count: how many at most.
        size: (height, width) in pixels.
        tell: called with a line about every file that cannot be read.
        preparation: how they are resized, cropped and normalised.

    Returns:
        N 3 H W float32, normalised.

    Raises:
        StmdeployError: there is no such folder, or no readable image in it.
    """
    import numpy as np

    read = []
    for path in evenly(folder, count):
        try:
            read.append(load_image(path, size, preparation))
        except UNREADABLE as error:
            tell(f"skipped {path}: {one_line(str(error))}")
    if not read:
        raise StmdeployError(
            f"{folder} holds no image that can be read", "give a folder of photographs"
        )
    return np.stack(read)


def evenly(folder: Path, count: int) -> list[Path]:
    """At most `count` of a folder's images, at any depth, spread evenly over their sorted paths.

    Raises:
        StmdeployError: there is no such folder.
    """
    if not folder.is_dir():
        raise StmdeployError(f"{folder} is not a folder", "give a folder of photographs")
    data = ImageFolder(folder, tuple((path, NO_LABEL) for path in _images_below(folder)))
    return [path for path, _ in data.limited(count).files]


def load_image(path: Path, size: tuple[int, int], preparation: Preparation = STANDARD) -> Array:
    """Reads an image as 3 H W float32: resized, centre cropped, scaled, normalised.

    Raises:
        OSError, ValueError, SyntaxError: the file is not an image, or a damaged or too large one.
    """
    image = resized(open_image(path), preparation.resized(size), preparation)
    return normalised(centre(image, size), preparation)


def open_image(source: Path | BinaryIO) -> Image:
    """Reads and unpacks an image, in red, green and blue; raises as `load_image`."""
    from PIL import Image
    from PIL.Image import DecompressionBombError

    try:
        # Listed: Pillow hands some other formats to external programs.
        with Image.open(source, formats=_FORMATS) as opened:
            if opened.width * opened.height > _MOST_PIXELS:
                raise ValueError(f"it has more than {_MOST_PIXELS} pixels")
            return opened.convert("RGB")
    except DecompressionBombError as error:
        raise ValueError(str(error)) from error


def resized(image: Image, cover: tuple[int, int], preparation: Preparation) -> Image:
    """An image of the same shape that just covers (height, width) pixels."""
    from PIL.Image import Resampling

    height, width = cover
    # The side that has less to spare becomes exactly the target; the other follows.
    if image.width * height <= image.height * width:
        shape = (width, max(height, int(image.height * width / image.width)))
    else:
        shape = (max(width, int(image.width * height / image.height)), height)
    return image.resize(shape, Resampling[preparation.interpolation.upper()])


def centre(image: Image, size: tuple[int, int], shift: tuple[int, int] = (0, 0)) -> Image:
    """The centre of an image, (height, width) pixels, or what lies (down, right) of it; black where
    the image has ended."""
    (height, width), (down, right) = size, shift
    left = round((image.width - width) / 2) + right
    top = round((image.height - height) / 2) + down
    return image.crop((left, top, left + width, top + height))


def normalised(image: Image, preparation: Preparation) -> Array:
    """An image as 3 H W float32, every channel by its mean and deviation."""
    import numpy as np

    values = np.asarray(image, np.float32) / 255
    mean, std = (np.array(three, np.float32) for three in (preparation.mean, preparation.std))
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))
