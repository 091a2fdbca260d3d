"""What every lowered block is made of: tokens in two dimensions, and folded weights.

Tokens are (N T) C, the T positions of an image in an order of the block's choosing. Two
dimensions, because runtimes fuse the bias of a matrix product only there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmdeploy.backbones.layers import Mlp


def linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A Linear layer with the given values (out x in, out), in their dtype."""
    layer = nn.Linear(1, 1, bias=False)
    layer.out_features, layer.in_features = weight.shape
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def as_conv(layer: nn.Linear) -> nn.Conv2d:
    """A Linear layer as a 1x1 convolution."""
    conv = nn.Conv2d(1, 1, 1)
    conv.out_channels, conv.in_channels = layer.weight.shape
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


def row_norm(norm: nn.LayerNorm) -> nn.LayerNorm:
    """A LayerNorm over the last dimension, with the values of one over any."""
    layer = nn.LayerNorm(norm.normalized_shape, eps=norm.eps)
    layer.weight, layer.bias = norm.weight, norm.bias
    return layer


class CentredNorm(nn.Module):
    """LayerNorm of rows whose mean is zero, less its bias, which `after` folds away.

    Written as runtimes recognise it: a division by a root, then a scale.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


class TokenMlp(nn.Module):
    """LayerNorm, Linear, GELU, Linear with the layer scale in it; (N T) C in and out."""

    def __init__(
        self, norm: nn.LayerNorm, first: nn.Linear, last: nn.Linear, gamma: Tensor
    ) -> None:
        super().__init__()
        self.norm = CentredNorm(norm)
        self.first = after(norm, first.weight, first.bias)
        self.act = nn.GELU()
        self.last = writer(last, gamma)

    @classmethod
    def of(cls, norm: nn.LayerNorm, mlp: Mlp, gamma: Tensor) -> TokenMlp:
        """From the reference mlp."""
        return cls(norm, mlp.fc1, mlp.fc2, gamma)

    def forward(self, x: Tensor) -> Tensor:
        # A third dimension keeps ONNX Runtime from pulling the bias into the product: it
        # adds it for free inside the GELU.
        hidden = self.act(self.first(self.norm(x).unsqueeze(0)))
        y: Tensor = self.last(hidden.squeeze(0))
        return y


def inverse(order: Tensor) -> Tensor:
    """The permutation that undoes `order`."""
    undone = torch.empty_like(order)
    undone[order] = torch.arange(len(order))
    return undone
