"""Shifted windows without rolling: tokens are permuted once per change of windows.

Everything but attention looks at single tokens, so the residual stream itself stays in the
order of the current windows. Going from plain to shifted windows, partition and roll in one,
is a single gather of whole rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stmdeploy.backbones.lowering.tokens import BranchNorm, TokenBlock, TokenMlp, reader, writer
from stmdeploy.backbones.mixers.swin import SwinBlock, partition


def window_order(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """(H W): the raster index of every token, window by window of the rolled map."""
    raster = torch.arange(size[0] * size[1]).reshape(1, *size, 1)
    rolled = torch.roll(raster, (-shift, -shift), dims=(1, 2))
    return partition(rolled, window).reshape(-1)


class LoweredSwinBlock(TokenBlock):
    """`SwinBlock` on tokens in the order of its windows; (N T) C in and out."""

    bias: Tensor

    def __init__(self, block: SwinBlock, size: tuple[int, int], *, plain: bool) -> None:
        super().__init__(size, plain=plain)
        attn, self.order = block.attn, window_order(size, block.window, block.shift)
        self.heads, self.places = attn.heads, block.window**2
        self.norm = BranchNorm(block.norm1, plain=plain)
        w, b = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
        self.q = reader(block.norm1, w[0] * attn.scale, b[0] * attn.scale, plain=plain)
        self.key = reader(block.norm1, w[1], b[1], plain=plain)
        self.value = reader(block.norm1, w[2], b[2], plain=plain)
        self.proj = writer(attn.proj, block.layer_scales[0])
        self.mlp = TokenMlp.of(block, plain=plain)
        bias = attn.relative_position_bias_table[attn.relative_index].permute(2, 0, 1)
        self.register_buffer("bias", bias[None] if block.mask is None else bias + block.mask)

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (
            layer(x).reshape(-1, self.places, x.shape[1])
            for layer in (self.q, self.key, self.value)
        )
        bias = self.bias
        if len(bias) > 1:  # One for every window of an image, so again for every image.
            bias = bias.repeat(x.shape[0] // len(self.order), 1, 1, 1)
        mixed: Tensor = self.proj(self.attend(q, k, v, bias).reshape(x.shape))
        return mixed
