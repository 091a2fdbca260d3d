"""Photographs as a network reads them: the transform that the accuracies were published with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import DOCUMENT_MIB, parse_json, printable, read_bytes
from stmdeploy.plugins.runner import Array

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL.Image import Image


#: Mean and standard deviation of ImageNet's channels, of values in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: The shorter side is resized to side / this, then the centre is cut out (256 for 224).
CROP_SHARE = 0.875
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
#: The largest photograph of ImageNet has 60 million; a few kilobytes may unpack to any number.
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
        folder: where they are.
        files: path and class of every image, in the order of their names.
    """

    folder: Path
    files: tuple[tuple[Path, int], ...]

    def limited(self, count: int | None) -> ImageFolder:
        """At most `count` of the images, spread evenly over all classes; all for None."""
        if count is None or count >= len(self.files):
            return self
        chosen = (self.files[i * len(self.files) // count] for i in range(count))
        return ImageFolder(self.folder, tuple(chosen))

    @property
    def sha256(self) -> str:
        """SHA-256 over names, sizes and classes, which tells one set of images from another."""
        digest = hashlib.sha256()
        for path, label in self.files:
            name = path.relative_to(self.folder).as_posix()
            line = f"{name}\0{path.stat().st_size}\0{label}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()


def image_folder(folder: Path, num_classes: int, class_map: Path | None = None) -> ImageFolder:
    """The labelled images of a folder of class folders.

    Classes count from 0 in the order of the folders' names, as torchvision's ImageFolder does, or
    are those of a class map: a JSON object that gives every folder its class.

    Raises:
        StmdeployError: no such folder; no images; not as many classes as the model has; a map
            that leaves a folder out or names a class that the model does not have.
    """
    if not folder.is_dir():
        raise StmdeployError(f"{folder} is not a folder", "give a folder of class folders")
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise StmdeployError(
            f"{folder} cannot be read: {(error.strerror or '').lower()}",
            "give another folder",
        ) from error
    if not names:
        raise StmdeployError(f"{folder} holds no folders", "put the images of each class into one")
    classes = _mapped(names, num_classes, class_map) if class_map else _counted(names, num_classes)
    files = tuple((path, classes[name]) for name in names for path in _images_below(folder / name))
    if not files:
        raise StmdeployError(f"{folder} holds no images", f"known: {', '.join(sorted(SUFFIXES))}")
    return ImageFolder(folder, files)


def _images_below(folder: Path) -> list[Path]:
    """By their suffixes, at any depth, in the order of their paths."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in found if path.is_file())


def _counted(names: list[str], num_classes: int) -> dict[str, int]:
    if len(names) != num_classes:
        raise StmdeployError(
            f"the data has {len(names)} class folders, the model {num_classes} classes",
            "give the whole data set, or --class-map FILE with the class of every folder",
        )
    return {name: index for index, name in enumerate(names)}


def _mapped(names: list[str], num_classes: int, class_map: Path) -> dict[str, int]:
    text = read_bytes(class_map, "--class-map", "give a file of JSON", DOCUMENT_MIB)
    table = parse_json(text, f"--class-map {class_map}", 'write {"FOLDER": CLASS, ...}')
    for name in names:
        index = table.get(name) if isinstance(table, dict) else None
        if type(index) is not int or not 0 <= index < num_classes:
            shown = printable(name)
            raise StmdeployError(
                f"--class-map {class_map} gives folder {shown!r} no class of 0 to "
                f"{num_classes - 1}",
                'write {"FOLDER": CLASS, ...}',
            )
    return {name: table[name] for name in names}


def batches_of(
    data: ImageFolder,
    batch: int,
    size: tuple[int, int],
    threads: int,
    skip: Callable[[Path, str], None],
) -> Iterator[LabelledBatch]:
    """The images of a folder in batches; the next batch is read while the last one is used.

    Args:
        data: what is read.
        batch: images of a batch; the last one may hold fewer.
        size: (height, width) in pixels.
        threads: how many read and transform images.
        skip: called with every image that cannot be read, and why.
    """
    import numpy as np

    def read(path: Path) -> Array | str:
        from PIL.Image import DecompressionBombError

        try:
            return load_image(path, size)
        except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:
            return " ".join(str(error).split())

    chunks = [data.files[i : i + batch] for i in range(0, len(data.files), batch)]
    with ThreadPoolExecutor(threads) as pool:

        def begin(chunk: tuple[tuple[Path, int], ...]) -> list[Future[Array | str]]:
            return [pool.submit(read, path) for path, _ in chunk]

        reading = begin(data.files[:batch])
        for chunk, following in pairwise([*chunks, ()]):
            found = [future.result() for future in reading]
            reading = begin(following)
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
    """At most `count` images of a folder, spread evenly over their sorted names.

    Args:
        folder: searched to any depth.
        count: how many at most.
        size: (height, width) in pixels.
        tell: called with a line for every file that cannot be read.

    Returns:
        N 3 H W float32, normalised.

    Raises:
        StmdeployError: no such folder, or not one readable image in it.
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
    """One image, 3 H W float32: resized (bicubic), centre cropped, scaled, normalised.

    Raises:
        OSError, ValueError: not an image, or a damaged one.
    """
    import numpy as np
    from PIL import Image

    # By name: Pillow also knows formats that it hands to other programs.
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
    # The side that has less to spare becomes the target exactly, the other follows.
    if image.width * target[1] <= image.height * target[0]:
        shape = (target[0], max(target[1], int(image.height * target[0] / image.width)))
    else:
        shape = (max(target[0], int(image.width * target[1] / image.height)), target[1])
    resized = image.resize(shape, Resampling.BICUBIC)
    left, top = round((resized.width - width) / 2), round((resized.height - height) / 2)
    return resized.crop((left, top, left + width, top + height))
