"""Backbones whose stages run on tokens; exact, and only for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from stmdeploy.backbones.catalogue import STRIDES, BackboneConfig
from stmdeploy.backbones.layers import ConvDownsample, ConvStem, PatchEmbed
from stmdeploy.backbones.lowering.tokens import (
    CentredNorm,
    Reordering,
    StreamNorm,
    Style,
    TokenBlock,
    linear,
    raster_order,
)
from stmdeploy.backbones.mixers import named_class
from stmdeploy.backbones.neck import BackboneWithNeck
from stmdeploy.backbones.network import Backbone, DetectionBackbone
from stmdeploy.spec.model import CLASSIFICATION, DETECTION


def _conv_and_norm(
    conv: nn.Conv2d, norm: nn.LayerNorm, style: Style
) -> tuple[nn.Conv2d, nn.Module]:
    """A convolution and the norm, less its bias, that reads it. But for GPUs, the convolution's
    outputs have no mean over the channels, so that the norm has none to take off."""
    if style.gpu:
        return conv, StreamNorm(norm)
    conv.weight -= conv.weight.mean(0)
    if conv.bias is not None:
        conv.bias -= conv.bias.mean()
    return conv, CentredNorm(norm, plain=style.plain)


class Entry(nn.Module):
    """Convolution and LayerNorm; N C H W to tokens (N T) C in raster order.

    Where the stream is centred, the bias of the norm and the centring of its output are one product
    with a constant.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.LayerNorm, style: Style) -> None:
        super().__init__()
        self.conv, self.norm = _conv_and_norm(conv, norm, style)
        self.bias, self.centre = norm.bias, None
        if style.centred:
            channels = norm.weight.shape[0]
            centring = torch.eye(channels, dtype=norm.weight.dtype) - 1 / channels
            self.centre = linear(centring, norm.bias - norm.bias.mean())

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).permute(0, 2, 3, 1)
        tokens: Tensor = self.norm(rows.reshape(-1, rows.shape[-1]))
        return tokens + self.bias if self.centre is None else self.centre(tokens)


class MapNorm(nn.Module):
    """LayerNorm over the channels of a map, which have no mean; N C H W in and out.

    ONNX Runtime's own LayerNormalization takes one row at a time, which is slow where rows are
    short; over maps the same takes half as long, and nothing has to be transposed for it.
    """

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        y = x / torch.sqrt(length * length / x.shape[1] + self.eps)
        weight, bias = (of_channel[:, None, None] for of_channel in (self.weight, self.bias))
        return y * weight + bias


class StemEntry(nn.Module):
    """The unified stem: convolution, LayerNorm and GELU before the `Entry`."""

    def __init__(self, stem: ConvStem, style: Style) -> None:
        super().__init__()
        conv, norm, self.act, last_conv, last_norm = stem.stem
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.LayerNorm)
        assert isinstance(last_conv, nn.Conv2d) and isinstance(last_norm, nn.LayerNorm)
        self.conv, self.norm = _conv_and_norm(conv, norm, style)
        self.bias, self.over_maps = norm.bias, not style.plain
        if self.over_maps:
            self.norm = MapNorm(norm)
        self.entry = Entry(last_conv, last_norm, style)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        if self.over_maps:
            maps = self.act(self.norm(maps))
        else:
            rows = self.norm(maps.permute(0, 2, 3, 1)) + self.bias
            maps = self.act(rows).permute(0, 3, 1, 2)
        tokens: Tensor = self.entry(maps)
        return tokens


def _lowered_entry(layer: nn.Module, style: Style) -> nn.Module:
    """The lowered form of a stem or a downsampling."""
    if isinstance(layer, ConvStem):
        return StemEntry(layer, style)
    if isinstance(layer, ConvDownsample):
        conv, norm = layer.reduction
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.LayerNorm)
        return Entry(conv, norm, style)
    if isinstance(layer, PatchEmbed):
        return Entry(layer.proj, layer.norm, style)
    raise TypeError(f"no lowering of {type(layer).__name__}")


#: Makes a block on tokens of a block, the size of its map, and the style.
LowerBlock = Callable[[nn.Module, tuple[int, int], Style], TokenBlock]


def lowered_block_of(config: BackboneConfig, style: Style) -> LowerBlock:
    """The class of a backbone's blocks on tokens, which it must have."""
    assert config.lowered is not None
    named = config.lowered_for_gpu if style.gpu and config.lowered_for_gpu else config.lowered
    made: LowerBlock = named_class("stmdeploy.backbones.lowering", named)
    return made


