"""The parts of every lowered block: tokens in two dimensions, and folded weights.

Tokens are (N T) C, the T positions of an image in an order of the block's choosing. Two
dimensions, because runtimes fuse the bias of a matrix product only there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmdeploy.backbones.lowering.operators import (
    attention,
    plain_attention,
    plain_rms_norm,
    rms_norm,
)
from stmdeploy.backbones.mixers.block import ResidualBlock


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


def writer(layer: nn.Linear, gamma: Tensor) -> nn.Linear:
    """The last layer of a branch, with the layer scale folded in, its outputs centred.

    Centred: the mean over the channels is taken off. Every reader of the residual stream is
    a LayerNorm, which takes it off anyway, so the network stays the same function; and on a
    stream without mean, LayerNorm is a division by the root mean square (`CentredNorm`).
    """
    factors = gamma.reshape(-1)
    weight, bias = layer.weight * factors[:, None], layer.bias * factors
    return linear(weight - weight.mean(0), bias - bias.mean())


def after(norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear layer that reads a `CentredNorm`, with the bias of its LayerNorm folded in."""
    shift = weight @ norm.bias
    return linear(weight, shift if bias is None else bias + shift)


def reader(
    norm: nn.LayerNorm, weight: Tensor, bias: Tensor | None, *, plain: bool, rows: int = 1
) -> nn.Linear:
    """A Linear layer that reads a `BranchNorm`, with the affine part of its LayerNorm folded in.

    Unless plain, it has no bias, because products without one are faster: rows without mean do not
    see a constant added to a row of the weights, and the 1 in every channel sees nothing else.

    Args:
        weight: out x (rows C).
        rows: how many normalised rows its input holds side by side.
    """
    shift = weight @ norm.bias.repeat(rows)
    bias = shift if bias is None else bias + shift
    weight = weight * norm.weight.repeat(rows)
    if plain:
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


class BranchNorm(nn.Module):
    """What every `reader` reads: LayerNorm of rows whose mean is zero, less its affine part.

    Unless plain, 1 is added to every channel, from which `reader` makes its bias.
    """

    def __init__(self, norm: nn.LayerNorm, *, plain: bool) -> None:
        super().__init__()
        unit = nn.LayerNorm(norm.normalized_shape, eps=norm.eps, dtype=norm.weight.dtype)
        self.norm, self.plain = CentredNorm(unit, plain=plain), plain

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x)
        return y if self.plain else y + 1


class TokenMlp(nn.Sequential):
    """LayerNorm, Linear, GELU, Linear with the layer scale in it; (N T) C in and out."""

    def __init__(
        self, norm: nn.LayerNorm, first: nn.Linear, last: nn.Linear, gamma: Tensor, *, plain: bool
    ) -> None:
        super().__init__()
        self.norm = BranchNorm(norm, plain=plain)
        self.first = reader(norm, first.weight, first.bias, plain=plain)
        self.act = nn.GELU()
        self.last = writer(last, gamma)

    @classmethod
    def of(cls, block: ResidualBlock, *, plain: bool) -> TokenMlp:
        """The lowered mlp of a block."""
        return cls(block.norm2, block.mlp.fc1, block.mlp.fc2, block.layer_scales[1], plain=plain)


class TokenBlock(nn.Module):
    """A block on tokens; (N T) C in and out.

    Attributes:
        size: (height, width) of its map.
        order: (T), the raster index of every token, in the order that the block wants them in.
        plain: whether operators that some runtimes lack are written out.
        heads: how many heads its attention has, if it has one.
    """

    norm: nn.Module
    mlp: nn.Module
    heads: int

    def __init__(self, size: tuple[int, int], *, plain: bool) -> None:
        super().__init__()
        self.size, self.plain = size, plain
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
