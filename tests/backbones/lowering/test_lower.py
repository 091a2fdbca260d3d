"""The lowered form is the same function: float64, any size, batch and weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from stmdeploy import create_backbone, list_backbones
from stmdeploy.backbones.catalogue import resolve
from stmdeploy.backbones.lowering import forms_of, lower
from stmdeploy.backbones.lowering.dcn import FineNeighbours
from stmdeploy.backbones.lowering.operators import deform_conv
from stmdeploy.backbones.lowering.tokens import Reordering, by_place, raster_order
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.spec.export import GPU, LOWERINGS, REFERENCE, TOKENS, TOKENS_PLAIN

FAMILIES = ("halo", "pvt", "pvt_v2", "swin", "convnext", "dcn")
WINDOWED = ("halo", "swin")


def distance(name: str, size: tuple[int, int], batch: int, seed: int, form: str = TOKENS) -> float:
    """Relative L2 distance of a form from the reference, in float64."""
    model = create_backbone(name, "micro", image_size=size, num_classes=10)
    fill_synthetic(model, seed)
    model = model.double()
    x = torch.randn(batch, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(x)
        got = lower(model, form, size)(x)
        assert torch.equal(expected, model(x)), "lowering changed its input"
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", [*WINDOWED, "official_pvt_v2_b0"])
@pytest.mark.parametrize("form", [TOKENS, TOKENS_PLAIN, GPU])
def test_at_224(name: str, form: str) -> None:
    assert distance(name, (224, 224), 1, seed=1, form=form) < 1e-12


@settings(max_examples=8)
@given(
    name=st.sampled_from([name for name in FAMILIES if name not in WINDOWED]),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**31),
    form=st.sampled_from([TOKENS, TOKENS_PLAIN, GPU]),
)
def test_any_size_batch_and_weights(
    name: str, rows: int, columns: int, batch: int, seed: int, form: str
) -> None:
    assert distance(name, (32 * rows, 32 * columns), batch, seed, form) < 1e-12


@settings(max_examples=3)
@given(
    name=st.sampled_from(WINDOWED),
    size=st.sampled_from([(224, 224), (224, 448), (448, 224)]),
    batch=st.integers(1, 2),
    seed=st.integers(0, 2**31),
    form=st.sampled_from([TOKENS, GPU]),
)
def test_windows_of_any_size(
    name: str, size: tuple[int, int], batch: int, seed: int, form: str
) -> None:
    assert distance(name, size, batch, seed, form) < 1e-12


@settings(max_examples=10)
@given(
    name=st.sampled_from(["halo", "pvt", "swin", "convnext", "dcn"]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    batch=st.integers(1, 2),
    form=st.sampled_from([TOKENS, TOKENS_PLAIN, GPU]),
)
def test_detection_at_any_size(name: str, rows: int, columns: int, batch: int, form: str) -> None:
    """Windows that are filled up with zeros, and none, in every stage."""
    size = 32 * rows, 32 * columns
    model = create_backbone(name, "micro", task="detection", image_size=size)
    fill_synthetic(model, rows)
    model = model.double()
    x = torch.randn(batch, 3, *size, dtype=torch.float64)
    with torch.inference_mode():
        expected, got = model(x), lower(model, form, size)(x)
    for mine, theirs in zip(got, expected, strict=True):
        assert mine.shape == theirs.shape
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-12


def test_which_backbones_have_which_forms() -> None:
    forms = {name: forms_of(resolve(name)) for name in list_backbones()}
    without = [name for name in forms if TOKENS not in forms[name]]
    assert without == [name for name in forms if resolve(name).lowered is None]
    assert "official_swin_tiny" in without
    assert set(forms.values()) == {LOWERINGS, (REFERENCE,)}


def test_the_reference_form_is_the_module_itself() -> None:
    model = create_backbone("convnext", "micro")
    assert lower(model, REFERENCE, (224, 224)) is model


def test_deform_conv_reads_its_offsets_as_onnx_does() -> None:
    """One sample moved by (dy, dx) = (1, 2), the others masked out."""
    value = torch.arange(30.0).reshape(1, 1, 5, 6)
    offset = torch.zeros(1, 18, 30)
    logits = torch.full((30, 9), -1e9)
    row, column = 0, 2  # top right of the kernel: one row up, one column right
    point = 3 * row + column
    logits[:, point] = 0.0
    offset[:, 2 * point], offset[:, 2 * point + 1] = 1.0, 2.0
    moved = deform_conv(value, offset, logits, 1)
    assert moved[0, 0, 2, 1] == value[0, 0, 2 - 1 + 1, 1 + 1 + 2]


@given(
    side=st.integers(1, 4), windows=st.integers(1, 4), images=st.integers(1, 3), channels=st.just(2)
)
def test_reordering_moves_whole_rows(side: int, windows: int, images: int, channels: int) -> None:
    """To any order and back; every row of every image arrives where the order says."""
    places = side * side
    raster = raster_order((places, windows))
    mixed = torch.randperm(places * windows)[None]
    placed = by_place(mixed, places)
    assert placed.shape == (places, windows)
    x = torch.randn(images * places * windows, channels)
    there, back = Reordering(raster, placed), Reordering(placed, raster)
    moved = there(x)
    of_image = moved.reshape(places, images, windows, channels)
    for image in range(images):
        rows = x.reshape(images, -1, channels)[image]
        assert torch.equal(of_image[:, image], rows[placed])
    assert torch.equal(back(moved), x)
    assert Reordering(raster, raster)(x) is x


def test_neighbours_beyond_the_map_weigh_nothing() -> None:
    """The point at the top left of the first pixel lies outside; the one in its middle on it."""
    index, weights = FineNeighbours((5, 6))(torch.zeros(1, 30, 1, 18))
    corners = weights[0, 0, 0].reshape(4, 9)
    assert corners.sum(0)[0] == 0, "point 0 is at (-1, -1)"
    assert corners[:, 4].tolist() == [1, 0, 0, 0]
    assert index[0, 0, 0, 4] == 0
    assert int(index.min()) >= 0 and int(index.max()) < 30


@pytest.mark.parametrize("name", WINDOWED)
def test_no_weight_of_attention_is_denormal(name: str) -> None:
    """Neither of a masked logit: processors are slow at such numbers, and ONNX Runtime's
    exponential ends at one, exp(-88.4)."""
    model = lower(create_backbone(name, "micro"), TOKENS_PLAIN, (224, 224))
    below: list[float] = []

    class Looking(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is torch.Tensor.softmax:
                logits = args[0]
                below.append(float((logits.amax(-1, keepdim=True) - logits).max()))
            return func(*args, **(kwargs or {}))

    with Looking(), torch.inference_mode():
        model(torch.randn(1, 3, 224, 224))
    assert 65 < max(below) < 80  # exp(-87.3) is the smallest that is not


@pytest.mark.parametrize(
    ("name", "position", "times"),
    [("swin", "relative_position_bias_table", 40), ("halo", "_rel", 8)],
)
def test_masked_logits_stay_out_of_sight_of_large_ones(
    name: str, position: str, times: int
) -> None:
    """Logits that are tens apart: what is masked still weighs nothing."""
    model = create_backbone(name, "micro", num_classes=10)
    fill_synthetic(model, 3)
    scaled = [value for key, value in model.named_parameters() if key.endswith(position)]
    assert scaled
    for value in scaled:
        value.data.mul_(times)
    model = model.double()
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.inference_mode():
        expected, got = model(x), lower(model, TOKENS, (224, 224))(x)
    assert float((got - expected).norm() / expected.norm()) < 1e-11