class LoweredStage(nn.Module):
    """Tokens through the blocks of a stage, reordered only where a block wants it."""

    def __init__(
        self,
        blocks: nn.Module,
        lower_block: LowerBlock,
        norm: nn.Module,
        size: tuple[int, int],
        style: Style,
    ) -> None:
        super().__init__()
        self.size = size
        assert isinstance(norm, nn.LayerNorm)
        self.norm, self.norm_bias = style.norm(norm), norm.bias
        lowered = [lower_block(block, size, style) for block in blocks.children()]
        whole = next((block.size for block in lowered), size)
        # Where in the map that is filled up every token stands, and the reverse: those that fill it
        # come from any token, and go nowhere.
        row, column = torch.arange(whole[0])[:, None], torch.arange(whole[1])
        come = row.clamp(max=size[0] - 1) * size[1] + column.clamp(max=size[1] - 1)
        go = (row * whole[1] + column)[: size[0], : size[1]].reshape(1, -1)
        self.blocks, self.orders = nn.ModuleList(lowered), nn.ModuleList()
        at = None
        for block in lowered:
            come_from = raster_order(size) if at is None else at
            wanted = come.reshape(-1)[block.order] if at is None else block.order
            self.orders.append(Reordering(come_from, wanted))
            at = block.order
        self.last = Reordering(raster_order(size) if at is None else at, go)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens: (N T) C in raster order -> the map as it is, and behind its norm; N C H W."""
        for order, block in zip(self.orders, self.blocks, strict=True):
            tokens = block(order(tokens))
        tokens = self.last(tokens)
        return self._map(tokens), self._map(self.norm(tokens) + self.norm_bias)

    def _map(self, tokens: Tensor) -> Tensor:
        return tokens.reshape(-1, *self.size, tokens.shape[1]).permute(0, 3, 1, 2)


def _stages(
    reference: Backbone | DetectionBackbone,
    norms: Iterable[nn.Module],
    image_size: tuple[int, int],
    style: Style,
) -> nn.ModuleList:
    lower_block = lowered_block_of(reference.config, style)
    sizes = ((image_size[0] // stride, image_size[1] // stride) for stride in STRIDES)
    return nn.ModuleList(
        LoweredStage(blocks, lower_block, norm, size, style)
        for blocks, norm, size in zip(reference.stages, norms, sizes, strict=True)
    )


def _entries(reference: Backbone | DetectionBackbone, style: Style) -> nn.ModuleList:
    return nn.ModuleList(_lowered_entry(layer, style) for layer in reference.downsample_layers)


class LoweredBackbone(nn.Module):
    """The same function as a `Backbone`: N 3 H W to logits."""

    def __init__(self, reference: Backbone, form: str) -> None:
        super().__init__()
        reference, style = copy.deepcopy(reference), Style.of(form, CLASSIFICATION)
        self.entries = _entries(reference, style)
        self.stages = _stages(reference, reference.stage_norms, reference.image_size, style)
        self.conv_head, self.head = reference.conv_head, reference.head

    def forward(self, x: Tensor) -> Tensor:
        """x: N 3 H W -> logits, N classes."""
        for entry, stage in zip(self.entries, self.stages, strict=True):
            _, x = stage(entry(x))
        logits: Tensor = self.head(self.conv_head(x).mean(dim=(2, 3)))
        return logits


class LoweredDetectionBackbone(nn.Module):
    """The same function as a `DetectionBackbone` at one image size: N 3 H W to four maps."""

    def __init__(
        self, reference: DetectionBackbone, image_size: tuple[int, int], form: str
    ) -> None:
        super().__init__()
        reference, style = copy.deepcopy(reference), Style.of(form, DETECTION)
        self.entries = _entries(reference, style)
        self.stages = _stages(reference, reference.out_norms, image_size, style)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: N 3 H W -> maps at strides 4 to 32, behind their norms."""
        maps = []
        for entry, stage in zip(self.entries, self.stages, strict=True):
            x, normalised = stage(entry(x))
            maps.append(normalised)
        return maps


def lowered(module: nn.Module, image_size: tuple[int, int], form: str) -> nn.Module:
    """A backbone on tokens; with its neck, if it has one, as it is."""
    if isinstance(module, Backbone):
        return LoweredBackbone(module, form)
    if isinstance(module, BackboneWithNeck):
        backbone = lowered(module.backbone, image_size, form)
        return BackboneWithNeck(backbone, copy.deepcopy(module.neck))
    assert isinstance(module, DetectionBackbone)
    return LoweredDetectionBackbone(module, image_size, form)
