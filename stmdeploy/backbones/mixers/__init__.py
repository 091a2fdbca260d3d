"""The spatial token mixers, one file each: the block that holds the mixer and its mlp.

Every block maps N C H W to N C H W and is built by the same call, ``Block(BlockGeometry)``; the
catalogue names the block of every family.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from torch import nn

from stmdeploy.backbones.catalogue import BackboneConfig
from stmdeploy.backbones.mixers.block import BlockGeometry


def block_of(config: BackboneConfig) -> Callable[[BlockGeometry], nn.Module]:
    """The class of a backbone's blocks."""
    module, _, name = config.block.partition(":")
    made: Callable[[BlockGeometry], nn.Module] = getattr(
        import_module(f"{__name__}.{module}"), name
    )
    return made
