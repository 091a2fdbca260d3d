"""Effective receptive fields: which pixels of an image move the centre of a stage's map.

Gradient of the central position of the map, summed over its channels, with respect to the image,
averaged over images (Luo et al., NIPS 2016); the side of the smallest centred square that holds a
share of it is from RepLKNet (CVPR 2022). It is a property of the module, not of an artifact.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.backbones.catalogue import STRIDES
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import write_atomically
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import now_utc
from stmdeploy.schema.receptive_field import ReceptiveField, StageField
from stmdeploy.spec.limits import at_least
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.preparation import Prepared

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn

    from stmdeploy.plugins.runner import Array

    Floats = npt.NDArray[np.float64]

#: Shares of the contribution, in per cent, whose squares are told.
SHARES = (20, 30, 50, 99)
ABSOLUTE, SQUARED = "absolute", "squared"
CONTRIBUTIONS = (ABSOLUTE, SQUARED)
_RANDOM, _SEED = "random", 3


@dataclass(frozen=True)
class ReceptiveFieldSpec:
    """Over which images receptive fields are measured, and how.

    Attributes:
        data: a folder of photographs, at any depth; None for noise.
        images: how many, at most.
        contribution: one of `CONTRIBUTIONS`.
        preparation: how photographs are prepared, where not as the model says.
    """

    data: Path | None
    images: int
    contribution: str
    preparation: Prepared

    def __post_init__(self) -> None:
        at_least(1, self.images, "number of images")
        if self.contribution not in CONTRIBUTIONS:
            hint = f"choose one of: {', '.join(CONTRIBUTIONS)}"
            raise StmdeployError(f"unknown contribution {self.contribution!r}", hint)


@dataclass(frozen=True)
class Seen:
    """A network's receptive fields, and what every pixel contributes to each stage, H x W."""

    field: ReceptiveField
    maps: tuple[Floats, ...]


def measure_receptive_field(spec: ReceptiveFieldSpec, model: ModelSpec, progress: Progress) -> Seen:
    """The receptive fields of one model, image by image.

    Raises:
        StmdeployError: as `build_model` and `load_images`; a module without stages.
    """
    import numpy as np

    from stmdeploy.backbones.source import build_model

    built = build_model(model, progress)
    info = built.info
    if info.weights.kind == "synthetic":
        progress.warn(
            f"WARNING: {model.label} has synthetic weights: its receptive field is that of the "
            "architecture, not of a trained network"
        )
    images = _images(spec, model, spec.preparation.over(info.preparation), progress)
    features = _features(built.module.requires_grad_(False), model)
    sums: list[Floats] = []
    for number, image in enumerate(images):
        progress.detail(f"{model.label}: image {number + 1} of {len(images)}")
        found = contributions(features, image[None], squared=spec.contribution == SQUARED)
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    maps = tuple(total / len(images) for total in sums)
    if any(not np.isfinite(one).all() or not one.sum() for one in maps):
        raise StmdeployError(
            f"{model.label}: the gradient is zero or not finite", "check its weights"
        )
    stages = tuple(_stage(number, one, model) for number, one in enumerate(maps, 1))
    field = ReceptiveField(
        model=info.name,
        stm=info.stm,
        scale=info.scale,
        task=info.task,
        weights=info.weights.kind,
        weights_sha256=info.weights.sha256,
        image_size=info.image_size,
        data=spec.data.resolve().name if spec.data else _RANDOM,
        images=len(images),
        contribution=spec.contribution,
        stages=stages,
        created_utc=now_utc(),
    )
    return Seen(field, maps)


def _images(
    spec: ReceptiveFieldSpec, model: ModelSpec, preparation: Any, progress: Progress
) -> Array:
    import numpy as np

    from stmdeploy.backbones.images import load_images

    if spec.data is not None:
        return load_images(spec.data, spec.images, model.image_size, progress.warn, preparation)
    progress.warn(
        "WARNING: over noise, which looks like no photograph; give --data FOLDER for what a "
        "trained network sees"
    )
    dice = np.random.default_rng(_SEED)
    return dice.standard_normal((spec.images, 3, *model.image_size), dtype=np.float32)


def _features(
    module: nn.Module, model: ModelSpec
) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    found = getattr(module, "forward_features", None)
    if not callable(found):
        raise StmdeployError(
            f"{model.name} has no stages to look at",
            "give it a method forward_features that returns the list of its stages' maps N C H W",
        )

    def features(images: torch.Tensor) -> Sequence[torch.Tensor]:
        maps = found(images)
        if not isinstance(maps, list | tuple) or any(getattr(m, "ndim", 0) != 4 for m in maps):
            raise StmdeployError(
                f"{model.name}: forward_features gives no list of maps N C H W", "make it do so"
            )
        return maps

    return features


