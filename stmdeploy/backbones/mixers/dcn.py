"""Deformable convolution v3: nine learned sampling points per pixel and head.

Plain PyTorch (`grid_sample`), so that no compiler or CUDA build is needed. The sampled map
ends in zeros whichever way it is padded, so the authors' ring of zeros is left out.

Positions and samples are computed in float32 at least. Near pixel 56 the steps of float16 are a
thirty-second of a pixel and those of bfloat16 a quarter; and torch's `grid_sample` of either gives
values on the CPU that are not finite (pytorch/pytorch#127224, seen with 2.13).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.layers import to_channels_first, to_channels_last
from stmdeploy.backbones.mixers.block import BlockGeometry, ResidualBlock

KERNEL = 3
POINTS = KERNEL * KERNEL


class ChannelNorm(nn.Module):
    """LayerNorm of an N C H W map; its parameters sit under `norm`. Gives N H W C."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(to_channels_last(x))
        return y


def sampling_base(size: tuple[int, int], device: torch.device | None = None) -> Tensor:
    """(H W, 9, 2): the undeformed points (x, y) of every pixel, in pixels.

    Point 3a + b lies at (a - 1, b - 1): x is the slow index.
    """
    h, w = size
    axes = (torch.arange(side, device=device) for side in (h, w))
    y, x = torch.meshgrid(*axes, indexing="ij")
    pixel = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
    step = torch.arange(KERNEL, device=device) - KERNEL // 2
    kernel = torch.stack(torch.meshgrid(step, step, indexing="ij"), dim=-1).reshape(1, -1, 2)
    return (pixel + kernel).to(torch.get_default_dtype())


def sample_plainly(value: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
    """The weighted sum of nine bilinear samples around every pixel.

    Args:
        value: N H W C.
        offsets: N (H W) heads 9 2, in pixels, x before y.
        logits: N (H W) heads 9; the weights are their softmax over the nine.

    Returns:
        N H W C.
    """
    _, h, w, _ = value.shape
    return weighted_samples(
        value, offsets, logits, sampling_base((h, w), value.device),
        torch.tensor([w, h], device=value.device),
    )  # fmt: skip


def weighted_samples(
    value: Tensor, offsets: Tensor, logits: Tensor, base: Tensor, side: Tensor
) -> Tensor:
    """As `sample_plainly`, with ``base`` as `sampling_base` gives it, and width and height of the
    map as ``side``."""
    n, h, w, c = value.shape
    g = offsets.shape[2]
    exact = torch.promote_types(value.dtype, torch.float32)
    # Pixel p of an axis of s pixels lies at (2p + 1) / s - 1 on the grid's -1 .. 1.
    grid = (2 * (base + offsets.transpose(1, 2).to(exact)) + 1) / side - 1
    weights = logits.softmax(dim=-1)
    planes = value.reshape(n, h, w, g, c // g).permute(0, 3, 4, 1, 2).to(exact)
    planes, grid = planes.reshape(n * g, c // g, h, w), grid.reshape(n * g, h * w, POINTS, 2)
    samples = F.grid_sample(planes, grid, align_corners=False)
    weights = weights.transpose(1, 2).reshape(n * g, 1, h * w, POINTS)
    y = (samples * weights).sum(dim=-1).reshape(n, c, h, w).to(value.dtype)
    return to_channels_last(y)


class DeformableConv(nn.Module):
    """DCNv3, N H W C in and out; `heads` groups of channels with offsets of their own.

    Attributes:
        sampler: samples in one step where that is faster, see `lowering.dcn_kernel`; None for plain
            PyTorch. Of value N H W C, offsets N H W (heads 9 2), logits N H W (heads 9), and the
            number of heads, it makes N H W C.
    """

    base: Tensor
    side: Tensor
    sampler: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None

    def __init__(self, channels: int, heads: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.heads = heads
        self.dw_conv = nn.Sequential(
            nn.Conv2d(channels, channels, KERNEL, padding=KERNEL // 2, groups=channels),
            ChannelNorm(channels),
            nn.GELU(),
        )
        self.sampling_offsets = nn.Linear(channels, heads * POINTS * 2)
        self.attention_weights = nn.Linear(channels, heads * POINTS)
        self.value_proj = nn.Linear(channels, channels)
        self.output_proj = nn.Linear(channels, channels)
        if size is not None:
            # Integers, so that casting the module to another dtype leaves them exact.
            h, w = size
            self.register_buffer("base", sampling_base(size).int(), persistent=False)
            self.register_buffer("side", torch.tensor([w, h], dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.sample(x, self.base, self.side)

    def sample(self, x: Tensor, base: Tensor, side: Tensor) -> Tensor:
        """x: N H W C; base: as `sampling_base` gives it; side: width and height of the map."""
        n, h, w, _ = x.shape
        q = self.dw_conv(to_channels_first(x))
        offsets, logits = self.sampling_offsets(q), self.attention_weights(q)
        value = self.value_proj(x)
        if self.sampler is not None:
            y = self.sampler(value, offsets, logits, self.heads)
        else:
            offsets = offsets.reshape(n, h * w, self.heads, POINTS, 2)
            logits = logits.reshape(n, h * w, self.heads, POINTS)
            y = weighted_samples(value, offsets, logits, base, side)
        return self.output_proj(y)  # type: ignore[no-any-return]


class AnySizeDeformableConv(DeformableConv):
    """On maps of any size."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, None)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1], x.shape[2]
        side = torch.tensor([w, h], device=x.device)
        return self.sample(x, sampling_base((h, w), x.device), side)


class DcnBlock(ResidualBlock):
    """DCNv3, then mlp."""

    scales = ("gamma1", "gamma2")
    attn: DeformableConv

    def __init__(self, at: BlockGeometry) -> None:
        super().__init__(at, DeformableConv(at.channels, at.heads, at.size))


class DetectionDcnBlock(ResidualBlock):
    """The same on maps of any size."""

    scales = ("gamma1", "gamma2")
    attn: AnySizeDeformableConv

    def __init__(self, at: BlockGeometry) -> None:
        super().__init__(at, AnySizeDeformableConv(at.channels, at.heads))
