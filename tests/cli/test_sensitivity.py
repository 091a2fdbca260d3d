"""Sensitivity, and precision that is chosen part by part, from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from stmdeploy.cli.main import main
from stmdeploy.schema.artifact import read_artifact
from tests.cli.conftest import LEARNER


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_every_part_in_a_table_and_a_picture(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*LEARNER, "--checkpoint", str(digits / "digits.pth"), "--data", str(digits / "test")]
    few = ["--calibration-images", "8", "--choosing", "16", "--held-out", "8", "--labels"]
    assert main(["sensitivity", *words, *few, "--figure", "parts.png", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["sensitivities"]
    assert found["images"] == 16 and found["data"] == "test"
    assert all(part["kept"]["top1_drop_percent"] is not None for part in found["parts"])
    assert Image.open("parts.png").size[0] > 300
    # Told again from what was kept.
    assert main(["sensitivity", *words, *few]) == 0
    out, err = capsys.readouterr()
    assert "together" in out and "stage 4 mlp" in out
    assert "over choosing images" not in err


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.usefixtures("here")
def test_an_artifact_brings_its_model(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = ["--checkpoint", str(digits / "digits.pth")]
    assert main(["export", *LEARNER, *weights, "--lowering", "tokens-plain"]) == 0
    artifact = str(next(Path("stmdeploy-artifacts").glob("*.onnx")))
    few = ["--calibration-images", "4", "--choosing", "4", "--held-out", "4"]
    assert main(["sensitivity", artifact, *few]) == 2
    assert "give them by --checkpoint" in capsys.readouterr().err
    assert main(["sensitivity", artifact, *weights, *few, "--precision", "fp16", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["sensitivities"]
    assert (found["precision"], found["lowering"], found["data"]) == (
        "fp16", "tokens-plain", "random",
    )  # fmt: skip
    assert found["together"]["relative_l2_error"] < 1e-2


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.usefixtures("here")
def test_the_choice_keeps_its_promise(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", *LEARNER, "--checkpoint", str(digits / "digits.pth"), "--precision", "auto"]
    data = ["--data", str(digits / "test"), "--calibration-images", "16", "--held-out", "400"]
    assert main([*words, *data, "--max-top1-drop", "3", "--json"]) in (0,)
    (made,) = json.loads(capsys.readouterr().out)["artifacts"]
    artifact = read_artifact(Path(made["path"]))
    choice = artifact.manifest.choice
    assert choice is not None and choice.max_top1_drop_percent == 3
    held_out = [one for one in choice.tried if one.over == "held out"]
    assert all(one.images > 300 for one in held_out)
    to_fp32 = next((one for one in choice.latency if one.of == "fp32"), None)
    if artifact.manifest.precision == "int8":
        assert to_fp32 is not None and choice.processor
        assert choice.held and to_fp32.high < 1
        drop = held_out[-1].top1_drop_bound_percent
        assert held_out[-1].holds and drop is not None and drop <= 3
        assert artifact.manifest.kept == held_out[-1].kept_parts
    else:
        assert artifact.manifest.precision == "fp32"
        assert to_fp32.high >= 1 if to_fp32 is not None else not choice.held
    # Whatever is written is an artifact like any other.
    assert main(["inspect", made["path"]]) == 0
    assert main(["evaluate", made["path"], "--data", str(digits / "test")]) == 0
    capsys.readouterr()
    assert main([*words, *data, "--max-error", "1e-6"]) == 0
    out, err = capsys.readouterr()
    assert "fp32 is written" in err and "not shown" in out


def test_bad_input_is_one_line(
    digits: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(digits / "test")]
    auto = ["export", *LEARNER, "--precision", "auto"]
    for words, told in (
        (auto, "needs to know what must hold"),
        ([*auto, "--max-error", "0"], "--max-error 0"),
        ([*auto, "--max-top1-drop", "1"], "needs labelled images"),
        ([*auto, "--max-error", "1", "--keep", "head"], "chooses the parts"),
        ([*auto, "--max-error", "1", "--low-precision", "fp32"], "fp32 is no low precision"),
        ([*auto, "--max-error", "1", "--target", "torch"], "no precision 'int8'"),
        ([*auto, "--max-error", "1", "--calibration", "x"], "give the images by --data"),
        ([*auto[:-1], "auto,fp32", "--max-error", "1"], "stands alone"),
        (["export", *LEARNER, *data], "--data belongs to a precision that is chosen"),
        (["export", *LEARNER, "--held-out", "9"], "--held-out belongs to a precision"),
        (["sensitivity"], "no model is named"),
        (["sensitivity", *LEARNER, "--choosing", "1"], "choosing images"),
        (["sensitivity", "a.onnx", "--stm", "dcn"], "brings its own model"),
        (["sensitivity", *LEARNER, "--precision", "bf16"], "no precision 'bf16'"),
    ):
        assert main(words) == 2, words
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1, err
    assert list(here.iterdir()) == []
