"""`--task detection`, command by command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stmdeploy.cli.main import main
from stmdeploy.errors import ExitCode

NET = ["--stm", "convnext", "--scale", "nano", "--task", "detection", "--image-size", "64x96"]
FEW = ["--runtime", "torch", "--batch", "1", "--budget-s", "0.1", "--processes", "2",
       "--no-explain", "--warmup-limit-s", "0.1"]  # fmt: skip


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def json_of(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> Any:
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says last, and ends with exit code 2."""
    assert main(list(words)) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    found = json_of(capsys, "list", "--task", "detection")["backbones"]
    found = [one for one in found if one["scale"] != "nano"]
    assert len(found) == 21
    assert {one["stm"] for one in found} == {"halo", "pvt", "swin", "convnext", "dcn"}
    halo = next(one for one in found if one["name"] == "unified_halo_micro")
    assert halo["published"] == {"box_ap_percent": 40.3, "mask_ap_percent": 37.3}
    assert (halo["image_side_step_px"], halo["task"]) == (32, "detection")
    assert main(["list", "--task", "detection"]) == 0
    shown = capsys.readouterr().out
    assert "box AP" in shown and "top-1" not in shown and "n x 32" in shown
    promised = json_of(capsys, "list", "promises", "--task", "detection")["promises"]
    assert {one["task"] for one in promised} == {"detection"}


def test_count(capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = json_of(capsys, "count", *NET)["counts"]
    assert (one["task"], one["neck"], one["image_size"]) == ("detection", "", [64, 96])
    (other,) = json_of(capsys, "count", *NET, "--neck", "fpn")["counts"]
    assert other["macs"] > 2 * one["macs"] and other["by_kind"]["neck"] > 0
    (plan,) = json_of(capsys, "profile", *NET[:-2], "--dry-run")["rows"]
    assert (plan["image_size"], plan["batch"]) == ([800, 1344], 1)


def test_export_and_inspect(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", *NET, "--target", "torch", "--precision", "fp16"]
    (made,) = json_of(capsys, *words)["artifacts"]
    path = Path(made["path"])
    assert path.name == "unified_convnext_nano-detection-64x96-fp16.pt"
    assert [one["name"] for one in made["outputs"]] == ["c2", "c3", "c4", "c5"]
    assert made["outputs"][3]["shape"] == ["batch", 256, 2, 3]
    assert (made["model"]["num_classes"], made["model"]["task"]) == (None, "detection")
    errors = made["verification"]["relative_l2_errors"]
    assert set(errors) == {"c2", "c3", "c4", "c5"}
    assert made["verification"]["relative_l2_error"] == max(errors.values()) > 0
    assert made["fidelity"]["top1_agreement_percent"] is None
    assert 0 < made["fidelity"]["relative_l2_error"] < 5e-3
    assert main(["inspect", str(path), "--task", "detection"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "64x96, detection, " in shown and "c5, batchx256x2x3, error" in shown
    told = refused(capsys, "inspect", str(path), "--task", "classification")
    assert "is of detection, not of classification" in told
    assert "gives maps, not classes" in refused(capsys, "evaluate", str(path), "--data", ".")


def test_profile_report_and_recommend(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", *NET, *FEW]) == 0
    words = ["--stm", "convnext", "--scale", "nano", "--image-size", "64", *FEW]
    assert main(["profile", *words]) == 0
    capsys.readouterr()
    both = json_of(capsys, "report")["rows"]
    assert {row["task"] for row in both} == {"classification", "detection"}
    (row,) = json_of(capsys, "report", "--task", "detection")["rows"]
    assert (row["image_height_px"], row["image_width_px"]) == (64, 96)
    assert row["latency_ms_p50"] > 0 and row["published_top1_percent"] is None
    assert main(["report", "--task", "detection", "--markdown"]) == 0
    table = capsys.readouterr().out
    assert "box AP" in table and "mask AP" in table and "top-1" not in table
    (choice,) = json_of(capsys, "recommend", "--task", "detection")["choices"]
    assert choice["task"] == "detection"
    (choice,) = json_of(capsys, "recommend")["choices"]
    assert choice["task"] == "classification"
    # Nobody has published an AP of this scale.
    found = json_of(capsys, "recommend", "--min-box-ap", "40", code=int(ExitCode.CANNOT_TELL))
    assert found["left_out"][0]["limits"] == {"min_box_ap_percent": "not_known"}
    for words in (
        ["--min-box-ap", "40", "--task", "classification"],
        ["--min-top1", "40", "--task", "detection"],
    ):
        told = refused(capsys, "recommend", *words)
        assert "AP belongs to detection backbones, and top-1 to classification" in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["count", "--stm", "pvt_v2", "--task", "detection"], "has no detection form"),
        (["count", "--stm", "swin", "--task", "detect"], "did you mean 'detection'"),
        (["count", "--stm", "swin", "--neck", "fpn"], "give --task detection"),
        (["count", "--stm", "swin", "--task", "detection", "--num-classes", "3"], "has no classes"),
        (["count", "--stm", "swin", "--task", "detection", "--image-size", "800x1333"], "800x1344"),
        (["export", "--stm", "official_swin_tiny", "--task", "detection"], "no detection form"),
        (["profile", "--model", "a:b", "--task", "detection"], "not of the catalogue"),
        (["bound", "--stm", "pvt_v2", "--task", "detection"], "has no detection form"),
        (["list", "--task", "segmentation"], "unknown task 'segmentation'"),
        (["evaluate", "x.onnx", "--data", ".", "--task", "detection"], "AP takes a detector's"),
    ],
)
def test_what_is_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert told in refused(capsys, *words)