def contributions(
    features: Callable[[torch.Tensor], Sequence[torch.Tensor]], images: Array, *, squared: bool
) -> list[Floats]:
    """What every pixel contributes to the centre of every map, averaged over images.

    Args:
        features: images N 3 H W -> maps N C h w; the centre is at row h // 2 and column w // 2.
        squared: whether gradients are squared; otherwise their absolute values count.

    Returns:
        H x W, float64, for each map.
    """
    import torch

    given = torch.from_numpy(images).requires_grad_()
    found = []
    maps = features(given)
    for number, one in enumerate(maps, 1):
        centre = one[:, :, one.shape[2] // 2, one.shape[3] // 2].sum()
        (gradient,) = torch.autograd.grad(centre, given, retain_graph=number < len(maps))
        pixels = gradient.double().square() if squared else gradient.double().abs()
        found.append(pixels.sum(1).mean(0).numpy())
    return found


def side_px(contribution: Floats, centre: tuple[float, float], percent: float) -> float:
    """Side, in pixels, of the smallest square around a point that holds a share of the
    contribution.

    Args:
        contribution: H x W.
        centre: (row, column) of the point, where the middle of the first pixel is 0.5.
        percent: the share.
    """
    import numpy as np

    height, width = contribution.shape
    down = np.abs(np.arange(height) + 0.5 - centre[0])[:, None]
    right = np.abs(np.arange(width) + 0.5 - centre[1])[None, :]
    distances = np.maximum(down, right).ravel()
    order = np.argsort(distances, kind="stable")
    held = np.cumsum(contribution.ravel()[order])
    # Rounding must not ask for one more pixel than the last that contributes.
    enough = np.searchsorted(held, held[-1] * percent / 100 * (1 - 1e-12))
    return float(2 * distances[order[min(enough, len(order) - 1)]] + 1)


def _stage(number: int, contribution: Floats, model: ModelSpec) -> StageField:
    stride = STRIDES[0] << (number - 1)
    # The middle of the position that the gradient is of.
    row, column = ((side // stride // 2 + 0.5) * stride for side in model.image_size)
    sides = {str(share): side_px(contribution, (row, column), share) for share in SHARES}
    return StageField(stage=number, stride=stride, sides_px=sides)


def write_maps(seen: Seen, folder: Path) -> list[Path]:
    """Writes the maps of a network as arrays (``stage1`` ...) and as a picture.

    Returns:
        ``receptive-field-MODEL-HxW.npz`` and ``.png``.

    Raises:
        StmdeployError: a file cannot be written.
    """
    import numpy as np

    field = seen.field
    height, width = field.image_size
    safe = "".join(c if c.isalnum() or c in "._-" else "-" for c in field.model)
    task = "" if field.task == "classification" else f"-{field.task}"
    stem = f"receptive-field-{safe}{task}-{height}x{width}"
    arrays, picture = io.BytesIO(), io.BytesIO()
    named: dict[str, Any] = {
        f"stage{stage.stage}": one.astype(np.float32)
        for stage, one in zip(field.stages, seen.maps, strict=True)
    }
    np.savez_compressed(arrays, **named)
    _picture(seen.maps).save(picture, "PNG")
    paths = [folder / f"{stem}.npz", folder / f"{stem}.png"]
    for path, content in zip(paths, (arrays, picture), strict=True):
        write_atomically(path, content.getvalue())
    return paths


#: Decades that the picture's colours span, and its margin in pixels.
_DECADES, _MARGIN = 4.0, 4


def _picture(maps: Sequence[Floats]) -> Any:
    """All stages beside each other, from black (a ten-thousandth of the largest, or less) to
    white."""
    import numpy as np
    from PIL import Image

    panels = []
    for one in maps:
        with np.errstate(divide="ignore"):
            bright = np.clip(1 + np.log10(one / one.max()) / _DECADES, 0, 1)
        # Black, red, yellow, white: each channel begins where the one before has ended.
        colours = [np.clip(3 * bright - channel, 0, 1) for channel in range(3)]
        panel = np.full((one.shape[0], one.shape[1] + _MARGIN, 3), 255, np.uint8)
        panel[:, : one.shape[1]] = np.round(255 * np.stack(colours, axis=-1))
        panels.append(panel)
    return Image.fromarray(np.concatenate(panels, axis=1)[:, :-_MARGIN])
