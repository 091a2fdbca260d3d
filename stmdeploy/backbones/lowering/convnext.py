"""Depth-wise convolution between token-wise products: two transpositions a block, not four."""

from __future__ import annotations

from torch import Tensor

from stmdeploy.backbones.lowering.tokens import (
    Style,
    TokenBlock,
    TokenMlp,
    after,
    as_conv,
    linear,
    writer,
)
from stmdeploy.backbones.mixers.convnext import ConvNeXtBlock


class LoweredConvNeXtBlock(TokenBlock):
    """`ConvNeXtBlock` on tokens in raster order; (N T) C in and out."""

    def __init__(self, block: ConvNeXtBlock, size: tuple[int, int], style: Style) -> None:
        super().__init__(size, style)
        self.norm = style.norm(block.dw_norm)
        self.first = as_conv(
            after(block.dw_norm, block.dw_input_proj.weight[:, :, 0, 0], block.dw_input_proj.bias)
        )
        self.dwconv = block.dwconv
        out = block.dw_out_proj
        self.last = as_conv(writer(linear(out.weight[:, :, 0, 0], out.bias), block.gamma_1, style))
        self.mlp = TokenMlp(block.pw_norm, block.pwconv1, block.pwconv2, block.gamma_2, style)

    def mix(self, x: Tensor) -> Tensor:
        h, w = self.size
        image = x.reshape(-1, h, w, x.shape[1]).permute(0, 3, 1, 2)
        mixed = self.last(self.dwconv(self.first(image)))
        y: Tensor = mixed.permute(0, 2, 3, 1).reshape(x.shape)
        return y
