"""A backbone whose stages run on tokens; exact, and only for inference."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stmdeploy.backbones.mixers.convnext import ConvNeXtBlock
from stmdeploy.backbones.mixers.dcn import DcnBlock
from stmdeploy.backbones.mixers.halo import HaloBlock
from stmdeploy.backbones.mixers.spatial_reduction import PvtV2Block
from stmdeploy.backbones.mixers.swin import SwinBlock
from stmdeploy.backbones.network import Backbone
from stmdeploy.backbones.sizes import STRIDES
from stmdeploy.lowering.convnext import LoweredConvNeXtBlock
from stmdeploy.lowering.dcn import LoweredDcnBlock
from stmdeploy.lowering.entry import lowered_entry
from stmdeploy.lowering.halo import LoweredHaloBlock, block_order
from stmdeploy.lowering.spatial_reduction import LoweredPvtBlock
from stmdeploy.lowering.swin import LoweredSwinBlock
from stmdeploy.lowering.tokens import CentredNorm, inverse


def _lowered(block: nn.Module, size: tuple[int, int], *, plain: bool) -> tuple[nn.Module, Tensor]:
    """A block on tokens, and the order it wants them in."""
    raster = torch.arange(size[0] * size[1])
    if isinstance(block, HaloBlock):
        return LoweredHaloBlock(block, size, plain=plain), block_order(size)
    if isinstance(block, SwinBlock):
        lowered = LoweredSwinBlock(block, plain=plain)
        return lowered, lowered.order
    if isinstance(block, PvtV2Block):
        return LoweredPvtBlock(block, size, plain=plain), raster
    if isinstance(block, ConvNeXtBlock):
        return LoweredConvNeXtBlock(block, size, plain=plain), raster
    if isinstance(block, DcnBlock):
        return LoweredDcnBlock(block, size, plain=plain), raster
    raise TypeError(f"no lowering of {type(block).__name__}")


class LoweredStage(nn.Module):
    """N C H W to N C H W, with tokens in between, reordered only where a block wants it."""

    def __init__(
        self, blocks: nn.Module, norm: nn.Module, size: tuple[int, int], *, plain: bool
    ) -> None:
        super().__init__()
        self.size = size
        assert isinstance(norm, nn.LayerNorm)
        self.norm, self.norm_bias = CentredNorm(norm, plain=plain), norm.bias
        self.blocks = nn.ModuleList()
        at = raster = torch.arange(size[0] * size[1])
        for index, block in enumerate(blocks.children()):
            lowered, order = _lowered(block, size, plain=plain)
            self._reorder(index, at, order)
            self.blocks.append(lowered)
            at = order
        self._reorder(len(self.blocks), at, raster)

    def _reorder(self, index: int, at: Tensor, to: Tensor) -> None:
        change = None if torch.equal(at, to) else inverse(at)[to]
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
            lowered_entry(layer, plain=plain) for layer in reference.downsample_layers
        )
        self.stages = nn.ModuleList(
            LoweredStage(
                blocks,
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
