"""DCNv3 as the standard deformable convolution: an all-ones depth-wise 3x3 kernel.

Channels come first, positions last, as ONNX DeformConv reads them: offsets and values are
products with the weights on the left, so that nothing large is transposed for them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.mixers.dcn import KERNEL, POINTS, ChannelNorm, DcnBlock, sampling_base
from stmdeploy.lowering.tokens import TokenMlp, as_conv, linear, row_norm, writer

#: Kernel position (row, column) of every point: point 3a + b lies at column a, row b.
_ROW_MAJOR = torch.arange(POINTS).reshape(KERNEL, KERNEL).t().reshape(-1)


@torch.library.custom_op("stmdeploy::deform_conv", mutates_args=())
def deform_conv(value: Tensor, offset: Tensor, mask: Tensor, groups: int) -> Tensor:
    """Sums the nine samples around every pixel, as ONNX DeformConv with a kernel of ones.

    Args:
        value: N C H W.
        offset: N (groups 9 2) H W, in pixels; kernel row by row, y before x.
        mask: N (groups 9) H W.
        groups: groups of channels with offsets of their own.
    """
    n, c, h, w = value.shape
    base = sampling_base((h, w)).to(value)[:, _ROW_MAJOR]
    moved = offset.reshape(n, groups, POINTS, 2, h * w).permute(0, 1, 4, 2, 3).flip(-1)
    side = torch.tensor([w, h], dtype=value.dtype)
    grid = (2 * (base + moved) + 1) / side - 1
    samples = F.grid_sample(
        value.reshape(n * groups, c // groups, h, w), grid.flatten(0, 1), align_corners=False
    )
    weights = mask.reshape(n * groups, 1, POINTS, h * w).transpose(2, 3)
    return (samples * weights).sum(-1).reshape(n, c, h, w)


@deform_conv.register_fake
def _shape_of(value: Tensor, *_: object) -> Tensor:
    return torch.empty_like(value)


class LoweredDcnBlock(nn.Module):
    """`DcnBlock` on tokens in raster order; (N T) C in and out."""

    def __init__(self, block: DcnBlock, size: tuple[int, int]) -> None:
        super().__init__()
        attn = block.attn
        self.size, self.heads = size, attn.heads
        self.norm = row_norm(block.norm1)
        self.dwconv, norm, self.act = attn.dw_conv
        assert isinstance(norm, ChannelNorm)
        self.dw_norm = norm.norm
        # From (x, y) of points in column-major order to (y, x) in row-major order.
        order = torch.arange(self.heads * POINTS * 2).reshape(self.heads, POINTS, 2)
        order = order[:, _ROW_MAJOR].flip(-1).reshape(-1)
        self.offset_weight = nn.Parameter(attn.sampling_offsets.weight[order])
        self.offset_bias = nn.Parameter(attn.sampling_offsets.bias[order][:, None])
        order = torch.arange(self.heads * POINTS).reshape(self.heads, POINTS)[:, _ROW_MAJOR]
        order = order.reshape(-1)
        self.mask = linear(attn.attention_weights.weight[order], attn.attention_weights.bias[order])
        self.value = as_conv(attn.value_proj)
        self.proj = writer(attn.output_proj, block.gamma1)
        self.mlp = TokenMlp.of(block.norm2, block.mlp, block.gamma2)

    def _mix(self, x: Tensor) -> Tensor:
        (h, w), c = self.size, x.shape[1]
        image = x.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        q = self.act(self.dw_norm(self.dwconv(image).permute(0, 2, 3, 1)))
        tokens = q.reshape(-1, h * w, c)
        offset = self.offset_weight @ tokens.transpose(1, 2) + self.offset_bias
        mask = self.mask(tokens.reshape(-1, c)).reshape(-1, h * w, self.heads, POINTS).softmax(-1)
        y = deform_conv(
            self.value(image),
            offset.reshape(-1, self.heads * POINTS * 2, h, w),
            mask.permute(0, 2, 3, 1).reshape(-1, self.heads * POINTS, h, w),
            self.heads,
        )
        mixed: Tensor = self.proj(y.flatten(2).transpose(1, 2).reshape(x.shape))
        return mixed

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._mix(self.norm(x))
        y: Tensor = x + self.mlp(x)
        return y
