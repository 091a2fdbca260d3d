"""The spatial token mixers, one file each: the block that holds the mixer and its mlp.

Every block maps N C H W to N C H W and is built by the same call, ``Block(BlockGeometry)``; the
catalogue names the block of every family.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import nn

from stmdeploy.backbones.mixers.block import BlockGeometry

#: Builds the block of a place.
BlockOf = Callable[[BlockGeometry], nn.Module]


def block_of(named: str) -> BlockOf:
    """The class of a backbone's blocks, which the catalogue names as MODULE:CLASS."""
    made: BlockOf = named_class(__name__, named)
    return made


def named_class(package: str, named: str) -> Any:
    """The class that the catalogue names as MODULE:CLASS, in a package of the backbones."""
    module, _, name = named.partition(":")
    return getattr(import_module(f"{package}.{module}"), name)
