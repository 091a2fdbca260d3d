"""The table of backbones: names, geometry, published accuracy. Imports no heavy library.

``STMDEPLOY_CATALOG`` names a TOML file with further scales of the same families, in the layout of
``catalogue.toml``, which adds unified backbones of other depths and widths.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.files.reading import read_toml
from stmdeploy.schema.evaluation import Published
from stmdeploy.spec.model import CLASSIFICATION

#: The variable that names a file of further scales.
CATALOG_VARIABLE = "STMDEPLOY_CATALOG"
#: Strides of the four stages.
STRIDES = (4, 8, 16, 32)
#: Stages of every backbone, and the largest depth, width or number of heads that is accepted.
_STAGES, _MOST = len(STRIDES), 65_536
#: Where the authors' weights are served: release assets of their repository.
_RELEASES = "https://github.com/OpenGVLab/STM-Evaluation/releases/download"
CHECKPOINT_BASE_URL = f"{_RELEASES}/cls-ckpt/"
DETECTOR_BASE_URL = f"{_RELEASES}/det-ckpt/"


@dataclass(frozen=True)
class BackboneConfig:
    """One backbone: an STM at a scale.

    Attributes:
        name: the official name, such as ``unified_dcn_v3_tiny``.
        stm: the family, such as ``dcn``.
        scale: ``micro`` to ``large`` (originals have their own).
        mixer: the spatial token mixer in words.
        layout: which network surrounds the blocks: ``unified``, ``swin`` or ``pvt_v2``.
        block: what the stages are made of, MODULE:CLASS of `stmdeploy.backbones.mixers`.
        detection: the block of the detection backbone, MODULE:CLASS of the same package; None
            without one.
        any_size: the block of a classification backbone that takes images of any size, MODULE:CLASS
            of the same package; None without one.
        lowered: the block on tokens, MODULE:CLASS of `stmdeploy.backbones.lowering`; None if
            nobody has written one.
        lowered_for_gpu: the same for GPUs, where that is another one.
        image_side_step_px: height and width of images must be multiples of it.
        depths, dims, heads, mlp_ratios: per stage; heads are 0 where the mixer has none.
        published: the authors' accuracy, or None.
        checkpoint_url: the authors' weights for classification, or None.
        detector_url: the authors' Mask R-CNN with this backbone, or None.
    """

    name: str
    stm: str
    scale: str
    mixer: str
    layout: str
    block: str
    detection: str | None
    any_size: str | None
    lowered: str | None
    lowered_for_gpu: str | None
    image_side_step_px: int
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    heads: tuple[int, ...]
    mlp_ratios: tuple[int, ...]
    published: Published | None
    checkpoint_url: str | None
    detector_url: str | None


def _config(stm: str, scale: str, family: dict[str, Any]) -> BackboneConfig:
    entry = family["scales"][scale]
    figures = [entry.get(f"published_{field.name}") for field in fields(Published)]
    file = entry.get("checkpoint_file")
    return BackboneConfig(
        name=family["official"].format(scale=scale),
        stm=stm,
        scale=scale,
        mixer=family["mixer"],
        layout=family.get("layout", "unified"),
        block=family["block"],
        detection=family.get("detection"),
        any_size=family.get("any_size"),
        lowered=family.get("lowered"),
        lowered_for_gpu=family.get("lowered_for_gpu"),
        image_side_step_px=family.get("image_side_step_px", STRIDES[-1]),
        depths=tuple(entry["depths"]),
        dims=tuple(entry["dims"]),
        heads=tuple(entry.get("heads", (0, 0, 0, 0))),
        mlp_ratios=tuple(entry.get("mlp_ratios", (4, 4, 4, 4))),
        published=Published(*figures) if figures[0] is not None else None,
        checkpoint_url=CHECKPOINT_BASE_URL + file if file else None,
        detector_url=_detector_url(file) if file and figures[1] is not None else None,
    )


def _detector_url(checkpoint_file: str) -> str:
    """Where the authors serve Mask R-CNN with the backbone of a classification checkpoint."""
    return f"{DETECTOR_BASE_URL}mask_rcnn_{Path(checkpoint_file).stem}_1x.pth"


@cache
def _table() -> dict[str, Any]:
    text = resources.files("stmdeploy.backbones").joinpath("catalogue.toml").read_text("utf-8")
    table = tomllib.loads(text)
    if path := os.environ.get(CATALOG_VARIABLE):
        for stm, scales in _further_scales(Path(path), table).items():
            table[stm]["scales"] |= scales
    return table


def _further_scales(path: Path, table: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scales in a user's own file, by family.

    Raises:
        StmdeployError: no such file, no TOML, or something other than new scales in it.
    """
    where = f"{CATALOG_VARIABLE}={path}"
    found = read_toml(path, CATALOG_VARIABLE, "write it as docs/models.md shows under Own scales")
    further = {}
    for stm, family in found.items():
        if stm not in table:
            raise StmdeployError(f"{where}: unknown STM {stm!r}", nearest(stm, table))
        scales = family.get("scales") if isinstance(family, dict) else None
        if not isinstance(scales, dict) or len(family) != 1:
            raise StmdeployError(f"{where}: {stm} holds no scales", f"write [{stm}.scales.NAME]")
        for scale, entry in scales.items():
            _check_scale(f"{where}: {stm}.scales.{scale}", scale, entry, table[stm])
        further[stm] = scales
    return further


