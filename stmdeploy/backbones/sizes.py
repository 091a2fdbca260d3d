"""Which image sizes a backbone takes."""

from __future__ import annotations

from stmdeploy.backbones.catalog import BackboneConfig
from stmdeploy.errors import StmdeployError

#: Strides of the four stages.
STRIDES = (4, 8, 16, 32)
#: A window mixer needs every stage map to be whole windows of 7: 7 * 32 pixels.
_SIDE_STEP = {"halo": 224, "swin": 224}


def side_step_px(config: BackboneConfig) -> int:
    """Image sides must be multiples of this many pixels."""
    return _SIDE_STEP.get(config.block, STRIDES[-1])


def as_height_width(image_size: int | tuple[int, int]) -> tuple[int, int]:
    """An image size as (height, width), from one side or both."""
    return (image_size, image_size) if isinstance(image_size, int) else image_size


def check_image_size(config: BackboneConfig, image_size: tuple[int, int]) -> None:
    """Refuses an image size that the mixer cannot take.

    Raises:
        StmdeployError: naming the size, the sizes that work and the nearest of them.
    """
    step = side_step_px(config)
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
