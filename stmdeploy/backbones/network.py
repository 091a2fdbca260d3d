"""The unified architecture around the mixers, and the original Swin and PVTv2 beside it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from stmdeploy.backbones.catalogue import (
    STRIDES,
    BackboneConfig,
    check_image_size,
    check_model,
)
from stmdeploy.backbones.layers import (
    ConvDownsample,
    ConvStem,
    LayerNorm2d,
    PatchEmbed,
    PatchMerging,
)
from stmdeploy.backbones.mixers import BlockOf, block_of
from stmdeploy.backbones.mixers.block import BlockGeometry
from stmdeploy.spec.model import DETECTION

INITIAL_STD = 0.02
#: The image size that the tables of detection backbones are made for, whatever they are given.
TABLE_SIZE = (224, 224)


def _downsample_layers(config: BackboneConfig) -> nn.ModuleList:
    dims = config.dims
    pairs = list(pairwise(dims))
    if config.layout == "swin":
        stem = PatchEmbed(3, dims[0], kernel=4, stride=4, padding=0)
        return nn.ModuleList([stem, *(PatchMerging(i, o) for i, o in pairs)])
    if config.layout == "pvt_v2":
        stem = PatchEmbed(3, dims[0], kernel=7, stride=4, padding=3)
        return nn.ModuleList([stem, *(PatchEmbed(i, o, 3, 2, 1) for i, o in pairs)])
    return nn.ModuleList([ConvStem(dims[0]), *(ConvDownsample(i, o) for i, o in pairs)])


def _stage(
    config: BackboneConfig, stage: int, image_size: tuple[int, int], block: BlockOf
) -> nn.Sequential:
    height, width = (side // STRIDES[stage] for side in image_size)
    first = BlockGeometry(
        channels=config.dims[stage],
        heads=config.heads[stage],
        mlp_ratio=config.mlp_ratios[stage],
        stage=stage,
        index=0,
        size=(height, width),
    )
    places = (replace(first, index=index) for index in range(config.depths[stage]))
    return nn.Sequential(*map(block, places))


class Backbone(nn.Module):
    """A classification backbone; its state_dict keys are the official ones.

    Attributes:
        config: which backbone.
        image_size: (height, width) in pixels; masks and position embeddings are made for it.
        num_classes: outputs of the head.

    Args:
        block: what the stages are made of, if not the catalogue's usual block.
    """

    def __init__(
        self,
        config: BackboneConfig,
        image_size: tuple[int, int],
        num_classes: int,
        block: BlockOf | None = None,
    ) -> None:
        super().__init__()
        check_image_size(config, image_size)
        block = block or block_of(config.block)
        self.config = config
        self.image_size = image_size
        self.num_classes = num_classes
        dims, width = config.dims, config.dims[-1]
        self.downsample_layers = _downsample_layers(config)
        self.stages = nn.ModuleList(
            _stage(config, stage, image_size, block) for stage in range(len(config.depths))
        )
        original_swin = config.layout == "swin"
        self.stage_norms = nn.ModuleList(
            nn.Identity() if original_swin else LayerNorm2d(dim) for dim in dims
        )
        self.stage_end_norm = LayerNorm2d(width) if original_swin else nn.Identity()
        self.conv_head: nn.Module = nn.Identity()
        if config.layout == "unified":
            hidden = int(width * 1.5)
            self.conv_head = nn.Sequential(
                nn.Conv2d(width, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.GELU()
            )
            width = hidden
        self.head = nn.Linear(width, num_classes)
        self.apply(_initialise)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """x: N 3 H W -> four maps, N dims[i] H/s W/s at strides s = 4, 8, 16, 32, after the stage
        norms (the original Swin has none)."""
        maps = []
        for downsample, blocks, norm in zip(
            self.downsample_layers, self.stages, self.stage_norms, strict=True
        ):
            x = norm(blocks(downsample(x)))
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """x: N 3 H W -> logits, N num_classes."""
        x = self.conv_head(self.stage_end_norm(self.forward_features(x)[-1]))
        logits: Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


class DetectionBackbone(nn.Module):
    """The authors' detection backbone, for images of any size; its state_dict keys are the
    official ones.

    It is another network than `Backbone`: the maps it gives are normalised copies, while the next
    stage reads them as they are; windows are padded, and position embeddings are resampled.

    Attributes:
        config: which backbone.
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        assert config.detection is not None
        self.config = config
        self.downsample_layers = _downsample_layers(config)
        self.stages = nn.ModuleList(
            _stage(config, stage, TABLE_SIZE, block_of(config.detection))
            for stage in range(len(config.depths))
        )
        for stage, dim in enumerate(config.dims):
            self.add_module(f"out_norm_{stage}", LayerNorm2d(dim))
        self.apply(_initialise)

    def forward(self, x: Tensor) -> list[Tensor]:
        """x: N 3 H W, sides multiples of 32 -> four maps, N dims[i] H/s W/s at strides s = 4, 8,
        16, 32, normalised: what the neck of a detector takes."""
        maps = []
        for downsample, blocks, norm in zip(
            self.downsample_layers, self.stages, self.out_norms, strict=True
        ):
            x = blocks(downsample(x))
            maps.append(norm(x))
        return maps

    @property
    def out_norms(self) -> list[nn.Module]:
        """The norms of the four maps."""
        return [self.get_submodule(f"out_norm_{stage}") for stage in range(len(self.stages))]

    forward_features = forward


def _initialise(module: nn.Module) -> None:
    """The authors' initial weights: truncated normal of std 0.02, biases zero."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    for name, parameter in module.named_parameters(recurse=False):
        if name.endswith(("_rel", "_table")) or name == "pos_embed":
            nn.init.trunc_normal_(parameter, std=INITIAL_STD)


def build(config: BackboneConfig, image_size: tuple[int, int], num_classes: int) -> Backbone:
    """Builds a backbone in eval mode, float32, with initial (untrained) weights."""
    with torch.no_grad():
        return Backbone(config, image_size, num_classes).eval()


def build_detection(config: BackboneConfig, image_size: tuple[int, int]) -> DetectionBackbone:
    """Builds a detection backbone in eval mode, float32, with initial (untrained) weights.

    Args:
        image_size: (height, width) in pixels that it must be able to take, among others.

    Raises:
        StmdeployError: the authors have none of this family; or it cannot take images of that size.
    """
    check_model(config, DETECTION, image_size)
    with torch.no_grad():
        return DetectionBackbone(config).eval()
