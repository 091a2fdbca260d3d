"""Photographs as a network reads them: the transform that the accuracies were published with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    from PIL.Image import Image

    from stmdeploy.contracts import Array

#: Mean and standard deviation of ImageNet's channels, of values in [0, 1].
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: The shorter side is resized to side / this, then the centre is cut out (256 for 224).
CROP_SHARE = 0.875
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"})


def load_images(
    folder: Path, count: int, size: tuple[int, int], tell: Callable[[str], None]
) -> Array:
    """Up to `count` images of a folder and its folders, spread evenly over their sorted names.

    Args:
        folder: searched to any depth.
        count: how many at most.
        size: (height, width) in pixels.
        tell: takes a line for every file that cannot be read.

    Returns:
        N 3 H W float32, normalised.

    Raises:
        StmdeployError: no such folder, or not one readable image in it.
    """
    import numpy as np
    from PIL.Image import DecompressionBombError

    hint = "give a folder of photographs"
    if not folder.is_dir():
        raise StmdeployError(f"{folder} is not a folder", hint)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = [
        paths[i * len(paths) // min(count, len(paths))] for i in range(min(count, len(paths)))
    ]
    images = []
    for path in chosen:
        try:
            images.append(load_image(path, size))
        except (OSError, ValueError, SyntaxError, DecompressionBombError) as error:
            tell(f"skipped {path}: {' '.join(str(error).split())}")
    if not images:
        raise StmdeployError(f"{folder} holds no image that can be read", hint)
    return np.stack(images)


def load_image(path: Path, size: tuple[int, int]) -> Array:
    """One image, 3 H W float32: resized (bicubic), centre cropped, scaled, normalised.

    Raises:
        OSError, ValueError: not an image, or a damaged one.
    """
    import numpy as np
    from PIL import Image

    with Image.open(path) as opened:
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
