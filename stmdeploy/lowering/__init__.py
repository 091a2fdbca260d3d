"""Other exact forms of the backbones, made for the runtimes that will run them.

``reference`` is the form of `stmdeploy.backbones`: plain, and what is counted and verified
against. ``tokens`` is the same function for ONNX Runtime on the CPU: tokens in two dimensions,
constants folded, windows as gathers of rows, DCNv3 as DeformConv.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from stmdeploy.backbones.catalog import BackboneConfig

REFERENCE = "reference"
TOKENS = "tokens"


def has_tokens_form(config: BackboneConfig) -> bool:
    """Whether a backbone can be lowered to tokens.

    The original Swin cannot: its patch merging reads the mean of four pixels from the
    residual stream, which the centred stream of `tokens` no longer holds.
    """
    return config.layout != "swin"


def lower(module: nn.Module, form: str) -> nn.Module:
    """A module in another form; the module itself for ``reference``.

    Args:
        module: a `Backbone` that has the form, in eval mode; it is not changed.
        form: ``reference`` or ``tokens``.

    Returns:
        A module that maps N 3 H W to logits, for inference only.
    """
    if form == REFERENCE:
        return module
    import torch

    from stmdeploy.backbones.network import Backbone
    from stmdeploy.lowering.network import LoweredBackbone

    assert isinstance(module, Backbone)
    with torch.no_grad():
        return LoweredBackbone(module).eval()
