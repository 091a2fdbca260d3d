"""Specs refuse what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.hardware.machine import available_threads
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec, parse_image_size
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec


@pytest.mark.parametrize(("text", "size"), [("224", (224, 224)), ("192x320", (192, 320))])
def test_image_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_image_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "224x", "1x2x3", "-224", "2.5", "big"])
def test_no_image_sizes(text: str) -> None:
    with pytest.raises(StmdeployError, match="image size"):
        parse_image_size(text)


def test_figures_out_of_range() -> None:
    model = ModelSpec("unified_halo_micro")
    with pytest.raises(StmdeployError, match="batch is 0"):
        RunSpec("onnxruntime", 0, 1)
    with pytest.raises(StmdeployError, match="threads is -1"):
        RunSpec("onnxruntime", 1, -1)
    with pytest.raises(StmdeployError, match="number of classes is 0"):
        ModelSpec("unified_halo_micro", num_classes=0)
    with pytest.raises(StmdeployError, match="unknown precision 'fp4'"):
        ExportSpec(model, "onnx", Path(), precision="fp4")
    for budget in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(StmdeployError, match="budget is"):
            SamplingSpec(budget_s=budget)
    with pytest.raises(StmdeployError, match="row timeout"):
        SweepSpec((model,), (), row_timeout_s=0)


def test_file_names_are_safe() -> None:
    custom = ExportSpec(ModelSpec("my.pkg/x:net", image_size=(8, 9)), "onnx", Path())
    assert custom.stem == "my.pkg-x-net-8x9-fp32"


def test_labels() -> None:
    assert ModelSpec("a").label == "a"
    assert ModelSpec("a", image_size=(1, 2)).label == "a 1x2"


def test_threads_are_those_of_this_process() -> None:
    assert 1 <= available_threads() <= 4096
