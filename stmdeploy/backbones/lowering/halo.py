"""Halo attention without windows of pixels: rows gathered by constant indices.

Tokens stay in the order of the query blocks through a whole stage, so that queries need no
cutting; a window of keys is one gather of whole rows. Positions outside the map gather any
row: their weights are exactly zero. The position term, its mask and the broadcast over both
axes are two small matrix products and one addition.

For GPUs, the term is part of the logits' own product: behind their channels, queries carry their 26
terms and a 1, keys mark their row and their column among as many and have `OUTSIDE` or 0 for the 1,
so that one plain attention, which builders fuse, computes the sum.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stmdeploy.backbones.lowering.tokens import (
    MASKED,
    BranchNorm,
    Reordering,
    Style,
    TokenBlock,
    TokenMlp,
    attention_by_place,
    by_place,
    filled,
    linear,
    reader,
    real_tokens,
    writer,
)
from stmdeploy.backbones.mixers.halo import BLOCK, HALO, WINDOW, DetectionHaloBlock, HaloBlock

#: Added to the logits of positions outside the map, twice in the corners; on processors `MASKED`,
#: once in the corners too. Its exponential is zero in float64 too, and twice of it is finite in
#: float16: infinity times the zeros of `spread` would be no number.
OUTSIDE = -1e4
#: For GPUs, heads are padded so that queries with their terms are a multiple of so many wide.
_WIDTH_STEP = 32


def block_order(size: tuple[int, int]) -> Tensor:
    """(1, H W): the raster index of every token, block by block."""
    h, w = size
    raster = torch.arange(h * w).reshape(h // BLOCK, BLOCK, w // BLOCK, BLOCK)
    return raster.permute(0, 2, 1, 3).reshape(1, -1)


def window_rows(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The positions of every block's window, and which of them lie outside the map.

    Returns:
        (1, blocks * 169) raster indices, and (blocks, 26): 0 or `OUTSIDE` for the 13 rows, then the
        13 columns of every window.
    """
    h, w = size
    offset = torch.arange(WINDOW) - HALO
    row = torch.arange(0, h, BLOCK)[:, None] + offset
    column = torch.arange(0, w, BLOCK)[:, None] + offset
    pixel = row.clamp(0, h - 1)[:, None, :, None] * w + column.clamp(0, w - 1)[None, :, None, :]
    outside_row = ((row < 0) | (row >= h))[:, None, :].expand(-1, len(column), -1)
    outside_column = ((column < 0) | (column >= w))[None, :, :].expand(len(row), -1, -1)
    outside = torch.cat((outside_row, outside_column), dim=-1).reshape(-1, 2 * WINDOW)
    return pixel.reshape(1, -1), outside * OUTSIDE


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


def corner_terms(outside: Tensor) -> Tensor:
    """(blocks, 4): what takes one off where a row and a column of a corner are both masked.

    Masked twice, a logit is beyond the reach of ONNX Runtime's exponential: see `MASKED`.

    Args:
        outside: (blocks, 26), of the 13 rows and the 13 columns of every window.
    """
    rows, columns = outside.chunk(2, dim=1)
    both = [torch.maximum(rows[:, i], columns[:, j]) for i in (0, -1) for j in (0, -1)]
    return -torch.stack(both, dim=1)


def corner_spread() -> Tensor:
    """(4, 169): adds the term of a corner into its window positions, of a side of the halo each."""
    first = torch.arange(WINDOW) < HALO
    edges = (first, first.flip(0))
    corners = [(row[:, None] & column).reshape(-1) for row in edges for column in edges]
    return torch.stack(corners).to(torch.get_default_dtype())


