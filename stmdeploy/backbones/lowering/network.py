"""A backbone whose stages run on tokens; exact, and only for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stmdeploy.backbones.catalogue import STRIDES, BackboneConfig
from stmdeploy.backbones.layers import ConvDownsample, ConvStem, PatchEmbed
from stmdeploy.backbones.lowering.tokens import CentredNorm, TokenBlock, linear
from stmdeploy.backbones.mixers import named_class
from stmdeploy.backbones.network import Backbone


def _centred_conv(conv: nn.Conv2d) -> nn.Conv2d:
    """A convolution with the mean over its output channels taken off."""
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
        self.conv = _centred_conv(conv)
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
        self.conv = _centred_conv(conv)
        self.norm = CentredNorm(norm, plain=plain)
        self.bias = norm.bias
        self.entry = Entry(last_conv, last_norm, plain=plain)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.norm(self.conv(x).permute(0, 2, 3, 1)) + self.bias
        tokens: Tensor = self.entry(self.act(rows).permute(0, 3, 1, 2))
        return tokens


def _lowered_entry(layer: nn.Module, *, plain: bool) -> nn.Module:
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


#: Makes a block on tokens of a block, the size of its map, and `plain`.
LowerBlock = Callable[..., TokenBlock]


def lowered_block_of(config: BackboneConfig) -> LowerBlock:
    """The class of a backbone's blocks on tokens, which it must have."""
    assert config.lowered is not None
    made: LowerBlock = named_class("stmdeploy.backbones.lowering", config.lowered)
    return made


class LoweredStage(nn.Module):
    """N C H W to N C H W, with tokens in between, reordered only where a block wants it."""

    def __init__(
        self,
        blocks: nn.Module,
        lower_block: LowerBlock,
        norm: nn.Module,
        size: tuple[int, int],
        *,
        plain: bool,
    ) -> None:
        super().__init__()
        self.size = size
        assert isinstance(norm, nn.LayerNorm)
        self.norm, self.norm_bias = CentredNorm(norm, plain=plain), norm.bias
        self.blocks = nn.ModuleList()
        at = raster = torch.arange(size[0] * size[1])
        for index, block in enumerate(blocks.children()):
            lowered = lower_block(block, size, plain=plain)
            self._reorder(index, at, lowered.order)
            self.blocks.append(lowered)
            at = lowered.order
        self._reorder(len(self.blocks), at, raster)

    def _reorder(self, index: int, at: Tensor, to: Tensor) -> None:
        change = None if torch.equal(at, to) else at.argsort()[to]
        self.register_buffer(f"order{index}", change)

    def _ordered(self, index: int, x: Tensor) -> Tensor:
        order = getattr(self, f"order{index}")
        if order is None:
            return x
        return x.reshape(-1, len(order), x.shape[1]).index_select(1, order).reshape(x.shape)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (N T) C in raster order, centred -> N C H W, behind the stage norm."""
        for index, block in enumerate(self.blocks):
            tokens = block(self._ordered(index, tokens))
        tokens = self.norm(self._ordered(len(self.blocks), tokens)) + self.norm_bias
        return tokens.reshape(-1, *self.size, tokens.shape[1]).permute(0, 3, 1, 2)


class LoweredBackbone(nn.Module):
    """The same function as a `Backbone`: N 3 H W to logits."""

    def __init__(self, reference: Backbone, *, plain: bool) -> None:
        super().__init__()
        reference = copy.deepcopy(reference)
        self.entries = nn.ModuleList(
            _lowered_entry(layer, plain=plain) for layer in reference.downsample_layers
        )
        self.stages = nn.ModuleList(
            LoweredStage(
                blocks,
                lowered_block_of(reference.config),
                norm,
                (reference.image_size[0] // stride, reference.image_size[1] // stride),
                plain=plain,
            )
            for blocks, norm, stride in zip(
                reference.stages, reference.stage_norms, STRIDES, strict=True
            )
        )
        self.conv_head, self.head = reference.conv_head, reference.head

    def forward(self, x: Tensor) -> Tensor:
        """x: N 3 H W -> logits, N classes."""
        for entry, stage in zip(self.entries, self.stages, strict=True):
            x = stage(entry(x))
        logits: Tensor = self.head(self.conv_head(x).mean(dim=(2, 3)))
        return logits
