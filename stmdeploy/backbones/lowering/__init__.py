"""Other exact forms of the backbones, which runtimes execute faster.

``reference`` is the form of `stmdeploy.backbones`: plain, and what is counted and verified
against. ``tokens`` is the same function on two-dimensional tensors: constants folded, windows as
gathers of rows, and whole operators where ONNX has them (Attention, DeformConv,
RMSNormalization). ``tokens-plain`` is ``tokens`` without those, for runtimes that lack them.
``gpu`` is made for builders of GPU engines: whole LayerNorms, no copies around one fused attention,
and DCNv3 as gathers and sums that they make one kernel of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from stmdeploy.spec.export import LOWERINGS, REFERENCE

if TYPE_CHECKING:
    from torch import nn

    from stmdeploy.backbones.catalogue import BackboneConfig


def forms_of(config: BackboneConfig) -> tuple[str, ...]:
    """The forms that a backbone has: the reference form alone until somebody lowers its block.

    The original Swin has no ``tokens``: its patch merging reads the mean of four pixels from the
    residual stream, which the centred stream of `tokens` no longer holds.
    """
    return LOWERINGS if config.lowered else (REFERENCE,)


def lower(module: nn.Module, form: str, image_size: tuple[int, int]) -> nn.Module:
    """A module in another form; the module itself for ``reference``.

    Args:
        module: a backbone for classification or detection that has the form, with its neck or
            without, in eval mode; it is not changed.
        form: one of `forms_of` its configuration.
        image_size: (height, width) in pixels of all images that it will see.

    Returns:
        A module that computes the same, for inference only.
    """
    if form == REFERENCE:
        return module
    import torch

    from stmdeploy.backbones.lowering.network import lowered

    with torch.no_grad():
        return lowered(module, image_size, form).eval()
