"""Halo attention: each 7x7 block of queries attends to the 13x13 window around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.layers import pad_to_multiple, to_channels_first
from stmdeploy.backbones.mixers.attention import Attention
from stmdeploy.backbones.mixers.block import BlockGeometry, ResidualBlock

BLOCK = 7
HALO = 3
WINDOW = BLOCK + 2 * HALO


def outside(size: tuple[int, int], like: Tensor) -> Tensor:
    """(1, 1, windows, 1, 169): which positions of the windows of a map lie beyond it.

    Args:
        size: (height, width) of the map.
        like: a tensor of the device and dtype to compute it with.
    """
    inside = windows(like.new_ones((1, 1, *size)))
    return (inside == 0).reshape(1, 1, -1, 1, WINDOW * WINDOW)


def windows(x: Tensor) -> Tensor:
    """Cuts N C H W into overlapping windows: N C (H/7) (W/7) 13 13, zeros beyond the map."""
    padded = F.pad(x, (HALO, HALO, HALO, HALO))
    return padded.unfold(2, WINDOW, BLOCK).unfold(3, WINDOW, BLOCK)


class RelativePosition(nn.Module):
    """Logits of the offset between a query and a window position, one table per axis.

    The index is 12 + j - i for query i in 0..6 and window position j in 0..12; unlike
    HaloNet's text, the authors' code does not subtract the halo.
    """

    index: Tensor

    def __init__(self, head_channels: int) -> None:
        super().__init__()
        shape = (2 * WINDOW - 1, head_channels)
        self.height_rel = nn.Parameter(torch.empty(shape))
        self.width_rel = nn.Parameter(torch.empty(shape))
        offsets = torch.arange(WINDOW)[None, :] - torch.arange(BLOCK)[:, None]
        self.register_buffer("index", WINDOW - 1 + offsets, persistent=False)

    def forward(self, q: Tensor) -> Tensor:
        """q: (..., 7, 7, d), rows then columns -> logits (..., 7, 7, 13, 13)."""
        by_row = q @ self.height_rel.t()
        by_column = q @ self.width_rel.t()
        target = (*by_row.shape[:-1], WINDOW)
        rows = by_row.gather(-1, self.index[:, None, :].expand(target))
        columns = by_column.gather(-1, self.index[None, :, :].expand(target))
        return rows[..., :, None] + columns[..., None, :]


class HaloAttention(Attention):
    """Blocked local attention with a halo (HaloNet), N H W C in and out."""

    outside: Tensor

    def __init__(self, channels: int, heads: int, size: tuple[int, int] | None) -> None:
        super().__init__()
        self.heads = heads
        self.head_channels = channels // heads
        self.scale = self.head_channels**-0.5
        self.q = nn.Linear(channels, channels, bias=False)
        self.kv = nn.Conv2d(channels, 2 * channels, 1, bias=False)
        self.pos_embed = RelativePosition(self.head_channels)
        self.proj = nn.Linear(channels, channels)
        if size is not None:
            self.register_buffer("outside", outside(size, torch.empty(())), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.proj(self.attend(x, self.outside))
        return y

    def attend(self, x: Tensor, outside: Tensor) -> Tensor:
        """All but the last projection.

        Args:
            x: whole blocks.
            outside: as the function of that name gives it.
        """
        n, h, w, c = x.shape
        rows, columns, d = h // BLOCK, w // BLOCK, self.head_channels

        q = self.q(x).reshape(n, rows, BLOCK, columns, BLOCK, self.heads, d)
        q = q.permute(0, 5, 1, 3, 2, 4, 6).reshape(n, self.heads, -1, BLOCK, BLOCK, d)
        kv = windows(self.kv(to_channels_first(x)))
        kv = kv.reshape(n, self.heads, 2 * d, rows * columns, WINDOW * WINDOW)
        k, v = kv[:, :, :d], kv[:, :, d:]

        tokens, k, v = q.flatten(3, 4), k.permute(0, 1, 3, 2, 4), v.permute(0, 1, 3, 4, 2)
        if self.fused:
            y = self._fused(tokens, k, v, self.pos_embed(q), outside)
        else:
            logits = (tokens * self.scale) @ k
            logits = logits + self.pos_embed(q).reshape(logits.shape)
            logits = logits.masked_fill(outside, torch.finfo(logits.dtype).min)
            y = logits.softmax(dim=-1) @ v

        blocks: Tensor = y.reshape(n, self.heads, rows, columns, BLOCK, BLOCK, d)
        return blocks.permute(0, 2, 4, 3, 5, 1, 6).reshape(n, h, w, c)

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, positions: Tensor, outside: Tensor) -> Tensor:
        """q: N heads blocks L C; k: N heads blocks C S; v: N heads blocks S C; as q."""
        bias = positions.reshape(*q.shape[:4], v.shape[3])
        bias = bias.masked_fill(outside, torch.finfo(bias.dtype).min)
        flat_q, k, v = (x.flatten(1, 2) for x in (q, k.transpose(-2, -1), v))
        y = F.scaled_dot_product_attention(flat_q, k, v, bias.flatten(1, 2), scale=self.scale)
        return y.reshape(q.shape)


class PaddedHaloAttention(HaloAttention):
    """On maps of any size: zeros to the right and below fill the last blocks, and are attended."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__(channels, heads, None)

    def forward(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x = pad_to_multiple(x, BLOCK)
        mixed = self.attend(x, outside((x.shape[1], x.shape[2]), x))[:, :h, :w]
        y: Tensor = self.proj(mixed)
        return y


class HaloBlock(ResidualBlock):
    """Halo attention, then mlp."""

    scale_shape = (1, 1, 1)
    attn: HaloAttention

    def __init__(self, at: BlockGeometry) -> None:
        super().__init__(at, HaloAttention(at.channels, at.heads, at.size))


class DetectionHaloBlock(ResidualBlock):
    """The same on maps of any size."""

    scale_shape = (1, 1, 1)
    attn: PaddedHaloAttention

    def __init__(self, at: BlockGeometry) -> None:
        super().__init__(at, PaddedHaloAttention(at.channels, at.heads))
