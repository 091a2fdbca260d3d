"""Operators that ONNX has and torch lacks, each defined in plain torch.

The exporter writes each as one node, for which a runtime has one kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stmdeploy.backbones.mixers.dcn import KERNEL, POINTS, sampling_base

#: Kernel position (row, column) of every point: point 3a + b lies at column a, row b.
ROW_MAJOR = torch.arange(POINTS).reshape(KERNEL, KERNEL).t().reshape(-1)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, heads: int) -> Tensor:
    """softmax(q k^T + bias) v for every head, as ONNX Attention of opset 23, unscaled.

    Args:
        q: N L C.
        k, v: N S C.
        bias: added to the logits, broadcast to N heads L S; None for no bias.
        heads: how many groups of consecutive channels attend on their own.

    Returns:
        N L C, the heads side by side, in the same order.
    """
    q, k, v = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q, k, v))
    logits = q @ k.transpose(-1, -2)
    # The bias first: of two products added up, OpenVINO takes the second for the logits of
    # q and k (halo's bias is a product too; 2026.4.1 fuses the wrong one the other way round).
    weights = (logits if bias is None else bias + logits).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def plain_rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension, as ONNX RMSNormalization."""
    return x / torch.sqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


@torch.library.custom_op("stmdeploy::deform_conv", mutates_args=())
def deform_conv(value: Tensor, offset: Tensor, logits: Tensor, groups: int) -> Tensor:
    """The nine samples around every pixel, weighted by a softmax: ONNX DeformConv with a kernel
    of ones. It takes its inputs in the shapes they are made in, so that a tracer sees one step.

    Args:
        value: N C H W.
        offset: N (groups 9 2) (H W), in pixels; kernel row by row, y before x.
        logits: (N H W) (groups 9); the softmax is over the nine of a group.
        groups: number of groups of channels, each with offsets of its own.
    """
    n, c, h, w = value.shape
    base = sampling_base((h, w)).to(value)[:, ROW_MAJOR]
    moved = offset.reshape(n, groups, POINTS, 2, h * w).permute(0, 1, 4, 2, 3).flip(-1)
    side = torch.tensor([w, h], dtype=value.dtype)
    grid = (2 * (base + moved) + 1) / side - 1
    samples = F.grid_sample(
        value.reshape(n * groups, c // groups, h, w), grid.flatten(0, 1), align_corners=False
    )
    weights = logits.reshape(n, h * w, groups, POINTS).softmax(-1).transpose(1, 2)
    return (samples * weights.reshape(n * groups, 1, h * w, POINTS)).sum(-1).reshape(n, c, h, w)


attention = torch.library.custom_op("stmdeploy::attention", plain_attention, mutates_args=())
rms_norm = torch.library.custom_op("stmdeploy::rms_norm", plain_rms_norm, mutates_args=())


@attention.register_fake
@rms_norm.register_fake
@deform_conv.register_fake
def _like_the_first(first: Tensor, *_: object) -> Tensor:
    """Tells tracers that their output has the shape of their first argument."""
    return torch.empty_like(first)
