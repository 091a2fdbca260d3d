"""Photographs as a network reads them: the transform behind the published accuracies."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import DOCUMENT_MIB, one_line, parse_json, printable, read_bytes
from stmdeploy.plugins.runner import Array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image

#: Mean and standard deviation of ImageNet's channels, of values in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: The shorter side is resized to the wanted side over this (256 for 224), then the centre cut out.
CROP_SHARE = 0.875
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
#: The largest photograph of ImageNet has 60 million; a few kilobytes can unpack to far more.
_MOST_PIXELS = 80_000_000
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


@dataclass(frozen=True)
class LabelledBatch:
    """Images, N 3 H W float32 and normalised, and their classes, N."""

    images: Array
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class ImageFolder:
    """Labelled images on disk: a folder for each class.

    Attributes:
        folder: the folder that holds the class folders.
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


def batches_of(
    data: ImageFolder,
    batch: int,
    size: tuple[int, int],
    threads: int,
    skip: Callable[[Path, str], None],
) -> Iterator[LabelledBatch]:
    """Reads images in batches; the next batch is read while the last one is used.

    Args:
        data: the images.
        batch: images of a batch, of which some may be missing: skipped, or past the end.
        size: (height, width) in pixels.
        threads: how many threads read and transform images.
        skip: called with the path of every image that cannot be read, and the reason.
    """
    import numpy as np

    def read(path: Path) -> Array | str:
        from PIL.Image import DecompressionBombError

        try:
            return load_image(path, size)
        except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:
            return one_line(str(error))

    chunks = [data.files[i : i + batch] for i in range(0, len(data.files), batch)]
    with ThreadPoolExecutor(threads) as pool:
        reading = pool.map(read, (path for path, _ in data.files[:batch]))
        for chunk, following in pairwise([*chunks, ()]):
            found = list(reading)
            reading = pool.map(read, (path for path, _ in following))
            images, labels = [], []
            for (path, label), image in zip(chunk, found, strict=True):
                if isinstance(image, str):
                    skip(path, image)
                else:
                    images.append(image)
                    labels.append(label)
            if images:
                yield LabelledBatch(np.stack(images), np.array(labels))


def load_images(
    folder: Path, count: int, size: tuple[int, int], tell: Callable[[str], None]
) -> Array:
    """Reads at most `count` images of a folder, spread evenly over their sorted paths.

    Args:
        folder: searched to any depth.
        count: how many at most.
        size: (height, width) in pixels.
        tell: called with a line about every file that cannot be read.

    Returns:
        N 3 H W float32, normalised.

    Raises:
        StmdeployError: there is no such folder, or no readable image in it.
    """
    hint = "give a folder of photographs"
    if not folder.is_dir():
        raise StmdeployError(f"{folder} is not a folder", hint)
    data = ImageFolder(folder, tuple((path, 0) for path in _images_below(folder))).limited(count)
    batches = batches_of(data, count, size, 1, lambda path, why: tell(f"skipped {path}: {why}"))
    whole = next(batches, None)
    if whole is None:
        raise StmdeployError(f"{folder} holds no image that can be read", hint)
    return whole.images


def load_image(path: Path, size: tuple[int, int]) -> Array:
    """Reads an image as 3 H W float32: resized (bicubic), centre cropped, scaled, normalised.

    Raises:
        OSError, ValueError: the file is not an image, or a damaged or too large one.
    """
    import numpy as np
    from PIL import Image

    # Listed: Pillow hands some other formats to external programs.
    with Image.open(path, formats=_FORMATS) as opened:
        if opened.width * opened.height > _MOST_PIXELS:
            raise ValueError(f"it has more than {_MOST_PIXELS} pixels")
        cropped = _crop(opened.convert("RGB"), size)
    values = np.asarray(cropped, np.float32) / 255
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    return np.ascontiguousarray(((values - mean) / std).transpose(2, 0, 1))


def _crop(image: Image, size: tuple[int, int]) -> Image:
    from PIL.Image import Resampling

    height, width = size
    target = (round(width / CROP_SHARE), round(height / CROP_SHARE))
    # The side that has less to spare becomes exactly the target; the other follows.
    if image.width * target[1] <= image.height * target[0]:
        shape = (target[0], max(target[1], int(image.height * target[0] / image.width)))
    else:
        shape = (max(target[0], int(image.width * target[1] / image.height)), target[1])
    resized = image.resize(shape, Resampling.BICUBIC)
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    return resized.crop((left, top, left + width, top + height))
