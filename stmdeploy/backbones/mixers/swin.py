"""Shifted windows: self-attention inside 7x7 windows, every second block shifted by 3."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.layers import (
    LayerNorm2d,
    pad_to_multiple,
    to_channels_first,
    to_channels_last,
)
from stmdeploy.backbones.mixers.attention import Attention
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


def shift_mask(
    size: tuple[int, int], window: int, shift: int, like: Tensor | None = None
) -> Tensor:
    """(windows, 1, window^2, window^2): 0 for pairs of one region, `MASKED_LOGIT` otherwise.

    Args:
        size: (height, width) of the map, whole windows.
        like: a tensor of the device and dtype that it shall have; by default torch's own.
    """
    like = torch.empty(()) if like is None else like

    def region(side: int) -> Tensor:
        """Of every row or column: 0, or 1 in the last window, or 2 in what was rolled there."""
        place = torch.arange(side, device=like.device)
        return (place >= side - window).to(like.dtype) + (place >= side - shift).to(like.dtype)

    rows, columns = map(region, size)
    tokens = partition((3 * rows[:, None] + columns)[None, :, :, None], window).squeeze(-1)
    differs = (tokens[:, None, :] != tokens[:, :, None]).to(like.dtype)
    return (differs * MASKED_LOGIT)[:, None]


class WindowAttention(Attention):
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
        bias = self.relative_position_bias_table[self.relative_index].permute(2, 0, 1)
        if self.fused:
            y = self._fused(q, k, v, bias, mask)
        else:
            logits = (q * self.scale) @ k.transpose(-2, -1) + bias
            if mask is not None:
                per_image = logits.reshape(-1, mask.shape[0], self.heads, tokens, tokens)
                logits = (per_image + mask).reshape(logits.shape)
            y = logits.softmax(dim=-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, tokens, c))  # type: ignore[no-any-return]

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None) -> Tensor:
        """(N windows) heads tokens C in and out. The windows of an image, whose masks differ, stand
        among its heads, so that one bias serves all images."""
        shape = q.shape
        if mask is not None:
            bias = (bias + mask).flatten(0, 1)
            q, k, v = (x.reshape(-1, len(bias), *x.shape[2:]) for x in (q, k, v))
        y: Tensor = F.scaled_dot_product_attention(q, k, v, bias, scale=self.scale)
        return y.reshape(shape)


class SwinBlock(ResidualBlock):
    """(Shifted) window attention, then mlp; the norms read N C H W."""

    norm_type = LayerNorm2d
    attn: WindowAttention
    mask: Tensor | None

    def __init__(self, at: BlockGeometry) -> None:
        shorter = min(at.size)
        window = min(WINDOW, shorter)
        super().__init__(at, WindowAttention(at.channels, at.heads, window))
        self.window = window
        self.shift = WINDOW // 2 if at.index % 2 and shorter > WINDOW else 0
        mask = shift_mask(at.size, self.window, self.shift) if self.shift else None
        self.register_buffer("mask", mask, persistent=False)

    def mix(self, x: Tensor) -> Tensor:
        """The mixer on N H W C, whole windows."""
        return self.attend(x, self.mask)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """As `mix`, with the mask of the map's size."""
        size = (x.shape[1], x.shape[2])
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), dims=(1, 2))
        x = merge(self.attn(partition(x, self.window), mask), self.window, size)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), dims=(1, 2))
        return x

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.layer_scales[0] * self.mix(to_channels_last(self.norm1(x)))
        x = x + to_channels_first(mixed)
        tokens = self.layer_scales[1] * self.mlp(to_channels_last(self.norm2(x)))
        return x + to_channels_first(tokens)


class DetectionSwinBlock(SwinBlock):
    """The same on maps of any size: zeros to the right and below fill the last windows, and every
    second block of every stage is shifted, whatever its size."""

    def __init__(self, at: BlockGeometry) -> None:
        ResidualBlock.__init__(self, at, WindowAttention(at.channels, at.heads, WINDOW))
        self.window = WINDOW
        self.shift = WINDOW // 2 if at.index % 2 else 0

    def mix(self, x: Tensor) -> Tensor:
        h, w = x.shape[1:3]
        x = pad_to_multiple(x, WINDOW)
        size = (x.shape[1], x.shape[2])
        mask = shift_mask(size, WINDOW, self.shift, x) if self.shift else None
        return self.attend(x, mask)[:, :h, :w]
