"""A real classifier over real photographs: exported, quantised, evaluated, moved and turned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stmdeploy.cli.main import main
from tests.photographs import PREPARATION, photographs

MODEL = ["--model", "tests.photographs:lite0", *PREPARATION]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that name the photographs; the working folder is a new one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # for models of the tests
    folder, table = photographs(tmp_path)
    return ["--data", str(folder), "--class-map", str(table)]


def exported(precisions: str, folder: str) -> list[str]:
    words = ["--precision", precisions, "--calibration", folder, "--calibration-images", "10"]
    assert main(["export", *MODEL, *words]) == 0
    return sorted(map(str, Path("stmdeploy-artifacts").glob("*.onnx")))


def told(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


@pytest.mark.nightly
def test_fp32_and_int8_of_a_real_classifier(
    data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """It is right on 18 of the 20, prepared as it was trained, and on fewer otherwise."""
    artifacts = exported("fp32,int8", data[1])
    found = {
        one["precision"]: one for one in told(capsys, "evaluate", *artifacts, *data)["evaluations"]
    }
    assert found["fp32"]["images"] == 20
    assert found["fp32"]["top1"]["percent"] == 90 and found["fp32"]["top5"]["percent"] >= 90
    assert found["fp32"]["top1"]["low"] < 72 < 96 < found["fp32"]["top1"]["high"]
    assert found["int8"]["agreement"]["percent"] >= 60
    usual = ["--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225"]
    (other,) = told(capsys, "evaluate", artifacts[0], *data, *usual)["evaluations"]
    assert other["top1"]["percent"] < 90


@pytest.mark.slow
@pytest.mark.nightly
def test_three_precisions_in_all_views(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = exported("fp32,fp16,int8", data[1])
    found = told(capsys, "invariance", *artifacts, *data, "--figure", "curves.png")["invariances"]
    by_precision = {one["precision"]: one for one in found}
    evaluated = told(capsys, "evaluate", *artifacts, *data)["evaluations"]
    for one in evaluated:
        (translation, *_) = by_precision[one["precision"]]["curves"]
        assert translation["levels"][0]["top1"]["value"] == one["top1"]["percent"]
    full, half = by_precision["fp32"], by_precision["fp16"]
    assert abs(full["consistency"]["value"] - half["consistency"]["value"]) < 2
    rotation = next(curve for curve in full["curves"] if curve["transform"] == "rotation")
    assert rotation["levels"][0]["consistency"]["value"] == 100
    assert rotation["levels"][-1]["consistency"]["value"] < 80
    assert by_precision["int8"]["consistency_more_than_fp32"] is not None
    assert main(["invariance", artifacts[0], *data, "--protocol", "authors"]) == 0
    assert "seven" in capsys.readouterr().out
    words = [*MODEL, *data, "--calibration-images", "6", "--held-out", "8", "--labels"]
    (sensitivity,) = told(capsys, "sensitivity", *words)["sensitivities"]
    assert any(part["part"].startswith("_blocks") for part in sensitivity["parts"])
