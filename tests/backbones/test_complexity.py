"""MACs against the official counts; what is not counted is said."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from stmdeploy import StmdeployError, create_backbone
from stmdeploy.backbones.complexity import KINDS, count, kind_of
from tests.conftest import DATA, at_night

with (DATA / "complexity.csv").open() as _file:
    OFFICIAL = {line["official_name"]: line for line in csv.DictReader(_file)}
#: The base scale is the same code at other widths, and a minute of work.
COUNTED = [
    pytest.param(name, marks=at_night(name))
    for name, line in OFFICIAL.items()
    if line["fvcore_gmacs_224"] and not name.endswith("_base")
]


@pytest.mark.parametrize("name", COUNTED)
def test_macs_are_the_official_ones(name: str) -> None:
    complexity = count(create_backbone(name), (224, 224))
    official = OFFICIAL[name]
    assert complexity.parameters == int(official["params"])
    assert complexity.macs / 1e9 == pytest.approx(float(official["fvcore_gmacs_224"]), rel=5e-3)
    assert complexity.matmul_conv_macs / 1e9 == pytest.approx(
        float(official["matmul_conv_gmacs_224"]), rel=5e-3
    )
    assert sum(complexity.by_kind.values()) == complexity.macs
    assert "other" not in complexity.by_kind
    assert {"gelu", "add", "mul"} <= complexity.uncounted.keys()
    assert "permute" in complexity.data_movement


def test_parameters_of_the_largest() -> None:
    model = create_backbone("dcn", "large")
    parameters = sum(p.numel() for p in model.parameters())
    assert parameters == int(OFFICIAL["unified_dcn_v3_large"]["params"])


def test_macs_grow_with_the_image() -> None:
    small = count(create_backbone("convnext", "micro"), (224, 224))
    large = count(create_backbone("convnext", "micro", image_size=448), (448, 448))
    head = 384 * 1000
    assert large.macs - head == pytest.approx(4 * (small.macs - head), rel=1e-6)


class Attention(nn.Module):
    """1 x 64 tokens of 3 channels: two products of 64 * 64 * 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q = x.flatten(2).transpose(1, 2)
        return F.scaled_dot_product_attention(q, q, q).exp()


class Products(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x[:, 0]
        return F.rms_norm(torch.baddbmm(a, a, a), (8,))


def test_operators_fvcore_lacks() -> None:
    attention = count(Attention(), (8, 8))
    assert attention.by_operator == {"attention": 2 * 64 * 64 * 3}
    assert attention.uncounted == {"exp": 1}
    products = count(Products(), (8, 8))
    assert products.by_operator == {"baddbmm": 8 * 8 * 8, "rms_norm": 4 * 64}
    assert products.matmul_conv_macs == 8 * 8 * 8


def test_an_untraceable_model_is_refused() -> None:
    class Branching(nn.Module):
        def forward(self, _: torch.Tensor) -> torch.Tensor:
            raise ValueError("only on Sundays")

    with pytest.raises(StmdeployError, match="cannot be traced for counting"):
        count(Branching(), (8, 8))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("downsample_layers.0.stem.0", "stem"),
        ("downsample_layers.2.reduction.0", "downsample"),
        ("stages.0.1.attn.qkv", "mixer"),
        ("stages.0.1.dw_input_proj", "mixer"),
        ("stages.3.0.mlp.dwconv.dwconv", "mlp"),
        ("stages.3.0.pwconv2", "mlp"),
        ("conv_head.0", "head"),
        ("head", "head"),
        ("layer1.0.conv1", "other"),
    ],
)
def test_kind_of(name: str, kind: str) -> None:
    assert kind_of(name) == kind
    assert kind in KINDS
