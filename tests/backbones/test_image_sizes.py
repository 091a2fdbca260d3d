"""Image sizes other than 224: what runs, and what is refused with which words."""

from __future__ import annotations

import pytest
import torch

from stmdeploy import StmdeployError, create_backbone

FAMILIES = ("halo", "pvt", "pvt_v2", "swin", "convnext", "dcn")
ANY_MULTIPLE_OF_32 = ("pvt", "pvt_v2", "convnext", "dcn")


def stage_shapes(stm: str, size: int | tuple[int, int]) -> list[tuple[int, ...]]:
    model = create_backbone(stm, "micro", image_size=size)
    with torch.inference_mode():
        x = torch.randn(1, 3, *model.image_size)
        assert model(x).shape == (1, 1000)
        return [tuple(features.shape[2:]) for features in model.forward_features(x)]


@pytest.mark.parametrize("stm", FAMILIES)
def test_448(stm: str) -> None:
    assert stage_shapes(stm, 448) == [(112, 112), (56, 56), (28, 28), (14, 14)]


@pytest.mark.parametrize("stm", ["halo", "swin"])
def test_windows_take_non_square_multiples_of_224(stm: str) -> None:
    assert stage_shapes(stm, (224, 448)) == [(56, 112), (28, 56), (14, 28), (7, 14)]


@pytest.mark.parametrize("stm", ANY_MULTIPLE_OF_32)
def test_non_square(stm: str) -> None:
    assert stage_shapes(stm, (256, 192)) == [(64, 48), (32, 24), (16, 12), (8, 6)]


@pytest.mark.parametrize("stm", FAMILIES)
@pytest.mark.parametrize("size", [100, 0, (224, 100), (-224, 224)])
def test_refused_sizes_name_those_that_work(stm: str, size: int | tuple[int, int]) -> None:
    with pytest.raises(StmdeployError, match=r"must be multiples of (32|224).*nearest that works"):
        create_backbone(stm, "micro", image_size=size)


def test_window_mixers_refuse_multiples_of_32() -> None:
    with pytest.raises(StmdeployError, match="nearest that works is 224x448"):
        create_backbone("swin", "micro", image_size=(256, 384))
