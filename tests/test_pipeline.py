"""From a spec to rows, with real exports and real workers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from stmdeploy import StmdeployError, pipeline
from stmdeploy.artifact import read_artifact
from stmdeploy.exporters.torch import TorchExporter
from stmdeploy.pipeline import profile
from stmdeploy.results.row import Row
from stmdeploy.results.store import read_results
from stmdeploy.spec import ModelSpec, ProfileSpec, RunSpec, SamplingSpec
from tests.fakes import RecordedProgress

FAST = SamplingSpec(budget_s=0.2, warmup_s=0.01, warmup_min=2, min_samples=8)
SMALL = ModelSpec("unified_convnext_micro", image_size=(64, 64), num_classes=10)


def run(folder: Path, *runs: RunSpec, models: tuple[ModelSpec, ...] = (SMALL,)) -> list[Row]:
    rows: list[Row] = []
    progress = RecordedProgress()
    returned = profile(ProfileSpec(models, runs, folder, FAST), progress, rows.append)
    assert list(returned) == rows
    assert len(progress.steps) <= progress.expected
    return rows


def test_rows_carry_what_was_measured(tmp_path: Path) -> None:
    batches = [RunSpec("torch", batch, 1) for batch in (1, 4)]
    rows = run(tmp_path / "out", *batches)
    assert [row.batch for row in rows] == [1, 4]
    for row in rows:
        assert row.failure is None
        assert row.measurement is not None
        assert row.measurement.latency_ms_p50 > 0
        assert len(row.measurement.samples_ms) >= 8
        assert row.measurement.memory_peak_mib > row.measurement.memory_before_load_mib
        assert row.measurement.runtime_facts["intra_op_threads"] == "1"
        assert row.environment.processor
    assert read_results(tmp_path / "out").rows == tuple(rows)
    frame = pd.read_csv(tmp_path / "out" / "results.csv")
    assert frame["batch"].tolist() == [1, 4]
    assert len(pd.read_parquet(tmp_path / "out" / "results.parquet")) == 2
    (artifact,) = (tmp_path / "out" / "artifacts").glob("*.pt")
    assert read_artifact(artifact).manifest.files[0].sha256 == rows[0].artifact_sha256


@pytest.mark.slow
def test_several_runtimes_and_models_stand_in_one_table(tmp_path: Path) -> None:
    models = (SMALL, ModelSpec("unified_pvt_micro", image_size=(64, 64)))
    rows = run(tmp_path, RunSpec("torch", 1, 1), RunSpec("onnxruntime", 1, 1), models=models)
    assert [(row.stm, row.runtime) for row in rows] == [
        ("convnext", "torch"),
        ("convnext", "onnxruntime"),
        ("pvt", "torch"),
        ("pvt", "onnxruntime"),
    ]
    assert all(row.relative_l2_error is not None and row.relative_l2_error < 1e-5 for row in rows)
    # The worker of onnxruntime never loads torch, which alone takes more than this.
    by_runtime = {row.runtime: row.measurement for row in rows}
    onnxruntime = by_runtime["onnxruntime"]
    assert onnxruntime is not None
    assert onnxruntime.memory_before_load_mib < 120


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    run(tmp_path, RunSpec("torch", 1, 1))
    with pytest.raises(StmdeployError, match="already holds results"):
        run(tmp_path, RunSpec("torch", 1, 1))


def test_a_worker_out_of_memory_costs_one_row(tmp_path: Path) -> None:
    rows = run(tmp_path, RunSpec("torch", 50_000_000, 1), RunSpec("torch", 1, 1))
    assert rows[0].measurement is None
    assert "MemoryError" in (rows[0].failure or "")
    assert rows[1].measurement is not None


def test_an_export_that_fails_costs_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchExporter, "tolerances", {"fp32": 1e-12})
    rows = run(tmp_path, RunSpec("torch", 1, 1), RunSpec("onnxruntime", 1, 1))
    assert rows[0].measurement is None
    assert "not exported: outputs differ" in (rows[0].failure or "")
    assert rows[0].artifact_sha256 is None
    assert rows[1].measurement is not None


def test_a_tampered_artifact_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = read_artifact

    def tamper(path: Path) -> object:
        path.write_bytes(path.read_bytes() + b"x")
        return original(path)

    monkeypatch.setattr(pipeline, "read_artifact", tamper)
    with pytest.raises(StmdeployError, match="its manifest describes a file of"):
        run(tmp_path / "out", RunSpec("torch", 1, 1))
    assert not (tmp_path / "out" / "results.json").exists()


def test_what_lay_in_the_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "mine.txt").write_text("x")
    with pytest.raises(StmdeployError, match="cannot be imported"):
        run(tmp_path, RunSpec("torch", 1, 1), models=(ModelSpec("nosuch:x"),))
    assert [path.name for path in tmp_path.rglob("*")] == ["artifacts", "mine.txt"]


def test_a_form_that_a_target_lacks_costs_its_rows(tmp_path: Path) -> None:
    spec = ProfileSpec((SMALL,), (RunSpec("torch", 1, 1),), tmp_path, FAST, lowering="tokens")
    (row,) = profile(spec, RecordedProgress(), lambda _: None)
    assert row.failure is not None
    assert "has no form 'tokens' for torch" in row.failure


def test_published_figures_stand_only_beside_what_they_were_published_of(tmp_path: Path) -> None:
    official = ModelSpec("unified_convnext_micro")
    rows = run(tmp_path, RunSpec("torch", 1, 1), models=(official, SMALL))
    assert [row.published_top1_percent for row in rows] == [75.1, None]


RIVALS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)
    def forward(self, x):
        return self.fc(x.flatten(1))

class Fixed(Net):
    def forward(self, x):
        y = super().forward(x)
        return y if x.shape[0] == 2 else -y

def broken():
    raise ValueError("no weights")
"""


@pytest.fixture
def rivals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipeline_rivals.py").write_text(RIVALS)
    (tmp_path / "random.py").write_text("raise RuntimeError('shadowed')")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rival(name: str) -> ModelSpec:
    return ModelSpec(f"pipeline_rivals:{name}", image_size=(2, 2))


def test_a_model_that_cannot_be_exported_costs_its_rows(rivals: Path) -> None:
    models = (rival("Fixed"), rival("Net"))
    rows = run(rivals / "out", RunSpec("onnxruntime", 1, 1), models=models)
    assert "not exported" in (rows[0].failure or "")
    assert rows[1].measurement is not None


def test_bad_input_is_found_before_anything_is_measured(rivals: Path) -> None:
    with pytest.raises(StmdeployError, match="no weights"):
        run(rivals / "out", RunSpec("torch", 1, 1), models=(rival("Net"), rival("broken")))
    assert not (rivals / "out").exists()
