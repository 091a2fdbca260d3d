"""Images that set the scales of int8, and other images that judge every low precision."""

from __future__ import annotations

from dataclasses import dataclass

from stmdeploy.backbones.images import load_images
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.runner import Array
from stmdeploy.spec.export import CALIBRATED, FULL_PRECISION, CalibrationSpec, ExportSpec
from stmdeploy.spec.preparation import Preparation

_RANDOM = "random"
_CALIBRATION_SEED, _JUDGING_SEED = 1, 2
#: Of random images so many pixels judge, and two images at least: float64 is slow.
_JUDGED_PIXELS, _JUDGED_LEAST = 64 * 224 * 224, 2


@dataclass(frozen=True)
class ExportImages:
    """Images for one export, N 3 H W, normalised; None where none are needed.

    Attributes:
        calibrating: images that set the scales of int8.
        judging: other images, which show how much a low precision loses.
        source: ``random``, or the name of the folder that they come from.
    """

    calibrating: Array | None = None
    judging: Array | None = None
    source: str = ""


def images_for(spec: ExportSpec, preparation: Preparation, progress: Progress) -> ExportImages:
    """The images that an export needs: read from the calibration folder, or random noise.

    Args:
        preparation: how photographs are prepared for the model.

    Raises:
        StmdeployError: the folder holds no image that can be read.
    """
    if spec.precision == FULL_PRECISION:
        return ExportImages()
    static = spec.precision in CALIBRATED
    if spec.calibration.folder is None:
        if static:
            progress.warn(
                f"WARNING: {spec.precision} scales are set with random images, which look like no "
                "photograph: good enough for latency, wrong for accuracy. "
                "Give --calibration FOLDER."
            )
        calibrating, judging = _random_images(spec.calibration, spec.model.image_size)
        return ExportImages(calibrating if static else None, judging, _RANDOM)
    folder = spec.calibration.folder
    progress.step(f"reading images from {folder}")
    count, size = 2 * spec.calibration.images, spec.model.image_size
    images = load_images(folder, count, size, progress.warn, preparation)
    if len(images) == 1:
        progress.warn(f"{folder} holds one image, which sets the scales and judges them: add more")
    # Every other image, so that no scale is judged by the image that set it.
    halves = (images[::2], images[1::2] if len(images) > 1 else images)
    return ExportImages(halves[0] if static else None, halves[1], folder.resolve().name)


def _random_images(spec: CalibrationSpec, size: tuple[int, int]) -> tuple[Array, Array]:
    import numpy as np

    judged = min(spec.images, max(_JUDGED_LEAST, _JUDGED_PIXELS // (size[0] * size[1])))
    calibrating, judging = (
        np.random.default_rng(seed).standard_normal((count, 3, *size), dtype=np.float32)
        for seed, count in ((_CALIBRATION_SEED, spec.images), (_JUDGING_SEED, judged))
    )
    return calibrating, judging
