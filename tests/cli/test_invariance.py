"""Invariance from end to end: toys whose answer is known, and a backbone that learned digits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from stmdeploy.cli.main import main
from stmdeploy.report.page import report_page
from stmdeploy.results.store import Store
from tests.cli.conftest import LEARNER
from tests.digits import write_digits
from tests.shared_exports import share_exports
from tests.sharing import SharedArtifacts


@pytest.fixture(autouse=True)
def models_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker imports by --model."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


@pytest.fixture(scope="module")
def made(digits: Path, artifacts: SharedArtifacts) -> Path:
    """A folder artifacts in fp32, fp16 and int8, and a folder test of 97 digits."""

    def make(root: Path) -> None:
        write_digits(root / "test", slice(1700, None))
        words = ["--checkpoint", str(digits / "digits.pth"), "--calibration", str(digits / "train")]
        precisions = ["--precision", "fp32,fp16,int8", "--out", str(root / "artifacts")]
        with pytest.MonkeyPatch.context() as patch:
            share_exports(artifacts, patch)
            assert main(["export", *LEARNER, *words, *precisions]) == 0

    return artifacts.made("digits in three precisions", make)


def measured(capsys: pytest.CaptureFixture[str], *words: str | Path) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert main(["invariance", *map(str, words), "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["invariances"]
    return found


def patterns(folder: Path, count: int = 24) -> Path:
    """Pictures that repeat every 32 px, so that moving them is moving them round."""
    dice = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        tile = dice.integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(np.tile(tile, (8, 8, 1))).save(folder / f"{i:02}.png")
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_convolutions_alone_mind_no_shift_and_positions_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = patterns(Path("patterns"))
    for name in ("wrapped", "placed"):
        assert main(["export", "--model", f"tests.toys:{name}", "--out", name]) == 0
    artifacts = [next(Path(name).glob("*.onnx")) for name in ("wrapped", "placed")]
    words = ["--data", str(data), "--no-labels", "--transform", "translation", "--batch", "8"]
    wrapped, placed = measured(capsys, *artifacts, *words)
    # Up to 16 px the view stays within the photograph, and every level is a multiple of 4 px.
    for level in wrapped["curves"][0]["levels"][:5]:
        assert level["consistency"]["value"] == 100
        assert level["cross_entropy"]["value"] == pytest.approx(
            wrapped["curves"][0]["levels"][0]["cross_entropy"]["value"], rel=1e-5
        )
        assert level["top1"] is None
    assert placed["curves"][0]["levels"][0]["consistency"]["value"] == 100
    assert max(one["consistency"]["value"] for one in placed["curves"][0]["levels"][1:5]) < 80


@pytest.mark.nightly
@pytest.mark.usefixtures("here")
def test_three_precisions(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = sorted((made / "artifacts").glob("*.onnx"))
    data = ["--data", str(made / "test")]
    some = ["--transform", "translation,scale", "--figure", "curves.png"]
    found = {one["precision"]: one for one in measured(capsys, *artifacts, *data, *some)}
    assert set(found) == {"fp32", "fp16", "int8"}
    assert main(["evaluate", *map(str, artifacts), *data, "--json"]) == 0
    evaluated = json.loads(capsys.readouterr().out)["evaluations"]
    for one in evaluated:
        mine = found[one["precision"]]
        (first, *_), (scale, *_) = (curve["levels"] for curve in mine["curves"])
        # Level 0 is what evaluate sees.
        assert first["top1"]["value"] == pytest.approx(one["top1"]["percent"])
        assert first["top5"]["value"] == pytest.approx(one["top5"]["percent"])
        assert first["consistency"]["value"] == 100 > scale["consistency"]["value"]
        assert mine["images"] == one["images"] == 97
        area = mine["consistency"]
        assert area["low"] < area["value"] < area["high"]
        assert 0 <= one["waiting_percent"] <= 100
    assert found["fp32"]["consistency_more_than_fp32"] is None
    fp16 = found["fp16"]["consistency_more_than_fp32"]
    assert abs(fp16["value"]) < 1
    assert Image.open("curves.png").size[0] > 400
    shown_text(made, artifacts, capsys)


def shown_text(made: Path, artifacts: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    """What stands in the table, and that nothing unfinished is left."""
    data = ["--data", str(made / "test"), "--transform", "rotation", "--limit", "20"]
    assert main(["invariance", str(artifacts[0]), *data]) == 0
    out = capsys.readouterr().out
    assert "rotation" in out and "consistency %" in out and "bootstrap" in out
    kept = list(Path("stmdeploy-results/predictions").iterdir())
    assert kept and all(path.suffix == ".npz" for path in kept)


@pytest.mark.nightly
@pytest.mark.usefixtures("here")
def test_it_stands_in_rows_reports_and_recommendations(
    digits: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--checkpoint", str(digits / "digits.pth"), "--no-explain", "--budget-s", "0.3"]
    assert main(["profile", *LEARNER, *words, "--batch", "1", "--processes", "2"]) == 0
    (artifact,) = Path("stmdeploy-results/artifacts").rglob("*.onnx")
    (one,) = measured(capsys, artifact, "--data", made / "test", "--transform", "rotation")
    assert main(["results", "show", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["consistency_percent"] == one["consistency"]["value"]
    assert row["consistency_transforms"] == "rotation"
    least = one["consistency"]["low"]
    assert main(["recommend", "--min-consistency", str(least - 1)]) == 0
    assert main(["recommend", "--min-consistency", str(one["consistency"]["high"] + 0.1)]) == 3
    rows = Store(Path("stmdeploy-results")).newest_rows()
    page = report_page(rows, "title", "2026").decode()
    assert 'id="invariance"' in page and '"transform":"rotation"' in page
    assert main(["report", "--figures", "figures"]) == 0
    assert Path("figures/invariance.png").is_file()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_what_was_killed_goes_on(
    digits: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = next((made / "artifacts").glob("*fp32.onnx"))
    words = ["--data", str(digits / "train"), "--transform", "translation", "--batch", "32"]
    command = [sys.executable, "-m", "stmdeploy", "invariance", str(artifact), *words, "--json"]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    folder, begun = Path("stmdeploy-results/predictions"), time.monotonic()
    while not list(folder.glob("*/*.npz")) and time.monotonic() - begun < 120:
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert list(folder.glob("*/*.npz")) and not list(folder.glob("*.npz"))
    capsys.readouterr()
    assert main(command[3:]) == 0
    out, err = capsys.readouterr()
    assert "images were done before: going on" in err
    (again,) = json.loads(out)["invariances"]
    (whole,) = measured(capsys, artifact, *words)  # nothing is left to go on with
    assert again["images"] == whole["images"] == 1200
    assert again["curves"] == whole["curves"]


def test_bad_input_is_one_line(made: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifact = str(next((made / "artifacts").glob("*fp32.onnx")))
    data = ["--data", str(made / "test")]
    for words, told in (
        ([artifact, *data, "--transform", "shear"], "unknown transform 'shear'"),
        ([artifact, *data, "--protocol", "own"], "unknown protocol 'own'"),
        ([artifact, *data, "--figure", "a.bmp"], "cannot draw a.bmp"),
        ([artifact, *data, "--seed", "-1"], "seed"),
        ([artifact, *data, "--crop", "2"], "crop 2"),
        ([artifact, *data, "--mean", "a"], "--mean a"),
        ([artifact, "--data", "nowhere"], "is not a folder"),
        ([artifact, "--data", str(made / "test" / "3")], "holds no folders"),
        (["none.onnx", *data], "none.onnx"),
    ):
        assert main(["invariance", *words]) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1, err
    assert list(here.iterdir()) == []
