"""Shifted windows without rolling: tokens are permuted once per change of windows.

Everything but attention looks at single tokens, so the residual stream itself stays in the
order of the current windows. Going from plain to shifted windows, partition and roll in one,
is a single gather of whole rows.

For GPUs, stages of several heads keep their tokens place by place: windows and heads are then one
dimension of the attention, which builders fuse without a copy before or behind it.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from stmdeploy.backbones.lowering.tokens import (
    MASKED,
    BranchNorm,
    Style,
    TokenBlock,
    TokenMlp,
    attention_by_place,
    by_place,
    filled,
    linear,
    reader,
    real_tokens,
    writer,
)
from stmdeploy.backbones.mixers.swin import SwinBlock, partition, shift_mask


def window_order(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """(1, H W): the raster index of every token, window by window of the rolled map."""
    raster = torch.arange(size[0] * size[1]).reshape(1, *size, 1)
    rolled = torch.roll(raster, (-shift, -shift), dims=(1, 2))
    return partition(rolled, window).reshape(1, -1)


class LoweredSwinBlock(TokenBlock):
    """`SwinBlock` on tokens in the order of its windows; (N T) C in and out."""

    bias: Tensor

    def __init__(self, block: SwinBlock, size: tuple[int, int], style: Style) -> None:
        whole, window, shift = filled(size, block.window), block.window, block.shift
        super().__init__(whole, style)
        attn, self.order = block.attn, window_order(whole, window, shift)
        self.heads, self.places, self.tokens = attn.heads, window**2, whole[0] * whole[1]
        self.placed = style.gpu and self.heads > 1
        if self.placed:
            self.order = by_place(self.order, self.places)
        w, b = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
        key_bias: Tensor | None
        value_bias: Tensor | None
        key_bias, value_bias, proj = b[1], b[2], attn.proj
        mask, mixing = real_tokens(size, whole, self.order), style
        if mask is not None:
            # Zeros that fill a window have the biases alone as their keys and values. A softmax
            # does not see a bias that all keys have, and weights every value's by 1 in the sum: so
            # keys lose theirs, that of values moves behind the attention, and zeros stay zeros.
            mixing, key_bias, value_bias = style.with_folding, None, None
            proj = linear(proj.weight, proj.bias + proj.weight @ b[2])
        self.norm = BranchNorm(block.norm1, mixing, mask)
        self.q = reader(block.norm1, w[0] * attn.scale, b[0] * attn.scale, mixing)
        self.key = reader(block.norm1, w[1], key_bias, mixing)
        self.value = reader(block.norm1, w[2], value_bias, mixing)
        self.proj = writer(proj, block.layer_scales[0], style)
        self.mlp = TokenMlp.of(block, style)
        bias = attn.relative_position_bias_table[attn.relative_index].permute(2, 0, 1)
        apart = shift_mask(whole, window, shift, bias) if shift else None
        if apart is not None and not style.gpu:
            apart = apart.clamp(min=MASKED)
        self.register_buffer("bias", bias[None] if apart is None else bias + apart)

    def mix(self, x: Tensor) -> Tensor:
        shape = (self.places, -1) if self.placed else (-1, self.places)
        q, k, v = (layer(x).reshape(*shape, x.shape[1]) for layer in (self.q, self.key, self.value))
        bias = self.bias
        if len(bias) > 1:  # One for every window of an image, so again for every image.
            bias = bias.repeat(x.shape[0] // self.tokens, 1, 1, 1)
        attend = partial(attention_by_place, heads=self.heads) if self.placed else self.attend
        mixed: Tensor = self.proj(attend(q, k, v, bias).reshape(x.shape))
        return mixed
