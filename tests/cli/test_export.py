"""`export` and `inspect` as they are typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stmdeploy.cli.main import main
from stmdeploy.cli.options import EngineOptions, ModelOptions
from stmdeploy.cli.requests import engine_spec, model_specs
from stmdeploy.errors import StmdeployError
from tests.sharing import SharedArtifacts

SMALL = ["--stm", "convnext", "--scale", "nano", "--image-size", "32", "--num-classes", "10"]


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.fixture(autouse=True)
def shared_exports() -> None:
    """Each export is run, in its worker."""


@pytest.fixture(scope="module")
def folder(artifacts: SharedArtifacts) -> Path:
    """Artifacts of two targets in two precisions; they are everybody's, so read them only."""

    def make(root: Path) -> None:
        words = [*SMALL, "--target", "torch,onnx", "--precision", "fp32,fp16"]
        assert main(["export", *words, "--calibration-images", "2", "--out", str(root)]) == 0

    return artifacts.made("exports to torch and onnx", make)


def test_targets_and_precisions_are_combined(folder: Path) -> None:
    stem = "unified_convnext_nano-32x32"
    names = {path.name for path in folder.iterdir()}
    artifacts = {f"{stem}-{p}{s}" for p in ("fp32", "fp16") for s in (".pt", ".onnx")}
    assert names == artifacts | {f"{name}.json" for name in artifacts}


def test_inspect(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "unified_convnext_nano-32x32-fp16.onnx"
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "onnx, fp16, lowering tokens, opset 23", "hash verified", "top-1 agreement",
        "stage 3 mlp", "RMSNormalization", "MACs %", "synthetic, seed 0",
    ):  # fmt: skip
        assert words in shown, words
    document = json_of(capsys, "inspect", str(path))
    assert document["precision"] == "fp16"
    assert document["cost"]["unknown_shapes"] == 0
    assert document["fidelity"]["images"] == 2


def test_inspect_without_a_graph(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder / "unified_convnext_nano-32x32-fp32.pt")]) == 0
    assert "Without an ONNX graph of its own" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("unified_convnext_nano-32x32-fp32.onnx", ["--layers"], "is not an engine"),
        ("nosuch.onnx", [], "no such file"),
        ("", [], "give the path of the artifact"),
        ("..", [], "is a folder"),
    ],
)
def test_what_cannot_be_inspected(
    folder: Path, name: str, flags: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(folder / name), *flags]) == 2
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


def test_an_engine_and_its_layers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    arguments = ["export", *SMALL, "--target", "tensorrt-rtx", "--batch", "4", "--out"]
    made = json_of(capsys, *arguments, str(tmp_path))["artifacts"][0]
    assert made["state"] == "built, not run"
    assert made["engine"]["batch"] == [4, 4, 4]
    assert main(["inspect", made["path"], "--layers"]) == 0
    shown = capsys.readouterr().out
    assert "built, not run: no GPU" in shown
    assert "correlation" in shown
    layers = json_of(capsys, "inspect", made["path"], "--layers")["layers"]
    assert len(layers) == made["engine"]["layers_after"]


def test_triton_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = json_of(capsys, "export", *SMALL, "--layout", "triton", "--out", str(tmp_path))
    (model,) = made["triton_models"]
    assert (Path(model) / "config.pbtxt").read_text().startswith("name: ")
    assert (Path(model) / "1" / "model.onnx").is_file()


def all_scales(stm: str) -> list[str]:
    specs = model_specs(ModelOptions(stm=(stm,), scale=("all",), num_classes=10))
    return [spec.name.rsplit("_", 1)[1] for spec in specs]


def test_all_scales() -> None:
    assert all_scales("dcn") == ["micro", "tiny", "small", "base", "large", "nano"]
    assert all_scales("halonet") == ["micro", "tiny", "small", "base", "nano"]


def test_batches_of_an_engine() -> None:
    assert engine_spec((2, 2, 8), EngineOptions()).batch == (2, 2, 8)
    assert engine_spec((8,), EngineOptions()).batch == (8, 8, 8)
    for bad, says in (((8, 1, 2), "do not grow"), ((1, 2), "MIN,OPT,MAX"), ((0,), "at least 1")):
        with pytest.raises(StmdeployError, match=says):
            engine_spec(bad, EngineOptions())
