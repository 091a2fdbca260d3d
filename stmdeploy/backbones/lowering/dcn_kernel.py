"""DCNv3's sampling on a GPU as one Triton kernel: softmax, nine bilinear samples, weighted sum.

Nothing between the offsets and the sum is ever written to memory. Inputs and outputs are float32,
float16 or bfloat16, sums and positions float32. `stmdeploy::dcn_sample` makes a torch operator of
it, which `torch.compile` and `torch.export` see through; on a processor it is plain PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from stmdeploy.backbones.mixers.dcn import POINTS, DeformableConv, sample_plainly

#: Rows (one head of one pixel each) of a program.
_BLOCK = 32


def sampling(  # type: ignore[no-untyped-def]
    value,
    offsets,
    logits,
    out,
    rows,
    height,
    width,
    HEADS: tl.constexpr,  # noqa: N803
    CHANNELS: tl.constexpr,  # noqa: N803
    WIDE: tl.constexpr,  # noqa: N803
    BLOCK: tl.constexpr,  # noqa: N803
):
    """One program: `BLOCK` rows of (N H W heads), all channels of the head.

    value, out: N H W heads C; offsets: N H W heads 9 2, x before y; logits: N H W heads 9; all
    contiguous. `WIDE` is the power of two that holds `CHANNELS`.
    """
    row = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)).to(tl.int64)
    known = row < rows
    channel = tl.arange(0, WIDE)
    head = row % HEADS
    pixel = row // HEADS % (height * width)
    image = row // HEADS // (height * width)
    # tl.zeros is a function in Triton, which the interpreter cannot call by itself.
    highest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for point in tl.static_range(9):
        logit = tl.load(logits + row * 9 + point, mask=known, other=0.0).to(tl.float32)
        highest = tl.maximum(highest, logit)
    total = tl.full((BLOCK,), 0.0, tl.float32)
    summed = tl.full((BLOCK, WIDE), 0.0, tl.float32)
    for point in tl.static_range(9):
        logit = tl.load(logits + row * 9 + point, mask=known, other=0.0).to(tl.float32)
        weight = tl.exp(logit - highest)
        total += weight
        at = offsets + row * 18 + 2 * point
        # Point 3a + b lies at (a - 1, b - 1): x is the slow index.
        x = tl.load(at, mask=known, other=0.0).to(tl.float32) + (pixel % width + point // 3 - 1)
        y = tl.load(at + 1, mask=known, other=0.0).to(tl.float32) + (pixel // width + point % 3 - 1)
        left, top = tl.floor(x), tl.floor(y)
        for corner in tl.static_range(4):
            column, line = left + corner % 2, top + corner // 2
            share = (1.0 - tl.abs(x - column)) * (1.0 - tl.abs(y - line))
            inside = (column >= 0) & (column < width) & (line >= 0) & (line < height) & known
            place = tl.where(inside, line, 0.0).to(tl.int64) * width
            place += tl.where(inside, column, 0.0).to(tl.int64)
            first = ((image * height * width + place) * HEADS + head) * CHANNELS
            mask = inside[:, None] & (channel < CHANNELS)[None, :]
            pixels = tl.load(value + first[:, None] + channel[None, :], mask=mask, other=0.0)
            summed += (weight * share)[:, None] * pixels.to(tl.float32)
    result = (summed / total[:, None]).to(out.dtype.element_ty)
    written = known[:, None] & (channel < CHANNELS)[None, :]
    tl.store(out + row[:, None] * CHANNELS + channel[None, :], result, mask=written)


#: The kernel, compiled for the GPU at hand when it is first called.
sampling_kernel = triton.jit(sampling)


def launch(kernel: Any, value: Tensor, offsets: Tensor, logits: Tensor, heads: int) -> Tensor:
    """Calls the kernel; arguments as `dcn_sample`.

    Args:
        kernel: `sampling_kernel`, or something that stands for it.
    """
    n, height, width, channels = value.shape
    out = value.new_empty(value.shape)
    rows = n * height * width * heads
    of_head = channels // heads
    kernel[(triton.cdiv(rows, _BLOCK),)](
        value.contiguous(),
        offsets.contiguous(),
        logits.contiguous(),
        out,
        rows,
        height,
        width,
        HEADS=heads,
        CHANNELS=of_head,
        WIDE=triton.next_power_of_2(of_head),
        BLOCK=_BLOCK,
    )
    return out


def _dcn_sample(value: Tensor, offsets: Tensor, logits: Tensor, heads: int) -> Tensor:
    return launch(torch.library.wrap_triton(sampling_kernel), value, offsets, logits, heads)


dcn_sample: Any = torch.library.triton_op("stmdeploy::dcn_sample", _dcn_sample, mutates_args={})


@dcn_sample.register_kernel("cpu")  # type: ignore[untyped-decorator]
def _on_processors(value: Tensor, offsets: Tensor, logits: Tensor, heads: int) -> Tensor:
    """The same in plain PyTorch."""
    n, h, w, _ = value.shape
    sampled = sample_plainly(
        value, offsets.reshape(n, h * w, heads, POINTS, 2), logits.reshape(n, h * w, heads, POINTS)
    )
    y: Tensor = value.new_empty(value.shape).copy_(sampled)
    return y


def fuse_sampling(module: nn.Module) -> int:
    """Lets the DCNv3 mixers of a module sample by `stmdeploy::dcn_sample`; says how many."""
    mixers = [part for part in module.modules() if isinstance(part, DeformableConv)]
    sampler: Callable[[Tensor, Tensor, Tensor, int], Tensor] = dcn_sample
    for mixer in mixers:
        mixer.sampler = sampler
    return len(mixers)
