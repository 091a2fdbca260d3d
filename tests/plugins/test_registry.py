"""Exporters are found by their entry points."""

from __future__ import annotations

from pathlib import Path

import pytest

import stmdeploy
from stmdeploy import StmdeployError
from stmdeploy.exporters.onnx import OnnxExporter
from stmdeploy.plugins import registry


def test_targets_and_runtimes() -> None:
    assert {"onnx", "torch"} <= registry.exporters().keys()
    assert registry.exporter_for_target("onnx").target.name == "onnx"
    assert registry.exporter_for_runtime("torch").target.name == "torch"


def test_unknown_names() -> None:
    with pytest.raises(StmdeployError, match="unknown target 'onxx'; did you mean 'onnx'"):
        registry.exporter_for_target("onxx")
    with pytest.raises(StmdeployError, match="unknown runtime 'onnx'; did you mean 'onnxruntime'"):
        registry.exporter_for_runtime("onnx")


def test_a_missing_engine_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stmdeploy.exporters.onnx.find_spec", lambda name: name != "onnxruntime")
    assert "onnxruntime not installed" in OnnxExporter().unavailable()
    with pytest.raises(StmdeployError, match=r"pip install 'stmdeploy\[cpu\]'"):
        registry.exporter_for_target("onnx")


def test_the_core_never_imports_an_exporter_by_name() -> None:
    for file in Path(stmdeploy.__file__).parent.rglob("*.py"):
        assert "import stmdeploy.exporters" not in file.read_text()
        assert "from stmdeploy.exporters" not in file.read_text()
