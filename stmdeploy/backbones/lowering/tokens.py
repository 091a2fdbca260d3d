"""The parts of every lowered block: tokens in two dimensions, and folded weights.

Tokens are (N T) C, the T positions of an image in an order of the block's choosing. Two
dimensions, because runtimes fuse the bias of a matrix product only there.

Where a mixer fills its last windows with zeros, T counts those positions too. They hold whatever
comes of them: what a mixer reads is multiplied by 0 there (`BranchNorm`), and they are dropped at
the end of the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.lowering.operators import (
    attention,
    plain_attention,
    plain_rms_norm,
    rms_norm,
)
from stmdeploy.backbones.mixers.block import ResidualBlock


@dataclass(frozen=True)
class Style:
    """How a lowered backbone is written.

    Attributes:
        plain: whether operators that some runtimes lack are written out.
        centred: whether the residual stream has no mean over its channels. In classification all
            that reads it is a LayerNorm, which takes the mean off anyway; in detection the next
            downsampling reads it as it is.
        folded: whether the products that read a norm have their bias in their weights.
    """

    plain: bool
    centred: bool
    folded: bool

    @classmethod
    def of(cls, *, plain: bool, centred: bool) -> Style:
        """Folded unless plain, because products without a bias are faster."""
        return cls(plain, centred, folded=not plain)

    @property
    def with_folding(self) -> Style:
        """The same with biases folded: a product with zeros is then zero."""
        return replace(self, folded=True)

    def norm(self, norm: nn.LayerNorm) -> nn.Module:
        """A LayerNorm that reads the residual stream, less its bias."""
        return CentredNorm(norm, plain=self.plain) if self.centred else StreamNorm(norm)


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear layer with the given values (out x in, out), in their dtype."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def as_conv(layer: nn.Linear) -> nn.Conv2d:
    """A Linear layer as a 1x1 convolution."""
    conv = nn.Conv2d(layer.in_features, layer.out_features, 1, device="meta")
    conv.weight = nn.Parameter(layer.weight.detach()[:, :, None, None], requires_grad=False)
    conv.bias = nn.Parameter(layer.bias.detach(), requires_grad=False)
    return conv


def writer(layer: nn.Linear, gamma: Tensor, style: Style) -> nn.Linear:
    """The last layer of a branch, with the layer scale folded in, its outputs centred if the style
    says so.

    Centred: the mean over the channels is taken off. Every reader of the residual stream is
    a LayerNorm, which takes it off anyway, so the network stays the same function; and on a
    stream without mean, LayerNorm is a division by the root mean square (`CentredNorm`).
    """
    factors = gamma.reshape(-1)
    weight, bias = layer.weight * factors[:, None], layer.bias * factors
    if not style.centred:
        return linear(weight, bias)
    return linear(weight - weight.mean(0), bias - bias.mean())


def after(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear layer that reads a norm as `Style.norm` gives it, with the norm's bias folded in."""
    shift = weight @ norm.bias
    return linear(weight, shift if bias is None else bias + shift)


def reader(
    norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None, style: Style, rows: int = 1
) -> nn.Linear:
    """A Linear layer that reads a `BranchNorm`, with the affine part of its LayerNorm folded in.

    If folded, it has no bias: rows without mean do not see a constant added to a row of the
    weights, and the 1 in every channel sees nothing else.

    Args:
        weight: out x (rows C).
        rows: how many normalised rows its input holds side by side.
    """
    shift = weight @ norm.bias.repeat(rows)
    bias = shift if bias is None else bias + shift
    weight = weight * norm.weight.repeat(rows)
    if not style.folded:
        return linear(weight, bias)
    constant = (bias - weight.sum(1)) / weight.shape[1]
    return linear(weight + constant[:, None], None)


class CentredNorm(nn.Module):
    """LayerNorm of rows whose mean is zero, less its bias, which `after` folds away.

    Plain, it is written as runtimes recognise it: a division by a root, then a scale.
    """

    def __init__(self, norm: nn.LayerNorm, *, plain: bool) -> None:
        super().__init__()
        self.weight, self.eps, self.plain = norm.weight, norm.eps, plain

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = (plain_rms_norm if self.plain else rms_norm)(x, self.weight, self.eps)
        return y


class StreamNorm(nn.Module):
    """LayerNorm of any rows, less its bias, which `after` folds away."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, None, self.eps)


class BranchNorm(nn.Module):
    """What every `reader` reads: LayerNorm less its affine part.

    If folded, 1 is added to every channel, from which `reader` makes its bias. With a mask, rows
    that stand for nothing become zero, whatever is in them.
    """

    mask: Tensor | None

    def __init__(self, norm: nn.LayerNorm, style: Style, mask: Tensor | None = None) -> None:
        super().__init__()
        assert mask is None or style.folded
        unit = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, dtype=norm.weight.dtype)
        self.norm, self.folded = style.norm(unit), style.folded
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        y = y + 1 if self.folded else y
        if self.mask is None:
            return y
        return (y.reshape(-1, len(self.mask), x.shape[1]) * self.mask).reshape(x.shape)


class TokenMlp(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear with the layer scale in it; (N T) C in and out."""

    def __init__(
        self, norm: nn.LayerNorm, first: nn.Linear, last: nn.Linear, gamma: Tensor, style: Style
    ) -> None:
        super().__init__()
        self.norm = BranchNorm(norm, style)
        self.first = reader(norm, first.weight, first.bias, style)
        self.act = nn.GELU()
        self.last = writer(last, gamma, style)

    @classmethod
    def of(cls, block: ResidualBlock, style: Style) -> TokenMlp:
        """The lowered mlp of a block."""
        return cls(block.norm2, block.mlp.fc1, block.mlp.fc2, block.layer_scales[1], style)


class TokenBlock(nn.Module):
    """A block on tokens; (N T) C in and out.

    Attributes:
        size: (height, width) of its map, with the zeros that fill its last windows.
        order: (T), the raster index of every token, in the order that the block wants them in.
        plain: whether operators that some runtimes lack are written out.
        heads: how many heads its attention has, if it has one.
    """

    norm: nn.Module
    mlp: nn.Module
    heads: int

    def __init__(self, size: tuple[int, int], style: Style) -> None:
        super().__init__()
        self.size, self.plain = size, style.plain
        self.order = torch.arange(size[0] * size[1])

    def mix(self, x: Tensor) -> Tensor:
        """The mixer and its layer scale, applied to what `norm` gives; (N T) C in and out."""
        raise NotImplementedError

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """`operators.attention`; if plain, made of transpositions and products."""
        y: Tensor = (plain_attention if self.plain else attention)(q, k, v, bias, self.heads)
        return y

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mix(self.norm(x))
        y: Tensor = x + self.mlp(x)
        return y


def filled(size: tuple[int, int], step: int) -> tuple[int, int]:
    """A size whose sides are the next multiples of `step`."""
    height, width = (-(-side // step) * step for side in size)
    return height, width


def real_tokens(size: tuple[int, int], whole: tuple[int, int], order: Tensor) -> Tensor | None:
    """(T, 1): 1 for tokens of a map, 0 for those that fill it up to `whole`; None if none do.

    Args:
        order: (T), the raster index of every token in the map that is filled up.
    """
    if size == whole:
        return None
    inside = (order // whole[1] < size[0]) & (order % whole[1] < size[1])
    return inside[:, None].to(torch.get_default_dtype())
