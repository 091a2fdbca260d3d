"""The parts of every lowered block: tokens in two dimensions, and folded weights.

Tokens are (N T) C, the T positions of an image in an order of the block's choosing. Two
dimensions, because runtimes fuse the bias of a matrix product only there. In the form ``gpu``,
blocks with several heads keep tokens as (P N W) C: place by place of a window, then image by image,
then window by window, so that the windows of all images and the heads in them are one dimension.

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
from stmdeploy.spec.export import GPU, TOKENS
from stmdeploy.spec.model import CLASSIFICATION

#: Added to masked logits on processors. The weight of one is 4e-31 of what it would be: float32
#: sees it only where a masked logit is larger than all others by 50. With the -100 of Swin's
#: authors weights are denormal (4e-44), and in ONNX Runtime with any lower number too, whose
#: exponential stops at exp(-88.4); processors are so slow at denormals that attention took up to
#: three times as long.
MASKED = -70.0


@dataclass(frozen=True)
class Style:
    """How a lowered backbone is written.

    Attributes:
        plain: whether operators that some runtimes lack are written out.
        gpu: whether it is made for GPUs: whole LayerNorms, tokens as a fused attention wants them.
        centred: whether the residual stream has no mean over its channels. In classification all
            that reads it is a LayerNorm, which takes the mean off anyway; in detection the next
            downsampling reads it as it is.
        folded: whether the products that read a norm have their bias in their weights.
    """

    plain: bool
    gpu: bool
    centred: bool
    folded: bool

    @classmethod
    def of(cls, form: str, task: str) -> Style:
        """The style of one of `spec.export.LOWERINGS`, for one of `spec.model.TASKS`."""
        gpu, plain = form == GPU, form != TOKENS
        # ONNX Runtime's products without a bias are faster, and its norms without a mean; TensorRT
        # makes one product of several that read the same, if they have no bias.
        folded = gpu or not plain
        return cls(plain, gpu, centred=not gpu and task == CLASSIFICATION, folded=folded)

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
        places, _, windows, _ = self.mask.shape
        return (y.reshape(places, -1, windows, x.shape[1]) * self.mask).reshape(x.shape)


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
    """A block on tokens; (P N W) C in and out, as `order` says.

    Attributes:
        size: (height, width) of its map, with the zeros that fill its last windows.
        order: (P, W), the raster index of every token, as the block wants them: (P N W) C. Where
            P is 1, that is (N T) C.
        plain: whether operators that some runtimes lack are written out.
        heads: how many heads its attention has, if it has one.
    """

    norm: nn.Module
    mlp: nn.Module
    heads: int

    def __init__(self, size: tuple[int, int], style: Style) -> None:
        super().__init__()
        self.size, self.plain = size, style.plain
        self.order = raster_order(size)

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
    """(P, 1, W, 1): 1 for tokens of a map, 0 for those that fill it up to `whole`; None if none do.

    Args:
        order: (P, W), the raster index of every token in the map that is filled up.
    """
    if size == whole:
        return None
    inside = (order // whole[1] < size[0]) & (order % whole[1] < size[1])
    return inside[:, None, :, None].to(torch.get_default_dtype())


def raster_order(size: tuple[int, int]) -> Tensor:
    """(1, H W): every token where it stands in the map."""
    return torch.arange(size[0] * size[1])[None]


def by_place(order: Tensor, places: int) -> Tensor:
    """(places, W): an order window by window, (1, W places), place by place."""
    return order.reshape(-1, places).t().contiguous()


class Reordering(nn.Module):
    """Tokens from one order to another, as one gather of whole rows; nothing if they are the same.

    Args:
        at: (P, W), the order that they have, a permutation.
        wanted: (P', W'), the raster indices wanted, each any number of times.
    """

    place: Tensor
    window: Tensor

    def __init__(self, at: Tensor, wanted: Tensor) -> None:
        super().__init__()
        self.tokens, self.windows = at.numel(), at.shape[1]
        self.flat = len(at) == len(wanted) == 1
        self.same = at.shape == wanted.shape and torch.equal(at, wanted)
        source = at.reshape(-1).argsort()[wanted]
        self.register_buffer("window", source % self.windows)
        self.register_buffer("place", source // self.windows * self.windows)

    def forward(self, x: Tensor) -> Tensor:
        """(P N W) C -> (P' N W') C."""
        if self.same:
            return x
        if self.flat:
            rows = x.reshape(-1, self.tokens, x.shape[1]).index_select(1, self.window[0])
            return rows.reshape(-1, x.shape[1])
        images = x.shape[0] // self.tokens
        image = torch.arange(images, device=x.device)[:, None] * self.windows
        rows = self.place[:, None] * images + image + self.window[:, None]
        return x.index_select(0, rows.reshape(-1))


def attention_by_place(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """softmax(q k^T + bias) v for every head, unscaled, of tokens place by place.

    Args:
        q: L B C, for B windows of L places.
        k: S B C; v: S B C'.
        bias: added to the logits, broadcast to B heads L S; None for none.

    Returns:
        L B C'.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).permute(1, 2, 0, 3) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2)
    weights = (logits if bias is None else bias + logits).softmax(dim=-1)
    return (weights @ v).permute(2, 0, 1, 3).flatten(2)
