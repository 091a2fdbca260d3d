"""The torch target: the state_dict as artifact, eager inference as runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stmdeploy import StmdeployError
from stmdeploy.artifact import read_artifact
from stmdeploy.backbones.source import build_module
from stmdeploy.exporters.torch import TorchExporter
from stmdeploy.pipeline import export_model
from stmdeploy.spec import ExportSpec, ModelSpec, RunSpec
from tests.fakes import RecordedProgress

MODEL = ModelSpec("unified_pvt_micro", image_size=(64, 96), num_classes=5)


def test_round_trip(tmp_path: Path, progress: RecordedProgress) -> None:
    artifact = export_model(ExportSpec(MODEL, "torch", tmp_path), progress)
    assert read_artifact(artifact.path).manifest == artifact.manifest
    module = build_module(MODEL)
    runner = TorchExporter().load(
        artifact.path, RunSpec("torch", 2, torch.get_num_threads()), lambda: build_module(MODEL)
    )
    with pytest.raises(RuntimeError, match="run"):
        runner.output()
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 96)).astype(np.float32)
    runner.prepare(images)
    runner.run()
    with torch.inference_mode():
        expected = module(torch.from_numpy(images)).numpy()
    assert np.allclose(runner.output(), expected, atol=1e-5)
    assert runner.facts()["provider"] == "eager, cpu"


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
