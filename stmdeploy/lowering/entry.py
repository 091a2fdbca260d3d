"""Where an image becomes tokens: convolution and LayerNorm, centred for what follows."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmdeploy.backbones.layers import ConvDownsample, ConvStem, PatchEmbed
from stmdeploy.lowering.tokens import CentredNorm, linear


def centred_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution with the mean over its output channels taken off."""
    with torch.no_grad():
        conv.weight -= conv.weight.mean(0)
        if conv.bias is not None:
            conv.bias -= conv.bias.mean()
    return conv


class Entry(nn.Module):
    """Convolution and LayerNorm; N C H W to centred tokens (N T) C in raster order.

    The bias of the norm and the centring of its output are one product with a constant.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.LayerNorm, *, plain: bool) -> None:
        super().__init__()
        self.conv = centred_conv(conv)
        self.norm = CentredNorm(norm, plain=plain)
        channels = norm.weight.shape[0]
        centring = torch.eye(channels, dtype=norm.weight.dtype) - 1 / channels
        self.centre = linear(centring, norm.bias - norm.bias.mean())

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).permute(0, 2, 3, 1)
        tokens: Tensor = self.centre(self.norm(rows.reshape(-1, rows.shape[-1])))
        return tokens


class StemEntry(nn.Module):
    """The unified stem: convolution, LayerNorm and GELU before the `Entry`."""

    def __init__(self, stem: ConvStem, *, plain: bool) -> None:
        super().__init__()
        conv, norm, self.act, last_conv, last_norm = stem.stem
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.LayerNorm)
        assert isinstance(last_conv, nn.Conv2d) and isinstance(last_norm, nn.LayerNorm)
        self.conv = centred_conv(conv)
        self.norm = CentredNorm(norm, plain=plain)
        self.bias = norm.bias
        self.entry = Entry(last_conv, last_norm, plain=plain)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.conv(x).permute(0, 2, 3, 1)) + self.bias
        tokens: Tensor = self.entry(self.act(rows).permute(0, 3, 1, 2))
        return tokens


def lowered_entry(layer: nn.Module, *, plain: bool) -> nn.Module:
    """The lowered form of a stem or a downsampling."""
    if isinstance(layer, ConvStem):
        return StemEntry(layer, plain=plain)
    if isinstance(layer, ConvDownsample):
        conv, norm = layer.reduction
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.LayerNorm)
        return Entry(conv, norm, plain=plain)
    if isinstance(layer, PatchEmbed):
        return Entry(layer.proj, layer.norm, plain=plain)
    raise TypeError(f"no lowering of {type(layer).__name__}")
