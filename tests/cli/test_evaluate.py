"""Evaluation from end to end: a small backbone that has learned scikit-learn's digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from stmdeploy import create_backbone
from stmdeploy.backbones.images import batches_of, image_folder
from stmdeploy.cli.main import main

SIDE, CLASSES = 32, 10
MODEL = ["--stm", "convnext", "--scale", "nano", "--image-size", "32", "--num-classes", "10"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_digits(root: Path, which: slice) -> Path:
    """Digits as pictures, a folder for each."""
    digits = load_digits()
    for i in range(len(digits.target))[which]:
        folder = root / str(digits.target[i])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[i] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(folder / f"{i:04}.png")
    return root


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, train and test, and the checkpoint of a backbone that saw the first."""
    root = tmp_path_factory.mktemp("digits")
    train = image_folder(write_digits(root / "train", slice(0, 1200)), CLASSES)
    write_digits(root / "test", slice(1200, None))
    batches = list(batches_of(train, 1200, (SIDE, SIDE), 2, lambda *_: None))
    images, labels = torch.from_numpy(batches[0].images), torch.from_numpy(batches[0].labels)
    torch.manual_seed(0)
    model = create_backbone("convnext", "nano", image_size=SIDE, num_classes=CLASSES).train()
    rate, steps = 2e-3, 80
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=steps)
    for _ in range(steps):
        some = torch.randint(0, len(labels), (64,))
        loss = cross_entropy(model(images[some]), labels[some])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    torch.save({"model": model.eval().state_dict()}, root / "digits.pth")
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_fp32_fp16_and_int8_in_one_table(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["--checkpoint", str(digits / "digits.pth")]
    low = ["--calibration", str(digits / "train")]
    assert main(["export", *MODEL, *weights, *low, "--precision", "fp32,fp16,int8"]) == 0
    artifacts = sorted(Path("stmdeploy-artifacts").glob("*.onnx"))
    assert len(artifacts) == 3
    (digits / "test" / "3" / "broken.png").write_bytes(b"not a picture")
    capsys.readouterr()

    names = [str(path) for path in artifacts]
    assert main(["evaluate", *names, "--data", str(digits / "test"), "--json"]) == 0
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

    assert main(["evaluate", names[0], "--data", str(digits / "test"), "--limit", "50"]) == 0
    shown = capsys.readouterr().out
    assert "measured top-1 %" in shown
    assert "unreadable image" not in shown or "broken.png" in shown


def torch_top1(digits: Path) -> float:
    """The same figure by PyTorch, without anything of evaluation but the images."""
    model = create_backbone("convnext", "nano", image_size=SIDE, num_classes=CLASSES)
    model.load_state_dict(torch.load(digits / "digits.pth", weights_only=True)["model"])
    data = image_folder(digits / "test", CLASSES)
    (batch,) = batches_of(data, 1000, (SIDE, SIDE), 1, lambda *_: None)
    with torch.inference_mode():
        right = model(torch.from_numpy(batch.images)).argmax(1).numpy() == batch.labels
    return 100 * float(right.mean())


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_measured_accuracy_stands_in_the_table(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = ["--checkpoint", str(digits / "digits.pth"), "--no-explain", "--budget-s", "0.3"]
    assert (
        main(["profile", *MODEL, *weights, "--batch", "1", "--processes", "1", "--budget-s", "1"])
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
