"""The backbones of the unified architecture, built by name; torch is imported on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stmdeploy.backbones.catalogue import list_backbones, resolve

if TYPE_CHECKING:
    from stmdeploy.backbones.network import Backbone

__all__ = ["create_backbone", "list_backbones"]


def create_backbone(
    stm: str,
    scale: str = "tiny",
    *,
    image_size: int | tuple[int, int] = 224,
    num_classes: int = 1000,
) -> Backbone:
    """Builds a backbone with initial weights, in eval mode.

    Args:
        stm: a family (``halo pvt pvt_v2 swin convnext dcn``), an alias, or an official name
            such as ``unified_dcn_v3_tiny``, which brings its own scale.
        scale: ``micro tiny small base``, for dcn also ``large``; not used with an official name.
        image_size: one side or (height, width), in pixels.
        num_classes: outputs of the classification head, at least 1.

    Returns:
        A module with the official state_dict keys. ``model(x)`` maps N 3 H W to logits
        (N, num_classes); ``model.forward_features(x)`` gives the four stage maps.

    Raises:
        StmdeployError: unknown name or scale, a size that the mixer cannot take, or no classes.
    """
    from stmdeploy.backbones.network import build
    from stmdeploy.spec.limits import at_least

    at_least(1, num_classes, "num_classes")
    config = resolve(stm, None if stm.strip().lower() in list_backbones() else scale)
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return build(config, size, num_classes)
