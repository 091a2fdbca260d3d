"""Which image sizes a backbone takes."""

from __future__ import annotations

from stmdeploy.backbones.catalogue import STRIDES, BackboneConfig
from stmdeploy.errors import StmdeployError


def check_image_size(config: BackboneConfig, image_size: tuple[int, int]) -> None:
    """Refuses an image size that the mixer cannot take.

    Raises:
        StmdeployError: naming the size, the sizes that work and the nearest of them.
    """
    step = config.image_side_step_px
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