def _check_scale(where: str, scale: str, entry: Any, family: dict[str, Any]) -> None:
    """Raises StmdeployError unless `entry` can be a new scale of a family."""
    if scale in family["scales"]:
        raise StmdeployError(f"{where} exists already", "choose another name for the scale")
    known = {"depths", "dims", "heads", "mlp_ratios"}
    needed = {"depths", "dims"} | (known & set(next(iter(family["scales"].values()))))
    if not isinstance(entry, dict) or not needed <= set(entry) <= known:
        raise StmdeployError(f"{where} needs {', '.join(sorted(needed))}", "write no other keys")
    for key, values in entry.items():
        whole = isinstance(values, list) and all(type(value) is int for value in values)
        if not (whole and len(values) == _STAGES and all(0 < v <= _MOST for v in values)):
            raise StmdeployError(
                f"{where}: {key} = {values!r}", f"write {_STAGES} whole numbers of 1 to {_MOST}"
            )
    if any(dim % heads for dim, heads in zip(entry["dims"], entry.get("heads", [1] * _STAGES),
                                             strict=True)):  # fmt: skip
        raise StmdeployError(f"{where}: dims are not multiples of heads", "change dims or heads")


@cache
def _by_name() -> dict[str, BackboneConfig]:
    table = _table().items()
    configs = (_config(stm, scale, family) for stm, family in table for scale in family["scales"])
    return {config.name: config for config in configs}


@cache
def _aliases() -> dict[str, str]:
    """The family that every name stands for, its own and its aliases."""
    aliases = {
        alias: stm for stm, family in _table().items() for alias in family.get("aliases", ())
    }
    return {stm: stm for stm in _table()} | aliases


def list_backbones(pattern: str = "*") -> list[str]:
    """The official names of all backbones that can be built, family by family.

    Args:
        pattern: which of them, as a shell would match names: ``"*dcn*"``.

    >>> list_backbones("*dcn*micro")
    ['unified_dcn_v3_micro']
    """
    return [name for name in _by_name() if fnmatchcase(name, pattern)]


def resolve(stm: str, scale: str | None = None) -> BackboneConfig:
    """Finds a backbone by family and scale, or by its official name alone.

    Args:
        stm: a family (``dcn``), an alias (``internimage``) or an official name
            (``unified_dcn_v3_tiny``).
        scale: ``micro`` to ``large``; None means ``tiny``, or what the official name says.

    Raises:
        StmdeployError: unknown name or scale (names the nearest one that exists), or a scale
            that contradicts the official name.
    """
    key = stm.strip().lower()
    if key in _by_name():
        config = _by_name()[key]
        if scale is not None and scale.lower() != config.scale:
            raise StmdeployError(
                f"{config.name} is of scale {config.scale!r}, not {scale!r}",
                f"leave --scale out, or give --stm {config.stm}",
            )
        return config
    if key not in _aliases():
        known = [*_aliases(), *_by_name()] if "_" in key else list(_aliases())
        raise StmdeployError(f"unknown STM {stm!r}", nearest(key, known))
    family = _aliases()[key]
    scales = _table()[family]["scales"]
    wanted = (scale or ("tiny" if "tiny" in scales else next(iter(scales)))).strip().lower()
    if wanted not in scales:
        raise StmdeployError(f"{family} has no scale {scale!r}", nearest(wanted, scales))
    return _by_name()[_table()[family]["official"].format(scale=wanted)]


def check_image_size(config: BackboneConfig, image_size: tuple[int, int]) -> None:
    """Refuses an image size that the mixer cannot take.

    Raises:
        StmdeployError: names the size, the sizes that work and the nearest of them.
    """
    _check_sides(config, image_size, config.image_side_step_px)


def check_model(config: BackboneConfig, task: str, image_size: tuple[int, int]) -> None:
    """Refuses a task that a backbone has no form for, and an image size that the form cannot take.

    Raises:
        StmdeployError: as `check_image_size`, or the authors have no detection form of it.
    """
    if task == CLASSIFICATION:
        check_image_size(config, image_size)
        return
    if config.detection is None:
        raise StmdeployError(
            f"{config.name} has no detection form", "give halo, pvt, swin, convnext or dcn"
        )
    _check_sides(config, image_size, STRIDES[-1])


def _check_sides(config: BackboneConfig, image_size: tuple[int, int], step: int) -> None:
    height, width = image_size
    if height > 0 and width > 0 and height % step == 0 and width % step == 0:
        return
    near = [max(step, round(side / step) * step) for side in image_size]
    why = "whole 7x7 windows at all four stages" if step > STRIDES[-1] else "strides 4 to 32"
    raise StmdeployError(
        f"{config.name} cannot take images of {height}x{width} px: "
        f"sides must be multiples of {step} ({why})",
        f"the nearest that works is {near[0]}x{near[1]}",
    )
