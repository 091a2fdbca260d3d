"""Each mixer's core against a slow, independent form of the same formula, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stmdeploy.backbones.catalogue import resolve
from stmdeploy.backbones.mixers import block_of
from stmdeploy.backbones.mixers.block import BlockGeometry
from stmdeploy.backbones.mixers.dcn import DeformableConv
from stmdeploy.backbones.mixers.halo import HaloAttention
from stmdeploy.backbones.mixers.swin import SwinBlock, shift_mask
from stmdeploy.backbones.synthetic import fill_synthetic

Size = tuple[int, int]


def bilinear(image: Tensor, y: float, x: float) -> Tensor:
    """A C H W image at a point, zeros outside."""
    value = torch.zeros(image.shape[0], dtype=image.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                value += (1 - abs(y - row)) * (1 - abs(x - column)) * image[:, row, column]
    return value


def dcn_point_by_point(mixer: DeformableConv, x: Tensor) -> Tensor:
    n, h, w, c = x.shape
    q = mixer.dw_conv(x.permute(0, 3, 1, 2))
    offsets = mixer.sampling_offsets(q).reshape(n, h, w, mixer.heads, 9, 2)
    weights = mixer.attention_weights(q).reshape(n, h, w, mixer.heads, 9).softmax(-1)
    value = mixer.value_proj(x).permute(0, 3, 1, 2)
    y = torch.zeros(n, h, w, c, dtype=x.dtype)
    d = c // mixer.heads
    for i, r, s, g in torch.cartesian_prod(*map(torch.arange, (n, h, w, mixer.heads))).tolist():
        channels = slice(g * d, (g + 1) * d)
        for a in range(3):
            for b in range(3):
                dx, dy = offsets[i, r, s, g, 3 * a + b].tolist()
                sample = bilinear(value[i, channels], r + b - 1 + dy, s + a - 1 + dx)
                y[i, r, s, channels] += weights[i, r, s, g, 3 * a + b] * sample
    mixed: Tensor = mixer.output_proj(y)
    return mixed


def halo_query_by_query(mixer: HaloAttention, x: Tensor) -> Tensor:
    n, h, w, c = x.shape
    d = c // mixer.heads
    q = mixer.q(x).reshape(n, h, w, mixer.heads, d)
    kv = mixer.kv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(n, h, w, mixer.heads, 2 * d)
    y = torch.zeros(n, h, w, mixer.heads, d, dtype=x.dtype)
    for i, r, s, g in torch.cartesian_prod(*map(torch.arange, (n, h, w, mixer.heads))).tolist():
        query = q[i, r, s, g]
        top, left = r // 7 * 7 - 3, s // 7 * 7 - 3
        logits, values = [], []
        for jy in range(13):
            for jx in range(13):
                row, column = top + jy, left + jx
                if 0 <= row < h and 0 <= column < w:
                    key, value = kv[i, row, column, g].split(d)
                    table = (
                        mixer.pos_embed.width_rel[12 + jx - s % 7]
                        + mixer.pos_embed.height_rel[12 + jy - r % 7]
                    )
                    logits.append(query @ key * d**-0.5 + query @ table)
                    values.append(value)
        y[i, r, s, g] = torch.stack(logits).softmax(0) @ torch.stack(values)
    mixed: Tensor = mixer.proj(y.reshape(n, h, w, c))
    return mixed


@torch.inference_mode()
@pytest.mark.parametrize("size", [(5, 4), (7, 7)])
def test_dcn_is_its_definition(size: Size) -> None:
    mixer = DeformableConv(32, 2, size)
    fill_synthetic(mixer)
    # Offsets of several pixels, so that samples leave the map.
    mixer.sampling_offsets.weight.mul_(2.0)
    mixer = mixer.double().eval()
    x = torch.randn(2, *size, 32, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), dcn_point_by_point(mixer, x), rtol=0, atol=1e-12)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_dcn_samples_exactly_in_16_bits(dtype: torch.dtype, bound: float) -> None:
    # 56 pixels a side and 16 channels a head: where torch's own 16-bit sampling is not finite.
    mixer = DeformableConv(32, 2, (56, 56))
    fill_synthetic(mixer)
    x = torch.randn(1, 56, 56, 32, generator=torch.Generator().manual_seed(0))
    expected = mixer.eval()(x)
    got = mixer.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    assert (got.float() - expected).norm() / expected.norm() < bound


def test_dcn_positions_stay_whole_numbers_in_any_dtype() -> None:
    # bfloat16 knows no odd number above 256.
    mixer = DeformableConv(16, 1, (300, 2)).to(torch.bfloat16)
    assert mixer.base[-1, 4].tolist() == [1, 299]


@torch.inference_mode()
@pytest.mark.parametrize("size", [(7, 7), (14, 7)])
def test_halo_is_its_definition(size: Size) -> None:
    mixer = HaloAttention(8, 2, size)
    fill_synthetic(mixer)
    mixer = mixer.double().eval()
    x = torch.randn(1, *size, 8, dtype=torch.float64)
    torch.testing.assert_close(mixer(x), halo_query_by_query(mixer, x), rtol=0, atol=1e-12)


def test_swin_shifts_odd_blocks_of_stages_larger_than_the_window() -> None:
    def shift(index: int, size: Size) -> int:
        block = SwinBlock(BlockGeometry(32, 2, 4, 0, index, size))
        return block.shift

    assert [shift(index, (14, 14)) for index in range(4)] == [0, 3, 0, 3]
    assert [shift(index, (7, 7)) for index in range(4)] == [0, 0, 0, 0]


def test_swin_mask_separates_what_the_roll_joined() -> None:
    mask = shift_mask((14, 14), 7, 3)[:, 0]
    assert mask.shape == (4, 49, 49)
    assert not mask[0].any()
    last = mask[3]
    # The last window holds rows 7..13 of the rolled map: 4 true rows, 3 from the other edge.
    assert last[0, 3 * 7 + 3] == 0
    assert last[0, 4 * 7] == -100
    assert last[0, 4] == -100


@torch.inference_mode()
@pytest.mark.parametrize("name", ["halo", "pvt", "pvt_v2", "swin", "convnext", "dcn"])
def test_images_of_a_batch_do_not_mix(name: str) -> None:
    block = block_of(resolve(name, "micro").block)(BlockGeometry(32, 2, 4, 2, 1, (14, 14)))
    fill_synthetic(block)
    block = block.double().eval()
    x = torch.randn(3, 32, 14, 14, dtype=torch.float64)
    alone = torch.cat([block(image[None]) for image in x])
    torch.testing.assert_close(block(x), alone, rtol=0, atol=1e-12)