class LoweredHaloBlock(TokenBlock):
    """`HaloBlock` on tokens in block order; (N T) C in and out."""

    outside: Tensor
    table: Tensor
    spread: Tensor

    def __init__(
        self, block: HaloBlock | DetectionHaloBlock, size: tuple[int, int], style: Style
    ) -> None:
        whole = filled(size, BLOCK)
        super().__init__(whole, style)
        attn, self.order = block.attn, self.order_of(whole)
        self.blocks = whole[0] * whole[1] // BLOCK**2
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
        pixels, outside = window_rows(whole)
        table = position_table(attn.pos_embed.height_rel, attn.pos_embed.width_rel)
        spreading = spread()
        if not style.gpu:
            outside = outside.clamp(min=MASKED)
            corners = corner_terms(outside)
            outside, table = torch.cat((outside, corners), 1), F.pad(table, (0, corners.shape[1]))
            spreading = torch.cat((spreading, corner_spread()))
        dtype = attn.q.weight.dtype
        self.rows = Reordering(self.order, pixels)
        self.register_buffer("outside", outside.to(dtype)[:, None, None])
        self.register_buffer("table", table)
        self.register_buffer("spread", spreading.to(dtype))

    def order_of(self, size: tuple[int, int]) -> Tensor:
        """The order of its tokens, as `TokenBlock.order`."""
        return block_order(size)

    def _windows(self, x: Tensor) -> Tensor:
        """(N T) C -> (N blocks) 169 C: whole rows, all heads side by side."""
        y: Tensor = self.rows(x)
        return y.reshape(-1, WINDOW * WINDOW, x.shape[1])

    def _position(self, q: Tensor) -> Tensor:
        """(N T) C, unscaled -> (N blocks) heads 49 169."""
        place = BLOCK * BLOCK
        by_place = q.reshape(-1, place, self.heads * self.head_channels).transpose(0, 1)
        terms = by_place.reshape(place, -1, self.head_channels) @ self.table
        terms = terms.reshape(place, -1, self.blocks, self.heads, self.table.shape[-1])
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


class GpuHaloBlock(LoweredHaloBlock):
    """`HaloBlock` on tokens place by place; (P N W) C in and out."""

    constant: Tensor
    marks: Tensor

    def __init__(
        self, block: HaloBlock | DetectionHaloBlock, size: tuple[int, int], style: Style
    ) -> None:
        super().__init__(block, size, style)
        heads, channels, terms = self.heads, self.head_channels, 2 * WINDOW
        self.width = -(-(channels + terms + 1) // _WIDTH_STEP) * _WIDTH_STEP
        beside = self.width - channels
        pixels, _ = window_rows(self.size)
        self.rows = Reordering(self.order, by_place(pixels, WINDOW**2))
        # From a query to itself with its terms behind it; then a 1, and zeros.
        itself = torch.eye(channels).to(self.table).expand(BLOCK**2, -1, -1)
        self.register_buffer(
            "table", F.pad(torch.cat((itself, self.table), 2), (0, beside - terms))
        )
        self.register_buffer(
            "constant", torch.arange(self.width).eq(channels + terms).to(self.table)
        )
        # What stands behind a key, (169, blocks, 1, beside).
        marks = self.spread.t()[:, None].expand(-1, self.blocks, -1)
        outside = (self.outside[:, 0] @ self.spread).permute(2, 0, 1)
        marks = F.pad(torch.cat((marks, outside), 2), (0, beside - terms - 1))
        self.register_buffer("marks", marks[:, :, None].contiguous())
        proj = self.proj.weight.reshape(-1, heads, channels)
        self.proj = linear(F.pad(proj, (0, beside)).flatten(1), self.proj.bias)
        del self.outside, self.spread

    def order_of(self, size: tuple[int, int]) -> Tensor:
        return by_place(block_order(size), BLOCK**2)

    def mix(self, x: Tensor) -> Tensor:
        heads, channels, beside = self.heads, self.head_channels, self.width - self.head_channels
        q = self.q(x).reshape(BLOCK**2, -1, channels) @ self.table
        q = q.reshape(BLOCK**2, -1, heads, self.width) + self.constant
        both = torch.cat((self.key(x), self.value(x)), dim=1)
        gathered = self.rows(both).reshape(WINDOW**2, -1, self.blocks, 2, heads, channels)
        k, v = gathered.unbind(3)
        marks = self.marks[:, None].expand(-1, k.shape[1], -1, heads, -1)
        k, v = torch.cat((k, marks), dim=-1), F.pad(v, (0, beside))
        q, k, v = (t.reshape(len(t), -1, heads * self.width) for t in (q, k, v))
        y = attention_by_place(q, k, v, None, heads)
        mixed: Tensor = self.proj(y.flatten(0, 1))
        return mixed
