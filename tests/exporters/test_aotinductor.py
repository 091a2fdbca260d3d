"""AOTInductor: compiled here, run here."""

from __future__ import annotations

import shutil
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch

from stmdeploy import StmdeployError
from stmdeploy.artifacts.outside import adopted, facts_of
from stmdeploy.backbones.source import build_module
from stmdeploy.exporters.aotinductor import AotInductorExporter
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import FileSpec, ModelSpec, parse_input
from stmdeploy.spec.run import RunSpec
from tests.fakes import RecordedProgress
from tests.sharing import export_model

#: Small, because every operator is compiled by the C++ compiler; a backbone of one block a stage by
#: day: tests/artifacts/test_promises.py.
SMALL = ModelSpec("small_rival:Net", image_size=(32, 32), num_classes=8)


@pytest.mark.nightly
@pytest.mark.skipif(which("g++") is None, reason="there is no C++ compiler")
def test_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "small_rival.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(3, 8, 3)\n"
        "        self.norm = torch.nn.LayerNorm(8)\n"
        "    def forward(self, x):\n"
        "        return self.norm(torch.nn.functional.gelu(self.conv(x)).mean((2, 3)))\n"
    )
    monkeypatch.chdir(tmp_path)
    artifact = export_model(ExportSpec(SMALL, "aotinductor", tmp_path), RecordedProgress())
    manifest = read_artifact(artifact.path).manifest
    assert manifest.proof.relative_l2_error <= 1e-5
    assert manifest.lowering == "reference"
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    runner = AotInductorExporter().load(
        artifact.path,
        RunSpec("aotinductor", 2, torch.get_num_threads()),
        lambda: build_module(SMALL),
    )
    runner.prepare(images)
    runner.run()
    with torch.inference_mode():
        expected = build_module(SMALL)(torch.from_numpy(images)).numpy()
    assert np.allclose(runner.outputs()[0], expected, atol=1e-4)
    # The same file without its manifest is one from outside.
    bare = tmp_path / "bare.pt2"
    shutil.copyfile(artifact.path, bare)
    given = (parse_input("x:2x3x32x32"),)
    facts = facts_of(bare, given)
    assert facts.ways == (("aotinductor", "fp32"),) and facts.batch == 2
    spec = ExportSpec(SMALL, "aotinductor", tmp_path / "taken")
    file = FileSpec(bare, facts.ways, given, facts.batch)
    taken = adopted(file, AotInductorExporter(), spec, RecordedProgress())
    assert taken.manifest.state == "not verified"
    runner = AotInductorExporter().load(taken.path, RunSpec("aotinductor", 2, 1), no_module)
    runner.prepare(images)
    runner.run()
    assert np.allclose(runner.outputs()[0], expected, atol=1e-4)


def no_module() -> torch.nn.Module:
    raise AssertionError("a package needs no module")


def test_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "C++ compiler" in AotInductorExporter().unavailable()


def test_a_module_that_cannot_be_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "branching_rival.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.flatten(1) if x.sum() > 0 else -x.flatten(1)\n"
    )
    monkeypatch.chdir(tmp_path)
    model = ModelSpec("branching_rival:Net", image_size=(2, 2))
    with pytest.raises(StmdeployError, match="cannot be compiled"):
        export_model(ExportSpec(model, "aotinductor", tmp_path / "new"), RecordedProgress())
    assert not (tmp_path / "new").exists()
