"""The detection backbones against the official implementation, and at sizes of all kinds."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from stmdeploy import StmdeployError, create_backbone
from stmdeploy.backbones.complexity import count
from stmdeploy.backbones.mixers.block import BlockGeometry
from stmdeploy.backbones.mixers.halo import HaloAttention, PaddedHaloAttention
from stmdeploy.backbones.mixers.swin import DetectionSwinBlock, SwinBlock
from stmdeploy.backbones.neck import FeaturePyramid
from stmdeploy.backbones.network import DetectionBackbone
from stmdeploy.backbones.source import build_model
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.model import ModelSpec
from tests.conftest import DATA, at_night, relative_l2

STATE_DICTS = json.loads((DATA / "detection_state_dicts.json").read_text())
OUTPUTS = np.load(DATA / "detection_outputs.npz")
NAMES = list(STATE_DICTS)
#: Name and size (HxW) of every reference output.
CASES = sorted({tuple(key.split("/")[:2]) for key in OUTPUTS})
#: Channels and steps of the maps that are stored.
CHANNELS, STEPS = 4, (4, 4, 1, 1)
#: Sums follow the processor's vectors: with AVX2 up to 1.4e-6 off, with AVX-512 1.2e-6.
TOLERANCE_32 = 2e-6


def built(name: str) -> DetectionBackbone:
    """With the reference's weights."""
    model = create_backbone(name, task="detection")
    fill_synthetic(model)
    return model


def image(batch: int, height: int, width: int) -> Tensor:
    """The reference's input."""
    drawn = np.random.RandomState(1000).standard_normal((batch, 3, height, width))
    return torch.from_numpy(drawn.astype(np.float32))


@pytest.mark.parametrize("name", NAMES)
def test_state_dict_is_the_official_one(name: str) -> None:
    with torch.device("meta"):  # names and shapes alone
        model = create_backbone(name, task="detection")
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == STATE_DICTS[name]["keys"]
    assert sum(p.numel() for p in model.parameters()) == STATE_DICTS[name]["parameters"]


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param(*case, marks=at_night(case[0])) for case in CASES]
)
def test_maps_are_the_official_ones(name: str, size: str) -> None:
    height, width = map(int, size.split("x"))
    model = built(name)
    x = image(int(OUTPUTS[f"{name}/{size}/map1_shape"][0]), height, width)
    with torch.inference_mode():
        maps, maps64 = model(x), model.double()(x.double())
    # The official dcn computes its reference points in float32, even in float64.
    tolerance_64 = 1e-6 if "dcn" in name else 1e-12
    for stage, step in enumerate(STEPS):
        key = f"{name}/{size}/map{stage + 1}"
        assert list(maps[stage].shape) == OUTPUTS[f"{key}_shape"].tolist()
        for got, bound in ((maps64[stage], tolerance_64), (maps[stage], TOLERANCE_32)):
            assert relative_l2(got[:, :CHANNELS, ::step, ::step], OUTPUTS[key]) <= bound
            norm = float(got.double().norm())
            assert norm == pytest.approx(float(OUTPUTS[f"{key}_norm"]), rel=bound)


def test_every_reference_is_covered() -> None:
    assert {name for name, _ in CASES} == set(NAMES) and len(NAMES) == 10


def test_a_window_that_is_whole_is_as_in_classification() -> None:
    """Where nothing is padded, halo's attention and swin's shifted windows are the same."""
    torch.manual_seed(0)
    fixed, free = HaloAttention(8, 2, (14, 21)), PaddedHaloAttention(8, 2)
    fill_synthetic(fixed)
    free.load_state_dict(fixed.state_dict())
    x = torch.randn(2, 14, 21, 8)
    assert torch.equal(free(x), fixed(x))
    at = BlockGeometry(32, 2, 4, 0, 1, (14, 21))
    block, other = SwinBlock(at), DetectionSwinBlock(at)
    fill_synthetic(block)
    other.load_state_dict(block.state_dict())
    x = torch.randn(2, 32, 14, 21)
    assert torch.equal(other(x), block(x))


