"""Rows are checked where they are measured: at that batch, in that runtime."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from stmdeploy.artifacts.probe import IMAGES, Probe, further_images, known, probe_images
from stmdeploy.check.side_by_side import Side, SideFailedError, measure_pair
from stmdeploy.cli.main import main
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.turns import TurnsJob
from tests.fakes import RecordedProgress
from tests.sharing import export_model

#: Right at the batches that an export looks at, and not at 5.
PLANTED = """
import torch
from torch import nn

class Leaks(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        y = self.fc(x.flatten(1))
        return y + 0.05 * y.roll(1, 0) if y.shape[0] == 5 else y
"""


@pytest.fixture(autouse=True)
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted_probe.py").write_text(PLANTED)
    monkeypatch.chdir(tmp_path)


def test_the_images_are_the_same_for_ever() -> None:
    """Artifacts keep the outputs and the seed alone."""
    images = probe_images(7, (4, 2))
    assert images.shape == (IMAGES, 3, 4, 2) and images.dtype == np.float32
    assert images[0, 0, 0].tolist() == pytest.approx([1.6905257, -0.46593738])
    assert images[2, 2, 3].tolist() == pytest.approx([1.4976391, -0.2826352])


def test_a_batch_repeats_the_images() -> None:
    probe = Probe(known(7, {"logits": np.ones((IMAGES, 4))}), (4, 2), "fp32", 1e-5)
    batch = probe.batch(5)
    assert np.array_equal(batch[:3], probe_images(7, (4, 2)))
    assert np.array_equal(batch[3:], batch[:2])


def test_few_outputs_near_zero_are_held_against_their_usual_length() -> None:
    """Rounding that is as small as ever is large beside logits that all happen to be near zero."""
    outputs = np.array([[3.0, -4.0], [0.003, 0.004], [-5.0, 0.0], *[[4.0, 3.0]] * 29])
    probe = Probe(known(7, {"logits": outputs}), (4, 2), "fp16", 5e-3)
    rounded = outputs[:IMAGES] + 0.01
    errors, _ = probe.judge([rounded], np.arange(IMAGES))
    assert errors["logits"] == pytest.approx(2**0.5 * 0.01 / (31 * 25 / 32) ** 0.5, rel=1e-3)
    with pytest.raises(StmdeployError, match="in row 1 of a batch of 3"):
        probe.judge([outputs[:IMAGES] + np.array([[0], [0.1], [0]])], np.arange(IMAGES))


def test_of_few_outputs_more_images_tell_the_usual_length() -> None:
    assert [further_images(values) for values in (1, 2, 10, 43, 1000)] == [29, 29, 10, 0, 0]


def test_a_batch_that_leaks_costs_its_row_and_ends_with_4(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [
        "profile", "--model", "planted_probe:Leaks", "--image-size", "2", "--runtime", "torch",
        "--batch", "1,5", "--budget-s", "0.1", "--processes", "1", "--no-explain", "--json",
    ]  # fmt: skip
    assert main(arguments) == int(ExitCode.OUTPUTS_DIFFER)
    right, wrong = json.loads(capsys.readouterr().out)["rows"]
    assert right["failure"] is None and right["latency_ms_p50"] > 0
    assert "in row" in wrong["failure"] and "of a batch of 5" in wrong["failure"]
    assert wrong["failure_code"] == int(ExitCode.OUTPUTS_DIFFER)
    assert wrong["latency_ms_p50"] is None


def test_a_side_of_a_check_that_leaks_differs(tmp_path: Path) -> None:
    model = ModelSpec("planted_probe:Leaks", (2, 2))
    artifact = export_model(ExportSpec(model, "torch", tmp_path), RecordedProgress())
    right, wrong = (
        Side(TurnsJob(artifact=artifact.path, model=model, run=RunSpec("torch", batch, 1)))
        for batch in (1, 5)
    )
    with pytest.raises(SideFailedError, match=r"candidate: .* of a batch of 5") as failed:
        measure_pair(right, wrong, 600, random.Random(0), Silent())
    assert failed.value.code == ExitCode.OUTPUTS_DIFFER
