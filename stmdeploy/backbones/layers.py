"""Layers that backbones share: channel LayerNorm, mlp, stems and downsampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def to_channels_last(x: Tensor) -> Tensor:
    """N C H W -> N H W C (a view)."""
    return x.permute(0, 2, 3, 1)


def to_channels_first(x: Tensor) -> Tensor:
    """N H W C -> N C H W (a view)."""
    return x.permute(0, 3, 1, 2)


def pad_to_multiple(x: Tensor, step: int) -> Tensor:
    """N H W C with zeros to the right and below, until both sides are multiples of `step`.

    Written with whole steps, not remainders, so that a tracer of any size sees that they fit.
    """
    h, w = x.shape[1:3]
    right, below = ((side + step - 1) // step * step - side for side in (w, h))
    return F.pad(x, (0, 0, 0, right, 0, below))


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of an N C H W tensor.

    Its output is laid out as its shape says, as the authors' is: oneDNN convolves that more exactly
    than channels that come last in memory.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        y = F.layer_norm(
            to_channels_last(x), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return to_channels_first(y).contiguous()


class DepthwiseConv(nn.Module):
    """The 3x3 depth-wise convolution inside the pvt_v2 mlp; N H W C in and out."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return to_channels_last(self.dwconv(to_channels_first(x)))


class Mlp(nn.Sequential):
    """Linear -> (depth-wise 3x3) -> GELU -> Linear on N H W C."""

    def __init__(self, channels: int, hidden: int, depthwise: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden) if depthwise else nn.Identity()
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)


class ConvStem(nn.Sequential):
    """The unified stem: two 3x3 convolutions of stride 2, 3 -> C/2 -> C channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, stride=2, padding=1),
            LayerNorm2d(channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            LayerNorm2d(channels),
        )


class ConvDownsample(nn.Sequential):
    """The unified downsampling: a 3x3 convolution of stride 2, then LayerNorm."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.reduction = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
            LayerNorm2d(channels_out),
        )


class PatchEmbed(nn.Sequential):
    """A strided convolution, then LayerNorm: stems of the originals, downsampling of pvt_v2."""

    def __init__(
        self, channels_in: int, channels_out: int, kernel: int, stride: int, padding: int
    ) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels_in, channels_out, kernel, stride=stride, padding=padding)
        self.norm = LayerNorm2d(channels_out)


class PatchMerging(nn.Module):
    """The downsampling of the original Swin: 2x2 pixels concatenated, LayerNorm, Linear.

    The four pixels of a patch come in the order (row, column) = (0,0) (1,0) (0,1) (1,1).
    """

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels_in)
        self.reduction = nn.Linear(4 * channels_in, channels_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = to_channels_last(x)
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return to_channels_first(self.reduction(self.norm(torch.cat(corners, dim=-1))))
