"""The spatial token mixers, one file each: the block that holds the mixer and its mlp.

Every block maps N C H W to N C H W and is built by the same call,
``Block(BlockGeometry)``; `BLOCKS` is the table the network builder looks them up in.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from stmdeploy.backbones.mixers.convnext import ConvNeXtBlock
from stmdeploy.backbones.mixers.dcn import DcnBlock
from stmdeploy.backbones.mixers.geometry import BlockGeometry
from stmdeploy.backbones.mixers.halo import HaloBlock
from stmdeploy.backbones.mixers.spatial_reduction import PvtBlock, PvtV2Block
from stmdeploy.backbones.mixers.swin import SwinBlock

BLOCKS: dict[str, Callable[[BlockGeometry], nn.Module]] = {
    "halo": HaloBlock,
    "pvt": PvtBlock,
    "pvt_v2": PvtV2Block,
    "swin": SwinBlock,
    "convnext": ConvNeXtBlock,
    "dcn": DcnBlock,
}

__all__ = ["BLOCKS", "BlockGeometry"]
