"""Fused attention is the attention that is written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from stmdeploy.backbones.catalogue import resolve
from stmdeploy.backbones.mixers.attention import fuse_attention
from stmdeploy.backbones.source import build_module
from stmdeploy.spec.model import CLASSIFICATION, DETECTION, ModelSpec

CASES = [
    *(("halo", CLASSIFICATION, 224), ("swin", CLASSIFICATION, 224), ("pvt", CLASSIFICATION, 64)),
    *(("pvt_v2", CLASSIFICATION, 64), ("halo", DETECTION, 64), ("swin", DETECTION, 96)),
    *(("pvt", DETECTION, 64), ("convnext", CLASSIFICATION, 64)),
]


@pytest.mark.parametrize(("stm", "task", "side"), CASES)
def test_outputs_stay_the_same(stm: str, task: str, side: int) -> None:
    name = f"unified_{stm}_nano"
    module = build_module(ModelSpec(name, (side, side), 10 if task == CLASSIFICATION else None,
                                    task=task)).double()  # fmt: skip
    images = torch.randn(2, 3, side, side, dtype=torch.float64)
    keys = list(module.state_dict())
    with torch.inference_mode():
        written_out = module(images)
        attending = 0 if stm == "convnext" else sum(resolve(name).depths)
        assert fuse_attention(module) == attending
        fused = module(images)
    assert list(module.state_dict()) == keys
    both = (written_out, fused)
    for one, other in zip(*(([x] if isinstance(x, Tensor) else x) for x in both), strict=True):
        assert float((one - other).norm() / one.norm()) < 1e-12


def test_it_is_one_operator_of_the_program() -> None:
    module = build_module(ModelSpec("unified_swin_nano", (224, 224), 10))
    images = torch.randn(2, 3, 224, 224)
    name = "scaled_dot_product_attention"
    assert name not in str(torch.export.export(module, (images,)).graph)
    count = fuse_attention(module)
    assert str(torch.export.export(module, (images,)).graph).count(f"aten.{name}") == count
