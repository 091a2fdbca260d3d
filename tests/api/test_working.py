"""Exports and sweeps from Python."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import stmdeploy
from tests.foreign import SIZED, write_two_inputs
from tests.toys import CLASSES, wrapped


@pytest.mark.slow
def test_a_name_is_exported(tmp_path: Path) -> None:
    made = stmdeploy.export(
        "convnext", "nano", image_size=32, num_classes=10, out=tmp_path, progress=False
    )
    assert made.path.parent == tmp_path and made.path.is_file()
    assert made.manifest.proof.relative_l2_error < 1e-5
    assert made.manifest.model.num_classes == 10


@pytest.mark.slow
def test_a_module_is_exported_as_it_is(tmp_path: Path) -> None:
    import onnxruntime as ort

    model = stmdeploy.create_backbone("convnext", "nano", image_size=32, num_classes=7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    made = stmdeploy.export(model, out=tmp_path, progress=False)
    assert made.manifest.model.name == "unified_convnext_nano"
    assert made.manifest.lowering == "tokens"
    images = torch.randn(2, 3, 32, 32)
    session = ort.InferenceSession(made.path)
    got = torch.from_numpy(session.run(None, {"image": images.numpy()})[0])
    with torch.inference_mode():
        assert torch.allclose(got, model(images), atol=1e-4)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.slow
def test_any_module_is_exported_under_its_class(tmp_path: Path) -> None:
    made = stmdeploy.export(wrapped(), image_size=64, out=tmp_path, progress=False)
    info = made.manifest.model
    assert (info.name, info.num_classes, info.stm) == ("tests.toys:Wrapped", CLASSES, "custom")
    with pytest.raises(stmdeploy.StmdeployError, match="has no name to build it by"):
        stmdeploy.export(wrapped(), target="torch", out=tmp_path, progress=False)
    with pytest.raises(stmdeploy.StmdeployError, match="leave scale and checkpoint out"):
        stmdeploy.export(wrapped(), "tiny", out=tmp_path, progress=False)
    with pytest.raises(stmdeploy.StmdeployError, match="does not give logits"):
        stmdeploy.export(torch.nn.Identity(), out=tmp_path, progress=False)


def test_options_are_checked() -> None:
    with pytest.raises(stmdeploy.StmdeployError, match="did you mean 'budget_s'"):
        stmdeploy.profile("convnext", budget=3)
    with pytest.raises(stmdeploy.StmdeployError, match="takes one value"):
        stmdeploy.profile("convnext", hint=["latency", "throughput"])
    with pytest.raises(stmdeploy.StmdeployError, match="unknown runtime"):
        stmdeploy.profile("convnext", runtime="onnx")
    with pytest.raises(stmdeploy.StmdeployError, match="unknown target"):
        stmdeploy.export("convnext", target="tflite")


def test_weights_are_loaded_from_a_file(tmp_path: Path) -> None:
    shape: dict[str, Any] = {"image_size": 32, "num_classes": 10}
    model = stmdeploy.create_backbone("convnext", "nano", **shape)
    with torch.no_grad():
        model.head.bias.fill_(3.0)
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    path = str(tmp_path / "weights.pth")
    loaded = stmdeploy.create_backbone("convnext", "nano", **shape, pretrained=path)
    assert torch.equal(loaded.head.bias, model.head.bias)
    with pytest.raises(stmdeploy.StmdeployError, match="no official checkpoint"):
        stmdeploy.create_backbone("convnext", "nano", **shape, pretrained=True)


def test_backbones_are_found_by_a_pattern() -> None:
    assert stmdeploy.list_backbones("*dcn*micro") == ["unified_dcn_v3_micro"]
    assert len(stmdeploy.list_backbones()) > len(stmdeploy.list_backbones("*tiny")) > 4


def test_importing_is_light() -> None:
    code = "import sys, stmdeploy; print(sorted(m for m in sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ast.literal_eval(told.stdout))
    heavy = {"torch", "numpy", "pydantic", "pandas", "plotly", "typer", "onnx", "scipy"}
    assert not loaded & heavy
    assert set(stmdeploy.__all__) == set(dir(stmdeploy))
    with pytest.raises(AttributeError):
        _ = stmdeploy.nothing


@pytest.mark.slow
def test_a_file_is_measured(tmp_path: Path) -> None:
    path = write_two_inputs(tmp_path / "cameras.onnx")
    found = stmdeploy.profile(
        files=path, input=SIZED, batch=2, budget_s=0.3, processes=3, threads=1, explain=False,
        out=tmp_path / "results", progress=False,
    )  # fmt: skip
    (row,) = found.rows
    assert row.model == "cameras.onnx" and row.failure is None and row.batch == 2