@pytest.mark.parametrize("stm", ["halo", "pvt", "swin", "convnext", "dcn"])
@pytest.mark.parametrize("size", [(32, 32), (96, 352)])
def test_any_multiple_of_32(stm: str, size: tuple[int, int]) -> None:
    """And an image of a batch knows nothing of the others."""
    model = built(f"unified_{'dcn_v3' if stm == 'dcn' else stm}_micro").double()
    x = image(2, *size).double()
    with torch.inference_mode():
        both, alone = model(x), model(x[1:])
    for stage, (got, expected) in enumerate(zip(both, alone, strict=True)):
        assert got.shape[2:] == tuple(side // (4 << stage) for side in size)
        torch.testing.assert_close(got[1:], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("stm", ["pvt_v2", "official_swin_tiny", "official_pvt_v2_b0"])
def test_who_has_none(stm: str) -> None:
    with pytest.raises(StmdeployError, match="has no detection form; give halo, pvt, swin"):
        create_backbone(stm, task="detection")


def test_sides_that_no_stride_divides() -> None:
    with pytest.raises(StmdeployError, match=r"multiples of 32 .* is 800x1344"):
        create_backbone("swin", task="detection", image_size=(800, 1333))


def test_an_unknown_task() -> None:
    with pytest.raises(StmdeployError, match="unknown task 'detect'; did you mean 'detection'"):
        create_backbone("swin", task="detect")  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("stm", "gmacs"),
    [
        ("convnext", 14.0),
        *(pytest.param(*one, marks=pytest.mark.nightly)
          for one in (("halo", 19.1), ("pvt", 31.2), ("swin", 15.6), ("dcn", 14.2))),
    ],
)  # fmt: skip
def test_macs_at_the_size_of_the_published_aps(stm: str, gmacs: float) -> None:
    """As fvcore counts the authors' code, to three digits."""
    counted = count(create_backbone(stm, "micro", task="detection"), (800, 1344))
    assert counted.macs / 1e9 == pytest.approx(gmacs, abs=0.05 + 0.005 * gmacs)
    assert set(counted.by_kind) <= {"stem", "downsample", "mixer", "mlp", "norm", "other"}
    assert counted.by_kind.get("other", 0) <= 0.002 * counted.macs
    assert "gelu" in counted.uncounted


def test_the_neck_is_fpn() -> None:
    """Five maps of 256 channels; a level is its own map and, enlarged, those above."""
    neck = FeaturePyramid((4, 8, 16, 32))
    fill_synthetic(neck)
    assert set(neck.state_dict()) == {
        f"{convs}.{level}.conv.{name}"
        for convs in ("lateral_convs", "fpn_convs") for level in range(4)
        for name in ("weight", "bias")
    }  # fmt: skip
    maps = [torch.randn(2, 4 << i, 40 >> i, 24 >> i) for i in range(4)]
    with torch.inference_mode():
        pyramid = neck(maps)
        assert [tuple(p.shape[2:]) for p in pyramid] == [
            (40, 24),
            (20, 12),
            (10, 6),
            (5, 3),
            (3, 2),
        ]
        assert all(p.shape[:2] == (2, 256) for p in pyramid)
        assert torch.equal(pyramid[4], pyramid[3][:, :, ::2, ::2])
        # The third level by hand: only its own map and the one above reach it.
        lateral, above = (neck.get_submodule(f"lateral_convs.{i}.conv")(maps[i]) for i in (2, 3))
        both = lateral + above.repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(pyramid[2], neck.get_submodule("fpn_convs.2.conv")(both))
        zeros = [*(torch.zeros_like(one) for one in maps[:3]), maps[3]]
        assert float((neck(zeros)[0] - neck([torch.zeros_like(m) for m in maps])[0]).norm()) > 0


def test_a_neck_stands_behind_the_backbone_and_is_counted() -> None:
    spec = ModelSpec("unified_convnext_nano", (64, 96), task="detection", neck="fpn")
    whole, bare = (build_model(one, Silent()) for one in (spec, replace(spec, neck="")))
    assert {key.split(".")[0] for key in whole.module.state_dict()} == {"backbone", "neck"}
    assert [one.name for one in whole.outputs()] == ["p2", "p3", "p4", "p5", "p6"]
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for given, told in zip(whole.module(x), whole.outputs(), strict=True):
            assert tuple(given.shape[1:]) == told.shape[1:]
        for given, told in zip(bare.module(x), bare.outputs(), strict=True):
            assert tuple(given.shape[1:]) == told.shape[1:]
    counted = count(whole.module, (64, 96))
    assert counted.by_kind["neck"] == counted.macs - count(bare.module, (64, 96)).macs
    assert counted.by_kind["neck"] > 10**8


def test_what_a_detection_backbone_cannot_have() -> None:
    for wrong, told in (
        ({"neck": "fpn"}, "only a detection backbone has a neck"),
        ({"task": "detection", "neck": "pafpn"}, "unknown neck 'pafpn'; did you mean 'fpn'"),
        ({"task": "detection", "num_classes": 10}, "has no classes; leave --num-classes out"),
        ({"task": "detect"}, "unknown task 'detect'"),
    ):
        with pytest.raises(StmdeployError, match=told):
            ModelSpec("unified_swin_micro", **wrong)
    with pytest.raises(StmdeployError, match="not of the catalogue"):
        ModelSpec("mine:net", task="detection")
