"""`hardware` and `bound`: what is known, what is here, and what it could do at best."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stmdeploy.cli.main import main
from stmdeploy.hardware.nvml import Gpu


def test_a_profile_names_the_source_of_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "show", "t4"]) == 0
    shown = capsys.readouterr().out
    assert "320 GB/s" in shown
    assert shown.count("datasheet") >= 5
    assert main(["hardware", "show", "a100", "--json"]) == 0
    names = [p["name"] for p in json.loads(capsys.readouterr().out)["profiles"]]
    assert names == ["a100-40gb", "a100-80gb"]


def test_a_profile_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "show", "a1000"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_cpu_has_no_datasheet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "show", "cpu"]) == 0
    assert "measured at run time" in capsys.readouterr().out
    assert main(["profile", "--gpu", "cpu", "--dry-run"]) == 2
    assert "leave --gpu out" in capsys.readouterr().err


def test_detect_says_which_profile_every_gpu_has(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus = (Gpu("NVIDIA H200", "GPU-1", sliced=True), Gpu("Some GPU", "GPU-2"))
    monkeypatch.setattr("stmdeploy.hardware.gpus.installed_gpus", lambda: gpus)
    assert main(["hardware", "detect", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(g["profile"], g["mig"]) for g in found["gpus"]] == [("h200", True), (None, False)]
    assert main(["hardware", "detect"]) == 0
    shown = capsys.readouterr().out
    assert "divided by MIG" in shown
    assert "none: add one" in shown


def test_detect_without_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stmdeploy.hardware.gpus.installed_gpus", lambda: ())
    assert main(["hardware", "detect"]) == 0
    assert "No NVIDIA GPU" in capsys.readouterr().out


def test_measured_peaks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hardware", "measure", "--threads", "1", "--precision", "fp32", "--json"]) == 0
    (peaks,) = json.loads(capsys.readouterr().out)["peaks"]
    assert (peaks["threads"], peaks["kind"]) == (1, "measured")
    assert [rate["precision"] for rate in peaks["rates"]] == ["fp32"]
    for unknown in ("fp4", "fp8"):
        assert main(["hardware", "measure", "--precision", unknown]) == 2


@pytest.mark.slow
def test_a_bound_is_labelled_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bound_rival.py").write_text(
        "from torch import nn\n"
        "def net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = ["--model", "bound_rival:net", "--image-size", "32", "--num-classes", "10"]
    assert main(["bound", *model, "--gpu", "a100,t4"]) == 0
    shown = capsys.readouterr().out
    assert "Bound, not measured." in shown
    assert all(name in shown for name in ("a100-40gb", "a100-80gb", "t4"))
    assert main(["bound", *model, "--gpu", "t4", "--batch", "2", "--precision", "bf16"]) == 2
    assert "has no rate for bf16" in capsys.readouterr().err
    assert main(["export", *model, "--precision", "fp16", "--out", str(tmp_path)]) == 0
    (artifact,) = tmp_path.glob("*.onnx")
    capsys.readouterr()
    assert main(["bound", str(artifact), "--gpu", "t4", "--batch", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["kind"] == "bound, not measured"
    (found,) = document["bounds"]
    assert (found["precision"], found["batch"], found["processor"]) == ("fp16", 2, "t4")
    # One product of 3 x 32 x 32 by 10 for each of two images.
    assert found["macs"] == 2 * 3 * 32 * 32 * 10
    assert 0 < found["bound_ms"] < 1e-3
