"""A small model, its baseline, and a slowed copy, made once for the tests of the check."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.slowed import slow_down
from stmdeploy.check.baseline import create_baseline
from stmdeploy.check.bundle import open_bundle
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec
from tests.check.known import KnownPairs
from tests.fakes import RecordedProgress
from tests.sharing import SharedArtifacts

#: Batch 2 dies in a worker where a file says so; other batches are well behaved.
RIVAL = """
import ctypes
import os
from pathlib import Path

import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 32, 5, padding=2)
        self.first = nn.Linear(32, 256)
        self.last = nn.Linear(256, 256)
        self.head = nn.Linear(256, classes)
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.head(self.last(torch.relu(self.first(x))))

class Dies(Net):
    def forward(self, x):
        if x.shape[0] == 2 and Path("die").exists():
            ctypes.string_at(0)
        return super().forward(x)

def net():
    return Net()

def wide():
    return Net(20)

def other():
    made = Net()
    with torch.no_grad():
        made.head.bias += 1.0
    return made
"""
#: No further processes, however wide the interval is.
FAST = SamplingSpec(
    budget_s=0.1, processes=1, warmup_s=0.01, warmup_min=2,
    min_samples=8,
)  # fmt: skip


def rival(name: str, side_px: int = 64) -> ModelSpec:
    return ModelSpec(f"check_rivals:{name}", image_size=(side_px, side_px))


def sweep(name: str, *runs: RunSpec) -> SweepSpec:
    return SweepSpec((rival(name),), runs, sampling=FAST)


@dataclass(frozen=True)
class Made:
    """Paths of what the fixture made."""

    folder: Path
    baseline: Path
    archive: Path
    slowed: Path


def _make(folder: Path) -> None:
    (folder / "check_rivals.py").write_text(RIVAL)
    spec = sweep("net", RunSpec("onnxruntime", 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        KnownPairs().install(patch)
        baseline = folder / "baseline"
        create_baseline(spec, baseline, RecordedProgress())
        create_baseline(spec, folder / "baseline.tar.gz", RecordedProgress())
        with open_bundle(baseline) as bundle:
            artifact = bundle.artifact(bundle.baseline.rows[0].artifact).path
            slow_down(artifact, folder / "slowed", 400)


@pytest.fixture(scope="session")
def made(artifacts: SharedArtifacts, tmp_path_factory: pytest.TempPathFactory) -> Made:
    shared = artifacts.made(f"check {FAST} {RIVAL}", _make)
    folder = shutil.copytree(shared, tmp_path_factory.mktemp("check") / "made")
    (slowed,) = (folder / "slowed").glob("*.onnx")
    return Made(folder, folder / "baseline", folder / "baseline.tar.gz", slowed)


@pytest.fixture
def known_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks and baselines measure known times."""
    KnownPairs().install(monkeypatch)


@pytest.fixture
def in_its_folder(made: Made, monkeypatch: pytest.MonkeyPatch) -> Made:
    """The working folder from which the small models can be imported."""
    monkeypatch.chdir(made.folder)
    return made
