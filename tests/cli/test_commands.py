"""The commands end to end, in this process; stdout holds the answer and nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stmdeploy.cli.main import main

Document = dict[str, list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def json_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Document:
    assert main([*arguments, "--json"]) == 0
    document: Document = json.loads(capsys.readouterr().out)
    return document


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    backbones = [b for b in json_of(capsys, "list")["backbones"] if b["scale"] != "nano"]
    assert len(backbones) == 27
    dcn = next(b for b in backbones if b["name"] == "unified_dcn_v3_tiny")
    assert dcn["published"] == {"top1_percent": 83.3}
    assert {t["target"] for t in json_of(capsys, "list", "targets")["targets"]} >= {"onnx", "torch"}
    assert {"a100-80gb", "t4"} <= {g["name"] for g in json_of(capsys, "hardware", "list")["gpus"]}
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    assert "unified_dcn_v3_tiny" in shown
    assert " AP" not in shown.replace("with their AP", "")


def test_count(capsys: pytest.CaptureFixture[str]) -> None:
    counts = json_of(capsys, "count", "--stm", "pvt,convnext", "--scale", "micro")["counts"]
    assert [c["model"] for c in counts] == ["unified_pvt_micro", "unified_convnext_micro"]
    assert counts[0]["parameters"] == 4454056
    assert "gelu" in counts[0]["uncounted"]
    assert main(["count", "--stm", "pvt", "--scale", "nano", "--modules"]) == 0
    out = capsys.readouterr().out
    assert "not counted: mul" in out
    assert "stages.0.0.attn" in out


def test_export_and_where_it_goes(
    capsys: pytest.CaptureFixture[str], in_an_empty_folder: Path
) -> None:
    arguments = [
        "export",
        "--stm",
        "dwconv",
        "--scale",
        "nano",
        "--image-size",
        "32",
        "--num-classes",
        "3",
        "--target",
        "torch",
    ]
    (artifact,) = json_of(capsys, *arguments)["artifacts"]
    path = in_an_empty_folder / str(artifact["path"])
    assert path == in_an_empty_folder / "stmdeploy-artifacts/unified_convnext_nano-32x32-fp32.pt"
    assert path.is_file()
    assert artifact["model"]["num_classes"] == 3
    files = {p.name for p in path.parent.iterdir()}
    assert files == {path.name, path.name + ".json"}


def test_profile_then_report(capsys: pytest.CaptureFixture[str], in_an_empty_folder: Path) -> None:
    arguments = [
        "profile",
        "--stm",
        "convnext",
        "--scale",
        "nano",
        "--image-size",
        "64,32",
        "--batch",
        "1",
        "--runtime",
        "torch",
        "--threads",
        "1",
        "--budget-s",
        "0.1",
        "--processes",
        "1",
    ]
    document = json_of(capsys, *arguments)
    assert [row["image_width_px"] for row in document["rows"]] == [64, 32]
    assert document["rows"][0]["latency_ms_p50"] > 0
    assert json_of(capsys, "report")["rows"] == document["rows"]
    assert json_of(capsys, "results", "show")["rows"] == document["rows"]
    assert json_of(capsys, "results", "list")["sweeps"][0]["done"] == 2
    for name in ("a.csv", "a.parquet", "a.json"):
        assert main(["results", "export", name]) == 0
        assert (in_an_empty_folder / name).stat().st_size > 100
    assert main(["results", "export", "timm.csv", "--timm"]) == 0
    assert (in_an_empty_folder / "timm.csv").read_text().startswith("model,infer_img_size,")
    assert (in_an_empty_folder / "stmdeploy-results/report.html").stat().st_size > 10_000
    assert main(["report", "--html", "a.html", "--title", "a <b>", "--figures", "figures"]) == 0
    assert "<title>a &lt;b&gt;</title>" in (in_an_empty_folder / "a.html").read_text()
    assert (in_an_empty_folder / "figures/time-by-part.svg").stat().st_size > 100
    assert main(["report", str(document["sweep"]), "--latex"]) == 0
    assert r"\toprule" in capsys.readouterr().out
    assert main(["results", "merge", "--out", "other", "stmdeploy-results"]) == 0
    assert json_of(capsys, "results", "show", "--out", "other")["rows"] == document["rows"]
    assert main(["results", "prune", "--keep", "0", "--out", "other"]) == 0
    assert main(["results", "show", "--out", "other"]) == 2
    capsys.readouterr()
    assert main(["report", "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| backbone | image | batch |")


def test_a_failed_row_gives_exit_code_5(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(
        [
            "profile",
            "--stm",
            "convnext",
            "--scale",
            "nano",
            "--image-size",
            "32",
            "--batch",
            "200000000",
            "--no-explain",
            "--runtime",
            "torch",
        ]
    )
    assert code == 5
    assert "failed: unified_convnext_nano, batch 200000000: " in capsys.readouterr().out


def test_a_dry_run_measures_nothing(
    capsys: pytest.CaptureFixture[str], in_an_empty_folder: Path
) -> None:
    (in_an_empty_folder / "sweep.toml").write_text(
        'stm = ["halo", "dcn"]\nscale = "micro"\nbatch = [1, 8]\nprocesses = 5\n'
        'scenario = ["loop", "Offline"]\nbudget-s = 2\n'
    )
    arguments = ["profile", "--sweep", "sweep.toml", "--batch", "4", "--dry-run"]
    plan = json_of(capsys, *arguments)
    assert [(row["model"], row["scenario"], row["batch"]) for row in plan["rows"]] == [
        ("unified_halo_micro", "loop", 4),
        ("unified_halo_micro", "offline", 4),
        ("unified_dcn_v3_micro", "loop", 4),
        ("unified_dcn_v3_micro", "offline", 4),
    ]
    assert plan["estimated_measuring_s_at_most"]
    assert [path.name for path in in_an_empty_folder.iterdir()] == ["sweep.toml"]
    assert main(arguments) == 0
    assert "4 rows. Exports: about" in capsys.readouterr().out


@pytest.mark.nightly
def test_a_rival_stands_in_the_table(
    capsys: pytest.CaptureFixture[str], in_an_empty_folder: Path
) -> None:
    (in_an_empty_folder / "rival_cli.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.Linear(128, 10))\n"
    )
    arguments = [
        "profile",
        "--model",
        "rival_cli:net",
        "--stm",
        "dwconv",
        "--scale",
        "nano",
        "--image-size",
        "32",
        "--batch",
        "1",
        "--runtime",
        "torch,onnxruntime",
        "--no-explain",
        "--budget-s",
        "0.1",
        "--processes",
        "1",
    ]
    rows = json_of(capsys, *arguments)["rows"]
    assert [row["model"] for row in rows] == [
        "unified_convnext_nano",
        "unified_convnext_nano",
        "rival_cli:net",
        "rival_cli:net",
    ]
    assert rows[2]["published_top1_percent"] is None
    assert rows[2]["macs"] == 16 * 8 * 192 + 1280


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("stmdeploy 0.")


@pytest.mark.slow
def test_layers_and_their_traces(
    capsys: pytest.CaptureFixture[str], in_an_empty_folder: Path
) -> None:
    arguments = ["profile", "--stm", "convnext", "--scale", "nano", "--image-size", "32",
                 "--batch", "1", "--layers", "--trace", "traces"]  # fmt: skip
    (layers,) = json_of(capsys, *arguments)["layers"]
    assert 0 < layers["mixer_share_percent"] < 100
    assert layers["kinds_ms"].keys() >= {"stem", "mixer", "mlp", "norm", "head", "downsample"}
    (trace,) = (in_an_empty_folder / "traces").iterdir()
    assert json.loads(trace.read_text())["traceEvents"]
    assert not (in_an_empty_folder / "stmdeploy-results").exists()
