"""Halo attention without windows of pixels: rows gathered by constant indices.

Tokens stay in the order of the query blocks through a whole stage, so that queries need no
cutting; a window of keys is one gather of whole rows. Positions outside the map gather any
row: their weights are exactly zero. The position term, its mask and the broadcast over both
axes are two small matrix products and one addition.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stmdeploy.backbones.lowering.tokens import (
    BranchNorm,
    Style,
    TokenBlock,
    TokenMlp,
    filled,
    reader,
    real_tokens,
    writer,
)
from stmdeploy.backbones.mixers.halo import BLOCK, HALO, WINDOW, DetectionHaloBlock, HaloBlock

#: Added to the logits of positions outside the map, twice in the corners. Its exponential is
#: zero in float64 too, and twice of it is finite in float16: infinity times the zeros of
#: `spread` would be no number.
OUTSIDE = -1e4


def block_order(size: tuple[int, int]) -> Tensor:
    """(H W): the raster index of every token, block by block."""
    h, w = size
    raster = torch.arange(h * w).reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    return raster.permute(0, 2, 1, 3).reshape(-1)


def window_rows(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The positions of every block's window, and which of them lie outside the map.

    Returns:
        (blocks * 169) positions among block-ordered tokens, and (blocks, 26): 0 or `OUTSIDE`
        for the 13 rows, then the 13 columns of every window.
    """
    h, w = size
    offset = torch.arange(WINDOW) - HALO
    row = torch.arange(0, h, BLOCK)[:, None] + offset
    column = torch.arange(0, w, BLOCK)[:, None] + offset
    pixel = row.clamp(0, h - 1)[:, None, :, None] * w + column.clamp(0, w - 1)[None, :, None, :]
    outside_row = ((row < 0) | (row >= h))[:, None, :].expand(-1, len(column), -1)
    outside_column = ((column < 0) | (column >= w))[None, :, :].expand(len(row), -1, -1)
    outside = torch.cat((outside_row, outside_column), dim=-1).reshape(-1, 2 * WINDOW)
    return block_order(size).argsort()[pixel.reshape(-1)], outside * OUTSIDE


def position_table(height_rel: Tensor, width_rel: Tensor) -> Tensor:
    """(49, d, 26): what a query at each place of a block is multiplied with."""
    steps = WINDOW - 1 + torch.arange(WINDOW)[None] - torch.arange(BLOCK)[:, None]
    rows = height_rel[steps][:, None].expand(BLOCK, BLOCK, -1, -1)
    columns = width_rel[steps][None, :].expand(BLOCK, BLOCK, -1, -1)
    table = torch.cat((rows, columns), dim=2).reshape(BLOCK * BLOCK, 2 * WINDOW, -1)
    return table.transpose(1, 2).contiguous()


def spread() -> Tensor:
    """(26, 169): adds the term of a row and of a column into every window position."""
    eye = torch.eye(WINDOW)
    return torch.cat((eye.repeat_interleave(WINDOW, dim=1), eye.repeat(1, WINDOW)))


class LoweredHaloBlock(TokenBlock):
    """`HaloBlock` on tokens in block order; (N T) C in and out."""

    rows: Tensor
    outside: Tensor
    table: Tensor
    spread: Tensor

    def __init__(
        self, block: HaloBlock | DetectionHaloBlock, size: tuple[int, int], style: Style
    ) -> None:
        whole = filled(size, BLOCK)
        super().__init__(whole, style)
        attn, self.order = block.attn, block_order(whole)
        self.tokens = whole[0] * whole[1]
        self.blocks = self.tokens // BLOCK**2
        self.heads, self.head_channels = attn.heads, attn.head_channels
        mask = real_tokens(size, whole, self.order)
        mixing = style if mask is None else style.with_folding  # keys and values of zeros are zeros
        self.norm = BranchNorm(block.norm1, mixing, mask)
        self.q = reader(block.norm1, attn.q.weight, None, mixing)
        kv = attn.kv.weight.reshape(self.heads, 2, self.head_channels, -1)
        key, value = kv[:, 0].flatten(0, 1) * attn.scale, kv[:, 1].flatten(0, 1)
        self.key = reader(block.norm1, key, None, mixing)
        self.value = reader(block.norm1, value, None, mixing)
        self.proj = writer(attn.proj, block.layer_scales[0], style)
        self.mlp = TokenMlp.of(block, style)
        rows, outside = window_rows(whole)
        dtype = attn.q.weight.dtype
        self.register_buffer("rows", rows)
        self.register_buffer("outside", outside.to(dtype)[:, None, None])
        table = position_table(attn.pos_embed.height_rel, attn.pos_embed.width_rel)
        self.register_buffer("table", table)
        self.register_buffer("spread", spread().to(dtype))

    def _windows(self, x: Tensor) -> Tensor:
        """(N T) C -> (N blocks) 169 C: whole rows, all heads side by side."""
        gathered = x.reshape(-1, self.tokens, x.shape[1]).index_select(1, self.rows)
        return gathered.reshape(-1, WINDOW * WINDOW, x.shape[1])

    def _position(self, q: Tensor) -> Tensor:
        """(N T) C, unscaled -> (N blocks) heads 49 169."""
        place = BLOCK * BLOCK
        by_place = q.reshape(-1, place, self.heads * self.head_channels).transpose(0, 1)
        terms = by_place.reshape(place, -1, self.head_channels) @ self.table
        terms = terms.reshape(place, -1, self.blocks, self.heads, 2 * WINDOW)
        logits = (terms.permute(1, 2, 3, 0, 4) + self.outside) @ self.spread
        return logits.flatten(0, 1)

    def mix(self, x: Tensor) -> Tensor:
        q = self.q(x)
        y = self.attend(
            q.reshape(-1, BLOCK * BLOCK, x.shape[1]),
            self._windows(self.key(x)),
            self._windows(self.value(x)),
            self._position(q),
        )
        mixed: Tensor = self.proj(y.reshape(x.shape))
        return mixed
