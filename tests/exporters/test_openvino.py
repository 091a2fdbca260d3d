"""The OpenVINO target, exported and run for real."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from stmdeploy import StmdeployError
from stmdeploy.backbones.source import build_module
from stmdeploy.exporters.openvino import OpenVinoExporter
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSettings, RunSpec
from tests.fakes import RecordedProgress
from tests.sharing import FEW, SharedArtifacts, export_model

openvino = pytest.importorskip("openvino")
SMALL = ModelSpec("unified_convnext_nano", image_size=(64, 64), num_classes=10)


def export(
    folder: Path,
    precision: str = "fp32",
    model: ModelSpec = SMALL,
    lowering: str | None = None,
) -> Path:
    spec = ExportSpec(model, "openvino", folder, precision, lowering, calibration=FEW)
    return export_model(spec, RecordedProgress()).path


@pytest.fixture(scope="module")
def made(artifacts: SharedArtifacts) -> dict[str, Path]:
    return {
        precision: artifacts.exported(SMALL, "openvino", precision).path
        for precision in ("fp32", "fp16", "bf16")
    }


def test_the_runner_gives_the_models_logits(made: dict[str, Path]) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        expected = build_module(SMALL)(torch.from_numpy(images)).numpy()
    settings = RunSettings(hint="throughput")
    run = RunSpec("openvino", 2, 1, settings=settings)
    runner = OpenVinoExporter().load(made["fp32"], run, lambda: build_module(SMALL))
    runner.prepare(images)
    runner.run()
    first = runner.outputs()[0]
    assert np.allclose(first, expected, atol=1e-4)
    runner.prepare(np.zeros_like(images))
    runner.run()
    assert not np.allclose(runner.outputs()[0], first)
    facts = runner.facts()
    assert facts["provider.INFERENCE_NUM_THREADS"] == "1"
    assert "THROUGHPUT" in facts["provider.PERFORMANCE_HINT"].upper()
    assert "32" in facts["provider.INFERENCE_PRECISION_HINT"]


def test_precisions_and_their_fidelity(made: dict[str, Path]) -> None:
    manifests = {precision: read_artifact(path).manifest for precision, path in made.items()}
    assert manifests["fp32"].proof.relative_l2_error <= 1e-5
    assert manifests["fp32"].operators["MatMul"] > 10
    for precision, bound in (("fp16", 2e-3), ("bf16", 4e-2)):
        fidelity = manifests[precision].fidelity
        assert fidelity is not None
        assert 1e-4 < fidelity.relative_l2_error < bound
    sizes = {precision: read_artifact(path).size_bytes for precision, path in made.items()}
    assert sizes["fp16"] < 0.6 * sizes["fp32"]
    assert manifests["fp32"].cost is not None


def test_a_processor_without_bf16_measures_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would compute float32 there without a word, and a row would call it bf16."""
    module = sys.modules[OpenVinoExporter.__module__]
    monkeypatch.setattr(module, "_why_no_bf16", lambda _: "this one has no bf16")
    path = export(tmp_path, "bf16")
    manifest = read_artifact(path).manifest
    assert (manifest.state, manifest.not_run) == ("built, not run", "this one has no bf16")
    assert manifest.proof.runtime.startswith("onnxruntime")
    assert manifest.fidelity is not None
    assert 1e-3 < manifest.fidelity.relative_l2_error < 4e-2, "rounded to bf16"
    run = RunSpec("openvino", 1, 1, precision="bf16")
    with pytest.raises(StmdeployError, match="has no bf16") as error:
        OpenVinoExporter().load(path, run, lambda: build_module(SMALL))
    assert error.value.code == 5


def test_bf16_is_what_this_processor_says() -> None:
    core = openvino.Core()
    why = sys.modules[OpenVinoExporter.__module__]._why_no_bf16(core)
    able = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert (why == "") == able
    assert able or core.get_property("CPU", "FULL_DEVICE_NAME") in why


def test_an_operator_without_a_rule_is_named(tmp_path: Path) -> None:
    model = ModelSpec("unified_dcn_v3_nano", image_size=(32, 32))
    with pytest.raises(StmdeployError, match=r"OpenVINO cannot read .*DeformConv"):
        export(tmp_path, model=model, lowering="tokens")
    assert not list(tmp_path.iterdir())


@pytest.mark.nightly
def test_halo_of_one_head_runs(tmp_path: Path) -> None:
    """Its position term is a product too, which OpenVINO must not take for that of q and k."""
    manifest = read_artifact(export(tmp_path, model=ModelSpec("unified_halo_nano"))).manifest
    assert manifest.lowering == "tokens-plain"
    assert manifest.proof.relative_l2_error <= 1e-5


@pytest.mark.slow
def test_int8_by_nncf(tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    manifest = read_artifact(export(tmp_path, "int8")).manifest
    assert manifest.operators["FakeQuantize"] > 15
    assert manifest.calibration is not None
    assert manifest.calibration.method.startswith("nncf")
    assert manifest.fidelity is not None
    assert 1e-3 < manifest.fidelity.relative_l2_error < 0.5
