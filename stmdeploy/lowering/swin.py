"""Shifted windows without rolling: tokens are permuted once per change of windows.

Everything but attention looks at single tokens, so the residual stream itself stays in the
order of the current windows. Going from plain to shifted windows, partition and roll in one,
is a single gather of whole rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmdeploy.backbones.mixers.swin import SwinBlock, partition
from stmdeploy.lowering.tokens import CentredNorm, TokenMlp, after, writer


def window_order(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """(H W): the raster index of every token, window by window of the rolled map."""
    raster = torch.arange(size[0] * size[1]).reshape(1, *size, 1)
    rolled = torch.roll(raster, (-shift, -shift), dims=(1, 2))
    return partition(rolled, window).reshape(-1)


class LoweredSwinBlock(nn.Module):
    """`SwinBlock` on tokens in the order of its windows; (N T) C in and out."""

    bias: Tensor

    def __init__(self, block: SwinBlock) -> None:
        super().__init__()
        attn = block.attn
        self.order = window_order(block.size, block.window, block.shift)
        self.heads, self.places = attn.heads, block.window**2
        self.windows = len(self.order) // self.places
        self.norm = CentredNorm(block.norm1)
        w, b = attn.qkv.weight.chunk(3), attn.qkv.bias.chunk(3)
        self.q = after(block.norm1, w[0] * attn.scale, b[0] * attn.scale)
        self.k, self.v = after(block.norm1, w[1], b[1]), after(block.norm1, w[2], b[2])
        self.proj = writer(attn.proj, block.gamma_1)
        self.mlp = TokenMlp.of(block.norm2, block.mlp, block.gamma_2)
        bias = attn.relative_position_bias_table[attn.relative_index].permute(2, 0, 1)
        self.register_buffer("bias", bias if block.mask is None else bias + block.mask)

    def _by_head(self, x: Tensor) -> Tensor:
        """(N T) C -> N windows heads places d."""
        x = x.reshape(-1, self.windows, self.places, self.heads, x.shape[1] // self.heads)
        return x.transpose(2, 3)

    def _mix(self, x: Tensor) -> Tensor:
        q, k, v = (self._by_head(layer(x)) for layer in (self.q, self.k, self.v))
        weights = (q @ k.transpose(-1, -2) + self.bias).softmax(dim=-1)
        mixed: Tensor = self.proj((weights @ v).transpose(2, 3).reshape(x.shape))
        return mixed

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._mix(self.norm(x))
        y: Tensor = x + self.mlp(x)
        return y
