"""Evaluation from end to end: a small backbone that has learned scikit-learn's digits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from stmdeploy import create_backbone
from stmdeploy.cli.main import main
from tests.cli.conftest import LEARNER, SIDE
from tests.digits import CLASSES, images_in


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_fp32_fp16_and_int8_in_one_table(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["--checkpoint", str(digits / "digits.pth")]
    low = ["--calibration", str(digits / "train")]
    assert main(["export", *LEARNER, *weights, *low, "--precision", "fp32,fp16,int8"]) == 0
    artifacts = sorted(Path("stmdeploy-artifacts").glob("*.onnx"))
    assert len(artifacts) == 3
    shutil.copytree(digits / "test", "test")
    Path("test/3/broken.png").write_bytes(b"not a picture")
    capsys.readouterr()

    names = [str(path) for path in artifacts]
    assert main(["evaluate", *names, "--data", "test", "--json"]) == 0
    out, err = capsys.readouterr()
    found = {e["precision"]: e for e in json.loads(out)["evaluations"]}
    assert set(found) == {"fp32", "fp16", "int8"}
    assert err.count("skipped ") == 3  # once for each artifact
    for one in found.values():
        assert (one["images"], one["skipped"], one["skipped_files"]) == (597, 1, ["3/broken.png"])
        assert one["top1"]["low"] < one["top1"]["percent"] < one["top1"]["high"]
        assert one["top5"]["percent"] >= one["top1"]["percent"]
    full = found["fp32"]["top1"]["percent"]
    assert full > 85  # it has learned
    assert full == pytest.approx(torch_top1(digits), abs=1e-9)
    assert found["fp32"]["agreement"] is None
    assert found["fp16"]["agreement"]["percent"] > 99
    assert found["int8"]["agreement"]["percent"] > 90
    assert found["int8"]["reference_top1"]["percent"] == full

    assert main(["evaluate", names[0], "--data", "test", "--limit", "50"]) == 0
    shown = capsys.readouterr().out
    assert "measured top-1 %" in shown
    assert "unreadable image" not in shown or "broken.png" in shown


def torch_top1(digits: Path) -> float:
    """The same figure by PyTorch, without anything of evaluation but the images."""
    model = create_backbone("convnext", "nano", image_size=SIDE, num_classes=CLASSES)
    model.load_state_dict(torch.load(digits / "digits.pth", weights_only=True)["model"])
    images, labels = images_in(digits / "test", SIDE)
    with torch.inference_mode():
        right = model(images).argmax(1) == labels
    return 100 * float(right.double().mean())


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_measured_accuracy_stands_in_the_table(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--checkpoint", str(digits / "digits.pth"), "--no-explain", "--budget-s", "0.3"]
    assert (
        main(["profile", *LEARNER, *weights, "--batch", "1", "--processes", "1", "--budget-s", "1"])
        == 0
    )
    (artifact,) = Path("stmdeploy-results/artifacts").rglob("*.onnx")
    data = ["--data", str(digits / "test")]
    assert main(["evaluate", str(artifact), *data]) == 0
    capsys.readouterr()
    assert main(["results", "show", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["measured_top1_percent"] > 85
    assert row["published_top1_percent"] is None
    assert row["measured_data"] == "test"
    assert main(["results", "show"]) == 0
    assert "measured top-1 %" in capsys.readouterr().out


def test_bad_input_is_one_line(
    digits: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "none.onnx", "--data", str(digits / "test")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["evaluate", "none.onnx"]) == 2
    assert list(here.iterdir()) == []
