"""Shifted windows: self-attention inside 7x7 windows, every second block shifted by 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stmdeploy.backbones.layers import LayerNorm2d, to_channels_first, to_channels_last
from stmdeploy.backbones.mixers.block import BlockGeometry, ResidualBlock

WINDOW = 7
#: Added to the logits of two tokens that only the roll made neighbours.
MASKED_LOGIT = -100.0


def partition(x: Tensor, window: int) -> Tensor:
    """N H W C -> (N windows) (window * window) C."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // window, window, w // window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, window * window, c)


def merge(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """The inverse of `partition`, for maps of the given (height, width)."""
    h, w = size
    c = x.shape[-1]
    x = x.reshape(-1, h // window, w // window, window, window, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, h, w, c)


def relative_index(window: int) -> Tensor:
    """(window^2, window^2) rows of the bias table for every (query, key) pair."""
    axis = torch.arange(window)
    position = torch.stack(torch.meshgrid(axis, axis, indexing="ij")).flatten(1)
    dy, dx = position[:, :, None] - position[:, None, :] + window - 1
    index: Tensor = dy * (2 * window - 1) + dx
    return index


def shift_mask(size: tuple[int, int], window: int, shift: int) -> Tensor:
    """(windows, 1, window^2, window^2): 0 for pairs of one region, `MASKED_LOGIT` otherwise."""
    h, w = size
    region = torch.zeros(1, h, w, 1)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate((r, c) for r in cuts for c in cuts):
        region[:, rows, columns] = number
    tokens = partition(region, window).squeeze(-1)
    differs = tokens[:, None, :] != tokens[:, :, None]
    return (differs * MASKED_LOGIT)[:, None]


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows; (N windows) tokens C in and out."""

    relative_index: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.register_buffer("relative_index", relative_index(window), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """mask: (windows of one image, 1, tokens, tokens), added to the logits."""
        b, tokens, c = x.shape
        q, k, v = (
            part.reshape(b, tokens, self.heads, -1).transpose(1, 2)
            for part in self.qkv(x).chunk(3, dim=-1)
        )
        logits = (q * self.scale) @ k.transpose(-2, -1)
        logits = logits + self.relative_position_bias_table[self.relative_index].permute(2, 0, 1)
        if mask is not None:
            per_image = logits.reshape(-1, mask.shape[0], self.heads, tokens, tokens)
            logits = (per_image + mask).reshape(logits.shape)
        y = (logits.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, tokens, c)
        return self.proj(y)  # type: ignore[no-any-return]


class SwinBlock(ResidualBlock):
    """(Shifted) window attention, then mlp; the norms read N C H W."""

    norm_type = LayerNorm2d
    attn: WindowAttention
    mask: Tensor | None

    def __init__(self, at: BlockGeometry) -> None:
        shorter = min(at.size)
        window = min(WINDOW, shorter)
        super().__init__(at, WindowAttention(at.channels, at.heads, window))
        self.size, self.window = at.size, window
        self.shift = WINDOW // 2 if at.index % 2 and shorter > WINDOW else 0
        mask = shift_mask(self.size, self.window, self.shift) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)

    def _mix(self, x: Tensor) -> Tensor:
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        x = merge(self.attn(partition(x, self.window), self.mask), self.window, self.size)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.layer_scales[0] * self._mix(to_channels_last(self.norm1(x)))
        x = x + to_channels_first(mixed)
        tokens = self.layer_scales[1] * self.mlp(to_channels_last(self.norm2(x)))
        return x + to_channels_first(tokens)
