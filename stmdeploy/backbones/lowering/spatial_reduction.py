"""Spatial-reduction attention on tokens: the strided convolution becomes a matrix product.

Its kernel equals its stride, so it multiplies disjoint patches; patches are cut from the
tokens in runs of whole rows. For GPUs, the tokens of a stage stand patch by patch: they attend to
all keys, so that their order does not matter, and nothing has to be cut.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stmdeploy.backbones.layers import DepthwiseConv
from stmdeploy.backbones.lowering.operators import plain_attention
from stmdeploy.backbones.lowering.tokens import (
    BranchNorm,
    Style,
    TokenBlock,
    TokenMlp,
    after,
    as_conv,
    attention_by_place,
    linear,
    reader,
    writer,
)
from stmdeploy.backbones.mixers.spatial_reduction import DetectionPvtBlock, PvtV2Block


class ImageMlp(nn.Module):
    """The pvt_v2 mlp, its hidden map kept N C H W for the depth-wise convolution."""

    def __init__(self, block: PvtV2Block, size: tuple[int, int], style: Style) -> None:
        super().__init__()
        assert isinstance(block.mlp.dwconv, DepthwiseConv)
        self.size = size
        self.norm = style.norm(block.norm2)
        self.first = as_conv(after(block.norm2, block.mlp.fc1.weight, block.mlp.fc1.bias))
        self.dwconv = block.mlp.dwconv.dwconv
        self.act = nn.GELU()
        self.last = as_conv(writer(block.mlp.fc2, block.layer_scales[1], style))

    def forward(self, x: Tensor) -> Tensor:
        h, w = self.size
        y = self.norm(x).reshape(-1, h, w, x.shape[1]).permute(0, 3, 1, 2)
        y = self.last(self.act(self.dwconv(self.first(y))))
        rows: Tensor = y.permute(0, 2, 3, 1).reshape(x.shape)
        return rows


def _embedding(block: PvtV2Block, size: tuple[int, int], style: Style) -> Tensor | None:
    """(1, 1, T, C): the position embedding before a block, centred if the stream is; None if it has
    none. That of a detection block is resampled to the map once and for all."""
    embedding = getattr(block, "pos_embed", None)
    if not isinstance(embedding, Tensor):
        return None
    if isinstance(block, DetectionPvtBlock):
        embedding = block.placed(size)
    tokens = embedding.detach().permute(0, 2, 3, 1).flatten(1, 2)[None]
    return tokens - tokens.mean(-1, keepdim=True) if style.centred else tokens


class LoweredPvtBlock(TokenBlock):
    """`PvtBlock` or `PvtV2Block` on tokens in raster order; (N T) C in and out."""

    embedding: Tensor | None
    shift: nn.Linear | None

    def __init__(self, block: PvtV2Block, size: tuple[int, int], style: Style) -> None:
        super().__init__(size, style)
        attn = block.attn
        self.heads, self.reduction = attn.heads, attn.reduction
        self.mixer_only = isinstance(block, DetectionPvtBlock)
        self.register_buffer("embedding", _embedding(block, size, style))
        self.norm = BranchNorm(block.norm1, style)
        self.q = reader(block.norm1, attn.q.weight * attn.scale, attn.q.bias * attn.scale, style)
        read = block.norm1
        if self.reduction > 1:
            read = attn.norm
            # out in r r -> out (r r in): the order in which tokens of a patch are cut.
            weight = attn.sr.weight.permute(0, 2, 3, 1).flatten(1)
            assert attn.sr.bias is not None
            weight, bias = weight - weight.mean(0), attn.sr.bias - attn.sr.bias.mean()
            self.reduce = reader(block.norm1, weight, bias, style, self.reduction**2)
            self.reduced_norm = BranchNorm(read, style)
        (key, value), (key_bias, value_bias) = attn.kv.weight.chunk(2), attn.kv.bias.chunk(2)
        self.key = reader(read, key, key_bias, style)
        self.value = reader(read, value, value_bias, style)
        self.proj = writer(attn.proj, block.layer_scales[0], style)
        self.shift = None
        self.alone = self.heads == 1 and not style.gpu
        if self.alone:
            self._fold()
        self.mlp = (
            TokenMlp.of(block, style) if not block.depthwise_mlp else ImageMlp(block, size, style)
        )

    def _fold(self) -> None:
        """Makes the layers of queries and of outputs part of those of keys and of values, which
        see fewer tokens.

        A head alone has (Q x + b).k = x.(Q^T k) + b.k, less what is alike for all keys; and the
        layer behind it may come before the weighted sum, because the weights add up to 1.
        """
        key, value = self.key.weight, self.value
        if self.q.bias is not None:
            self.shift = linear(self.q.bias[None] @ key, None)
        self.key = linear(self.q.weight.t() @ key, None)
        bias = 0 if value.bias is None else self.proj.weight @ value.bias
        self.value = linear(self.proj.weight @ value.weight, self.proj.bias + bias)
        del self.q, self.proj

    def _source(self, x: Tensor) -> Tensor:
        """(N T) C -> (N T/r^2) C: what keys and values are made of."""
        if self.reduction == 1:
            return x
        (h, w), r = self.size, self.reduction
        patches = x.reshape(-1, h // r, r, w // r, r * x.shape[1]).transpose(2, 3)
        y: Tensor = self.reduced_norm(self.reduce(patches.reshape(-1, r * r * x.shape[1])))
        return y

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """As any block's, but products where there is one head: ONNX Runtime shares the whole
        operator out by images and heads, so that a single one would take a single thread."""
        if self.heads == 1:
            return plain_attention(q, k, v, bias, self.heads)
        return super().attend(q, k, v, bias)

    def mix(self, x: Tensor) -> Tensor:
        tokens = self.size[0] * self.size[1]
        source = self._source(x)
        q = (x if self.alone else self.q(x)).reshape(-1, tokens, x.shape[1])
        k, v = (
            layer(source).reshape(-1, tokens // self.reduction**2, layer.out_features)
            for layer in (self.key, self.value)
        )
        bias = None if self.shift is None else self.shift(source).reshape(-1, 1, 1, k.shape[1])
        mixed = self.attend(q, k, v, bias).reshape(x.shape[0], -1)
        return mixed if self.alone else self.proj(mixed)

    def forward(self, x: Tensor) -> Tensor:
        if self.embedding is None:
            return super().forward(x)
        places, _, windows, c = self.embedding.shape
        placed = (x.reshape(places, -1, windows, c) + self.embedding).reshape(x.shape)
        x = (x if self.mixer_only else placed) + self.mix(self.norm(placed))
        y: Tensor = x + self.mlp(x)
        return y


def patch_order(size: tuple[int, int], side: int) -> Tensor:
    """(1, H W): the raster index of every token, patch by patch of side x side tokens."""
    h, w = size
    raster = torch.arange(h * w).reshape(h // side, side, w // side, side)
    return raster.transpose(1, 2).reshape(1, -1)


class GpuPvtBlock(LoweredPvtBlock):
    """`PvtBlock` on tokens patch by patch, each for all images; (T N) C in and out.

    A single head gets a second one of zeros, which adds nothing: for one image and one head,
    TensorRT's builder fuses no attention.
    """

    def __init__(self, block: PvtV2Block, size: tuple[int, int], style: Style) -> None:
        super().__init__(block, size, style)
        self.order = patch_order(size, self.reduction).t()
        if self.embedding is not None:
            self.embedding = self.embedding[0, 0, self.order][:, None]
        if self.heads == 1:
            self.heads = 2
            self.q, self.key, self.value = map(_twice_as_wide, (self.q, self.key, self.value))
            self.proj = linear(F.pad(self.proj.weight, (0, len(self.proj.weight))), self.proj.bias)

    def mix(self, x: Tensor) -> Tensor:
        c, patch = x.shape[1], self.reduction**2
        keys, source = len(self.order) // patch, x
        if patch > 1:
            patches = x.reshape(keys, patch, -1, c).transpose(1, 2)
            source = self.reduced_norm(self.reduce(patches.reshape(-1, patch * c)))
        q = self.q(x).reshape(len(self.order), -1, self.q.out_features)
        k, v = (
            layer(source).reshape(keys, -1, layer.out_features) for layer in (self.key, self.value)
        )
        y = attention_by_place(q, k, v, None, self.heads)
        mixed: Tensor = self.proj(y.flatten(0, 1))
        return mixed


def _twice_as_wide(layer: nn.Linear) -> nn.Linear:
    """A layer with as many outputs more, all zero."""
    wide = layer.out_features
    return linear(
        F.pad(layer.weight, (0, 0, 0, wide)),
        None if layer.bias is None else F.pad(layer.bias, (0, wide)),
    )
