"""Spatial-reduction attention: every query attends to a map shrunk by a strided convolution.

pvt adds a learned position embedding at the head of each stage; pvt_v2 has none, and a
depth-wise convolution inside its mlp instead.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.layers import to_channels_first, to_channels_last
from stmdeploy.backbones.mixers.attention import Attention
from stmdeploy.backbones.mixers.block import BlockGeometry, ResidualBlock

#: Stride of the reduction, per stage; 1 means plain attention.
REDUCTIONS = (8, 4, 2, 1)


class SpatialReductionAttention(Attention):
    """Attention whose keys and values come from the reduced map; N H W C in and out."""

    def __init__(self, channels: int, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.reduction = reduction
        self.q = nn.Linear(channels, channels)
        self.kv = nn.Linear(channels, 2 * channels)
        self.proj = nn.Linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2d(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        source = x
        if self.reduction > 1:
            source = self.norm(to_channels_last(self.sr(to_channels_first(x))))
        q = self.q(x).reshape(n, h * w, self.heads, -1).transpose(1, 2)
        k, v = (
            part.reshape(n, -1, self.heads, c // self.heads).transpose(1, 2)
            for part in self.kv(source).chunk(2, dim=-1)
        )
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, h, w, c))  # type: ignore[no-any-return]


class PvtV2Block(ResidualBlock):
    """Spatial-reduction attention, then mlp."""

    depthwise_mlp = True
    attn: SpatialReductionAttention

    def __init__(self, at: BlockGeometry) -> None:
        mixer = SpatialReductionAttention(at.channels, at.heads, REDUCTIONS[at.stage])
        super().__init__(at, mixer, depthwise_mlp=self.depthwise_mlp)


class PvtBlock(PvtV2Block):
    """As `PvtV2Block`, with a plain mlp; the first of a stage adds the position embedding."""

    depthwise_mlp = False

    def __init__(self, at: BlockGeometry) -> None:
        super().__init__(at)
        if at.index == 0:
            self.pos_embed = nn.Parameter(torch.zeros(1, at.channels, *at.size))
        else:
            self.register_parameter("pos_embed", None)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x if self.pos_embed is None else x + self.pos_embed)


class AnySizePvtBlock(PvtBlock):
    """The same on maps of any size: the position embedding is resampled to the map."""

    def placed(self, size: tuple[int, int]) -> Tensor:
        """(1, C, H, W): the position embedding, resampled to a map of that size."""
        assert self.pos_embed is not None
        return F.interpolate(self.pos_embed, size, mode="bilinear", align_corners=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.pos_embed is not None:
            x = x + self.placed((x.shape[2], x.shape[3]))
        return ResidualBlock.forward(self, x)


class DetectionPvtBlock(AnySizePvtBlock):
    """The same, with the embedding added to what the mixer reads alone, not to the residual."""

    def forward(self, x: Tensor) -> Tensor:
        of_mixer, of_mlp = self.layer_scales
        placed = x
        if self.pos_embed is not None:
            placed = x + self.placed((x.shape[2], x.shape[3]))
        x = to_channels_last(x)
        x = x + of_mixer * self.attn(self.norm1(to_channels_last(placed)))
        x = x + of_mlp * self.mlp(self.norm2(x))
        return to_channels_first(x)
