"""The place of a block in the network, and the residual block that most mixers sit in."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from stmdeploy.backbones.layers import Mlp, to_channels_first, to_channels_last

#: Layer scales start here in training (a checkpoint overwrites them).
_INITIAL_LAYER_SCALE = 1e-6


@dataclass(frozen=True)
class BlockGeometry:
    """The place of one block.

    Attributes:
        channels: C of the stage.
        heads: attention heads (dcn: groups); 0 where the mixer has none.
        mlp_ratio: hidden channels of the mlp over C.
        stage: 0 to 3.
        index: position of the block inside its stage.
        size: (height, width) of the stage map.
    """

    channels: int
    heads: int
    mlp_ratio: int
    stage: int
    index: int
    size: tuple[int, int]


def layer_scale(*shape: int) -> nn.Parameter:
    """The parameter that multiplies a residual branch."""
    return nn.Parameter(torch.full(shape, _INITIAL_LAYER_SCALE))


class ResidualBlock(nn.Module):
    """LayerNorm -> mixer (N H W C in and out), LayerNorm -> mlp, each with layer scale and
    residual."""

    #: Names of the two layer scales, and their dimensions before the channels, as in the official
    #: checkpoints.
    scales, scale_shape = ("gamma_1", "gamma_2"), tuple[int, ...]()
    norm_type: type[nn.LayerNorm] = nn.LayerNorm

    def __init__(self, at: BlockGeometry, mixer: nn.Module, *, depthwise_mlp: bool = False) -> None:
        super().__init__()
        c = at.channels
        for name in self.scales:
            self.register_parameter(name, layer_scale(*self.scale_shape, c))
        self.norm1 = self.norm_type(c)
        self.attn = mixer
        self.norm2 = self.norm_type(c)
        self.mlp = Mlp(c, c * at.mlp_ratio, depthwise_mlp)

    @property
    def layer_scales(self) -> tuple[Tensor, Tensor]:
        """The layer scale of the mixer, and that of the mlp."""
        first, second = map(self.get_parameter, self.scales)
        return first, second

    def forward(self, x: Tensor) -> Tensor:
        of_mixer, of_mlp = self.layer_scales
        x = to_channels_last(x)
        x = x + of_mixer * self.attn(self.norm1(x))
        x = x + of_mlp * self.mlp(self.norm2(x))
        return to_channels_first(x)
