"""Depth-wise convolution: a 7x7 depth-wise convolution between two 1x1 convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from stmdeploy.backbones.layers import LayerNorm2d, to_channels_first, to_channels_last
from stmdeploy.backbones.mixers.block import BlockGeometry, layer_scale

KERNEL = 7


class ConvNeXtBlock(nn.Module):
    """Two residual branches: the depth-wise mixer, and the point-wise mlp."""

    def __init__(self, at: BlockGeometry) -> None:
        super().__init__()
        c, hidden = at.channels, at.channels * at.mlp_ratio
        self.gamma_1 = layer_scale(1, c, 1, 1)
        self.gamma_2 = layer_scale(1, 1, 1, c)
        self.dw_norm = LayerNorm2d(c)
        self.dw_input_proj = nn.Conv2d(c, c, 1)
        self.dwconv = nn.Conv2d(c, c, KERNEL, padding=KERNEL // 2, groups=c)
        self.dw_out_proj = nn.Conv2d(c, c, 1)
        self.pw_norm = nn.LayerNorm(c, eps=1e-6)
        self.pwconv1 = nn.Linear(c, hidden)
        self.act = nn.GELU()
        self.pwconv2 = nn.Linear(hidden, c)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.dw_out_proj(self.dwconv(self.dw_input_proj(self.dw_norm(x))))
        x = x + self.gamma_1 * mixed
        tokens = self.pw_norm(to_channels_last(x))
        tokens = self.gamma_2 * self.pwconv2(self.act(self.pwconv1(tokens)))
        return x + to_channels_first(tokens)
