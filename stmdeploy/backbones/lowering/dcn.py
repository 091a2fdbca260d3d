"""DCNv3 as the standard deformable convolution, its depth-wise 3x3 kernel all ones; or, for
runtimes without that operator, as bilinear samples of a grid; or, for GPUs, as weighted sums of
gathered rows, of which TensorRT's builder makes one kernel, without a tensor of samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.lowering.operators import ROW_MAJOR, deform_conv
from stmdeploy.backbones.lowering.tokens import Style, TokenBlock, TokenMlp, as_conv, linear, writer
from stmdeploy.backbones.mixers.dcn import (
    POINTS,
    ChannelNorm,
    DcnBlock,
    DeformableConv,
    DetectionDcnBlock,
    sampling_base,
)


class DeformConvSampling(nn.Module):
    """Offsets, mask and weighted samples by `deform_conv`.

    Channels come first, positions last, as the operator reads them: offsets are a product
    with the weight on the left, so that nothing large is transposed for them.
    """

    def __init__(self, attn: DeformableConv) -> None:
        super().__init__()
        self.heads = attn.heads
        # From (x, y) of points in column-major order to (y, x) in row-major order.
        order = torch.arange(self.heads * POINTS * 2).reshape(self.heads, POINTS, 2)
        order = order[:, ROW_MAJOR].flip(-1).reshape(-1)
        self.offset_weight = nn.Parameter(attn.sampling_offsets.weight[order])
        self.offset_bias = nn.Parameter(attn.sampling_offsets.bias[order][:, None])
        order = torch.arange(self.heads * POINTS).reshape(self.heads, POINTS)[:, ROW_MAJOR]
        order = order.reshape(-1)
        self.mask = linear(attn.attention_weights.weight[order], attn.attention_weights.bias[order])

    def forward(self, tokens: Tensor, value: Tensor) -> Tensor:
        """tokens: N T C, what offsets and mask are made of; value: N C H W -> N C H W."""
        offset = self.offset_weight @ tokens.transpose(1, 2) + self.offset_bias
        logits = self.mask(tokens.reshape(-1, tokens.shape[2]))
        y: Tensor = deform_conv(value, offset, logits, self.heads)
        return y


class GridSampling(nn.Module):
    """Offsets, mask and weighted samples by grid sampling.

    The grid runs over -1 .. 1: pixel p of s lies at (2p + 1) / s - 1. That scale is folded
    into the weights of the offsets, and what is left of it into one constant.
    """

    base: Tensor

    def __init__(self, attn: DeformableConv, size: tuple[int, int]) -> None:
        super().__init__()
        self.size, self.heads = size, attn.heads
        offsets = attn.sampling_offsets
        side = torch.tensor([size[1], size[0]]).to(offsets.weight)
        scale = (2 / side).repeat(attn.heads * POINTS)
        self.offsets = linear(offsets.weight * scale[:, None], offsets.bias * scale)
        self.register_buffer("base", (2 * sampling_base(size).to(side) + 1) / side - 1)
        self.mask = linear(attn.attention_weights.weight, attn.attention_weights.bias)

    def forward(self, tokens: Tensor, value: Tensor) -> Tensor:
        """tokens: N T C, what offsets and mask are made of; value: N C H W -> N C H W."""
        (h, w), heads = self.size, self.heads
        rows = tokens.reshape(-1, tokens.shape[2])
        offsets = self.offsets(rows).reshape(-1, h * w, heads, POINTS, 2).transpose(1, 2)
        grid = (offsets + self.base).reshape(-1, h * w, POINTS, 2)
        mask = self.mask(rows).reshape(-1, h * w, heads, POINTS).softmax(-1).transpose(1, 2)
        samples = F.grid_sample(
            value.reshape(-1, value.shape[1] // heads, h, w), grid, align_corners=False
        )
        y: Tensor = (samples * mask.reshape(-1, 1, h * w, POINTS)).sum(-1)
        return y.reshape(value.shape)


class FineNeighbours(nn.Module):
    """The four pixels around every sample: where they stand, and their bilinear weights.

    In float32 in every precision; exporters know it by its name.
    """

    column: Tensor
    row: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        base = sampling_base(size)[:, None]
        self.register_buffer("column", base[..., 0].contiguous())
        self.register_buffer("row", base[..., 1].contiguous())

    def forward(self, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """offsets: N T heads 18, in pixels, the nine of x before those of y -> raster indices and
        weights, each N T heads 36, one corner after the other; outside the map, weights are 0."""
        h, w = self.size
        x, y = offsets[..., :POINTS] + self.column, offsets[..., POINTS:] + self.row
        left, top = x.floor(), y.floor()
        right_share, lower_share = x - left, y - top
        left_share, upper_share = 1 - right_share, 1 - lower_share
        columns = torch.cat((left, left + 1, left, left + 1), dim=-1)
        rows = torch.cat((top, top, top + 1, top + 1), dim=-1)
        weights = torch.cat((left_share, right_share, left_share, right_share), dim=-1) * torch.cat(
            (upper_share, upper_share, lower_share, lower_share), dim=-1
        )
        inside = (columns >= 0) & (columns <= w - 1) & (rows >= 0) & (rows <= h - 1)
        index = rows.clamp(0, h - 1) * w + columns.clamp(0, w - 1)
        return index.to(torch.int64), torch.where(inside, weights, torch.zeros_like(weights))


class NeighbourSampling(nn.Module):
    """Offsets, mask and weighted samples as one sum over 36 gathered rows."""

    def __init__(self, attn: DeformableConv, size: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.tokens = attn.heads, size[0] * size[1]
        offsets, mask = attn.sampling_offsets, attn.attention_weights
        # One product for all: of every head, nine of x, nine of y, nine of the mask.
        grouped = [
            torch.cat((of_x_y[:, :, 0], of_x_y[:, :, 1], of_mask), dim=1).flatten(0, 1)
            for of_x_y, of_mask in (
                (
                    offsets.weight.reshape(self.heads, POINTS, 2, -1),
                    mask.weight.reshape(self.heads, POINTS, -1),
                ),
                (
                    offsets.bias.reshape(self.heads, POINTS, 2, 1),
                    mask.bias.reshape(self.heads, POINTS, 1),
                ),
            )
        ]
        self.points = linear(grouped[0], grouped[1][:, 0])
        self.neighbours = FineNeighbours(size)
        self.register_buffer("head", torch.arange(self.heads)[:, None])

    def forward(self, tokens: Tensor, value: Tensor) -> Tensor:
        """tokens: (N T) C, what offsets and mask are made of; value: (N T) C -> (N T) C."""
        points = self.points(tokens).reshape(-1, self.tokens, self.heads, 3 * POINTS)
        index, weights = self.neighbours(points[..., : 2 * POINTS])
        mask = points[..., 2 * POINTS :].softmax(-1)
        image = torch.arange(points.shape[0], device=index.device) * self.tokens
        rows = (index + image.reshape(-1, 1, 1, 1)) * self.heads + self.head
        gathered = value.reshape(-1, value.shape[1] // self.heads).index_select(0, rows.flatten())
        gathered = gathered.reshape(*rows.shape, -1)
        y = (gathered * (weights * torch.cat([mask] * 4, dim=-1))[..., None]).sum(-2)
        mixed: Tensor = y.reshape(value.shape)
        return mixed


class LoweredDcnBlock(TokenBlock):
    """`DcnBlock` on tokens in raster order; (N T) C in and out."""

    def __init__(
        self, block: DcnBlock | DetectionDcnBlock, size: tuple[int, int], style: Style
    ) -> None:
        super().__init__(size, style)
        attn = block.attn
        self.norm = block.norm1
        self.dwconv, norm, self.act = attn.dw_conv
        assert isinstance(norm, ChannelNorm)
        self.dw_norm = norm.norm
        self.sample, self.value = self.sampling_of(attn, size)
        self.proj = writer(attn.output_proj, block.layer_scales[0], style)
        self.mlp = TokenMlp.of(block, style)

    def sampling_of(
        self, attn: DeformableConv, size: tuple[int, int]
    ) -> tuple[nn.Module, nn.Module]:
        """What samples, and what makes the values that it reads."""
        sample = GridSampling(attn, size) if self.plain else DeformConvSampling(attn)
        return sample, as_conv(attn.value_proj)

    def mix(self, x: Tensor) -> Tensor:
        (h, w), c = self.size, x.shape[1]
        image = x.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        q = self.act(self.dw_norm(self.dwconv(image).permute(0, 2, 3, 1)))
        y = self.sample(q.reshape(-1, h * w, c), self.value(image))
        mixed: Tensor = self.proj(y.flatten(2).transpose(1, 2).reshape(x.shape))
        return mixed


class GpuDcnBlock(LoweredDcnBlock):
    """`DcnBlock` on tokens in raster order; (N T) C in and out."""

    def sampling_of(
        self, attn: DeformableConv, size: tuple[int, int]
    ) -> tuple[nn.Module, nn.Module]:
        return NeighbourSampling(attn, size), attn.value_proj

    def mix(self, x: Tensor) -> Tensor:
        (h, w), c = self.size, x.shape[1]
        image = x.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        q = self.act(self.dw_norm(self.dwconv(image).permute(0, 2, 3, 1)))
        mixed: Tensor = self.proj(self.sample(q.reshape(x.shape), self.value(x)))
        return mixed
