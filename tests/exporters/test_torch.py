"""The torch target: the state_dict as artifact, eager inference as runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch

from stmdeploy import StmdeployError
from stmdeploy.backbones.source import build_module
from stmdeploy.exporters.torch import DTYPES, TorchExporter
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.spec.export import CalibrationSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from tests.fakes import RecordedProgress
from tests.sharing import export_model

MODEL = ModelSpec("unified_pvt_nano", image_size=(64, 96), num_classes=5)


def test_round_trip(tmp_path: Path, progress: RecordedProgress) -> None:
    artifact = export_model(ExportSpec(MODEL, "torch", tmp_path), progress)
    assert read_artifact(artifact.path).manifest == artifact.manifest
    module = build_module(MODEL)
    runner = TorchExporter().load(
        artifact.path, RunSpec("torch", 2, torch.get_num_threads()), lambda: build_module(MODEL)
    )
    with pytest.raises(RuntimeError, match="run"):
        runner.outputs()[0]
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    runner.prepare(images)
    runner.run()
    with torch.inference_mode():
        expected = module(torch.from_numpy(images)).numpy()
    assert np.allclose(runner.outputs()[0], expected, atol=1e-5)
    assert runner.facts()["provider"] == "eager, cpu"


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 2e-3), ("bf16", 4e-2)])
def test_sixteen_bits(precision: str, bound: float, tmp_path: Path) -> None:
    spec = ExportSpec(MODEL, "torch", tmp_path, precision, calibration=CalibrationSpec(images=2))
    artifact = export_model(spec, RecordedProgress())
    state = torch.load(artifact.path, weights_only=True)["model"]
    floats = {value.dtype for value in state.values() if value.is_floating_point()}
    assert floats == {getattr(torch, DTYPES[precision])}
    assert artifact.manifest.fidelity is not None
    assert 1e-4 < artifact.manifest.fidelity.relative_l2_error < bound


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None, reason="there is no C++ compiler")
def test_compiled(
    tmp_path: Path, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compiled_rival.py").write_text(
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
    model = ModelSpec("compiled_rival:Net", image_size=(32, 32), num_classes=8)
    artifact = export_model(ExportSpec(model, "torch", tmp_path), progress)
    images = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    outputs = []
    for runtime in ("torch", "torch-compile"):
        run = RunSpec(runtime, 2, torch.get_num_threads())
        runner = TorchExporter().load(artifact.path, run, lambda: build_module(model))
        runner.prepare(images)
        runner.run()
        outputs.append(runner.outputs()[0])
        assert runner.facts()["runtime"] == runtime
    assert np.allclose(outputs[0], outputs[1], atol=1e-4)


def test_a_full_disk_leaves_nothing(tmp_path: Path, progress: RecordedProgress) -> None:
    """A limit on file sizes gives the same error path as a full disk."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StmdeployError, match=r"cannot write to .*file too large"):
            export_model(ExportSpec(MODEL, "torch", tmp_path / "a" / "b"), progress)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="sees no CUDA device"):
        TorchExporter().load(tmp_path, RunSpec("torch", 1, 1, "cuda"), lambda: build_module(MODEL))


def test_the_input_is_a_copy(tmp_path: Path, progress: RecordedProgress) -> None:
    """What is fed overwrites the runner's own input, not the images of whoever gave them."""
    artifact = export_model(ExportSpec(MODEL, "torch", tmp_path), progress)
    runner = TorchExporter().load(
        artifact.path, RunSpec("torch", 1, 1), lambda: build_module(MODEL)
    )
    images = np.ones((1, 3, *MODEL.image_size), np.float32)
    runner.prepare(images)
    runner.feed(np.zeros_like(images))
    assert images.min() == 1.0


@pytest.mark.parametrize("flush", [False, True])
def test_denormals(flush: bool) -> None:
    """In a process of its own, whose threads they are: small numbers squared, in all of them."""
    script = f"""
import torch
from stmdeploy.exporters.tensors import set_up_threads
from stmdeploy.spec.run import RunSettings, RunSpec
set_up_threads(RunSpec("torch", 1, 2, settings=RunSettings(flush_denormals={flush})))
small = torch.full((1_000_000,), 1e-20)
print(int((small * small).view(torch.int32).count_nonzero()))
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert int(told) == (0 if flush else 1_000_000)
