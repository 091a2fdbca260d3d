"""Artifacts laid out as a Triton model repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from stmdeploy import StmdeployError
from stmdeploy.artifacts.triton import write_repository
from stmdeploy.schema.artifact import Artifact
from stmdeploy.spec.model import ModelSpec
from tests.sharing import SharedArtifacts

SMALL = ModelSpec("unified_convnext_nano", image_size=(32, 32), num_classes=10)
CONFIG = """\
name: "unified_convnext_nano-32x32-fp32-onnx"
backend: "onnxruntime"
max_batch_size: 16
input [ { name: "image" data_type: TYPE_FP32 dims: [ 3, 32, 32 ] } ]
output [ { name: "logits" data_type: TYPE_FP32 dims: [ 10 ] } ]
dynamic_batching { }
"""


@pytest.fixture(scope="module")
def artifact(artifacts: SharedArtifacts) -> Artifact:
    return artifacts.exported(SMALL, "onnx")


def test_a_repository(artifact: Artifact, tmp_path: Path) -> None:
    folder = write_repository(artifact, tmp_path, 16)
    assert folder == tmp_path / "unified_convnext_nano-32x32-fp32-onnx"
    assert (folder / "config.pbtxt").read_text() == CONFIG
    assert sorted(path.name for path in folder.rglob("*")) == ["1", "config.pbtxt", "model.onnx"]
    session = onnxruntime.InferenceSession(
        folder / "1" / "model.onnx", providers=["CPUExecutionProvider"]
    )
    assert session.run(None, {"image": np.zeros((2, 3, 32, 32), np.float32)})[0].shape == (2, 10)


def test_an_older_one_is_replaced(artifact: Artifact, tmp_path: Path) -> None:
    folder = write_repository(artifact, tmp_path, 16)
    (folder / "1" / "left.over").write_text("")
    write_repository(artifact, tmp_path, 8)
    assert "max_batch_size: 8" in (folder / "config.pbtxt").read_text()
    assert [path.name for path in (folder / "1").iterdir()] == ["model.onnx"]
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_target_that_triton_does_not_serve(artifacts: SharedArtifacts, tmp_path: Path) -> None:
    made = artifacts.exported(SMALL, "torch")
    with pytest.raises(StmdeployError, match="no backend for target 'torch'"):
        write_repository(made, tmp_path / "models", 16)
    assert not (tmp_path / "models").exists()
