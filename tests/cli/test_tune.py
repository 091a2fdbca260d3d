"""Tuning from end to end: races of real processes, limits, and the file that others read."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stmdeploy.cli.main import main
from stmdeploy.cli.tuned_file import compared_with, tuned_of
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.schema.row import Row
from stmdeploy.schema.tuned import Tuned
from tests.check.known import KnownPairs
from tests.cli.conftest import LEARNER

#: What a race says of the winner.
TIMES = ("latency_ms_p50", "latency_ms_p50_low", "latency_ms_p50_high")
#: A race that is over soon: these tests are about what is told, not about who wins.
SHORT = ["--within-percent", "100", "--budget-s", "30", "--no-settings", "--threads", "1"]


def raced(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[dict[str, Any]], str]:
    """What a race comes to, and what it said."""
    assert main(["tune", *LEARNER, *SHORT, *words, "--json"]) == 0
    out, err = capsys.readouterr()
    return json.loads(out)["tuned"], err


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_the_winner_is_written_for_the_other_commands(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--runtime", "onnxruntime", "--lowering", "tokens,reference", "--batch", "1,2"]
    found, err = raced(capsys, *words)
    assert [one["candidates"][0]["batch"] for one in found] == [1, 2]
    assert err.count("exporting") == 2  # once for both batches
    for one in found:
        told = Tuned.model_validate({k: v for k, v in one.items() if k != "config"})
        states = [candidate.state for candidate in told.candidates]
        assert states[0] == "best" and set(states) <= {"best", "as good", "worse"}
        assert {c.precision for c in told.candidates} == {"fp32"}
        assert {c.lowering for c in told.candidates} == {"tokens", "reference"}
        best = told.named(told.best)
        assert best.waves >= 3 and best.latency_ms_p50
        assert all(c.reason for c in told.candidates[1:])
        others = {told.usual, told.reference} - {told.best}
        assert {ratio.of for ratio in best.ratios} == others
    # The same again is read, not run.
    again, err = raced(capsys, *words)
    assert "measuring" not in err and "exporting" not in err
    assert [one["best"] for one in again] == [one["best"] for one in found]
    assert [one["candidates"] for one in again] == [one["candidates"] for one in found]
    config = found[0]["config"]
    table = tomllib.loads(Path(config).read_text("utf-8"))
    best = found[0]["candidates"][0]
    assert table["runtime"] == best["runtime"] and table["tuned"]["processor"]
    quick = ["--budget-s", "0.5", "--processes", "3", "--no-explain", "--json"]
    assert main(["profile", "--config", config, *quick]) == 0
    out, err = capsys.readouterr()
    (row,) = json.loads(out)["rows"]
    assert (row["runtime"], row["lowering"], row["batch"]) == (
        best["runtime"], best["lowering"], best["batch"],
    )  # fmt: skip
    assert "tuned at" in err and "; now " in err
    assert main(["export", "--config", config, "--json"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert made["target"] == best["target"] and made["lowering"] == best["lowering"]
    KnownPairs().install(monkeypatch)
    assert main(["baseline", "create", "--config", config, "--budget-s", "0.5", "--json"]) == 0
    (kept,) = json.loads(capsys.readouterr().out)["rows"]
    assert kept["runtime"] == best["runtime"]


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_limits_are_tested_on_the_artifact_itself(
    digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--runtime", "onnxruntime", "--lowering", "tokens-plain", "--checkpoint"]
    words += [str(digits / "digits.pth"), "--data", str(digits / "test")]
    words += ["--precision", "fp32,int8,int8-dynamic", "--held-out", "300"]
    (found,), err = raced(capsys, *words, "--max-error", "0.001", "--min-agreement", "95")
    low = [one for one in found["candidates"] if one["precision"] != "fp32"]
    assert len(low) == 2
    for one in low:
        test = one["limits"]
        assert test["images"] == 300 and test["level"] == pytest.approx(0.05 / 2 / 2)
        assert test["error_bound"] > test["kept"]["relative_l2_error"] > 0
        kept = test["error_bound"] <= 0.001 and test["agreement_bound_percent"] >= 95
        assert test["holds"] is kept
        assert (one["state"] == "over a limit") is not kept
        artifact = read_artifact(Path(one["artifact"]))
        assert artifact.manifest.files[0].sha256 == one["artifact_sha256"]
    assert any(one["state"] == "over a limit" for one in low)
    assert "random images" not in err
    # What the usual configuration does not keep either is refused before anything is made.
    assert main(["tune", *LEARNER, *SHORT, *words, "--max-error", "1e-7"]) == 2
    assert "fp32" in capsys.readouterr().err


@pytest.mark.nightly
@pytest.mark.usefixtures("here")
def test_throughput_memory_and_a_limit_of_memory(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--runtime", "onnxruntime", "--lowering", "tokens-plain"]
    more = ["--objective", "throughput", "--batch", "1,4", "--in-flight", "1,2"]
    (found,), _ = raced(capsys, *words, *more)
    told = Tuned.model_validate({k: v for k, v in found.items() if k != "config"})
    best = told.named(told.best)
    rivals = [one for one in told.candidates if one.lowering == "tokens-plain"]
    assert {(one.batch, one.in_flight) for one in rivals} == {(1, 1), (1, 2), (4, 1), (4, 2)}
    assert best.batch == 4  # of so small a model
    (found,), _ = raced(capsys, *words, "--objective", "memory")
    by_memory = [one for one in found["candidates"] if one["lowering"] != "tokens"]
    assert by_memory[0]["memory_peak_mib"] > 0
    assert main(["tune", *LEARNER, *SHORT, *words, "--max-memory-mib", "1"]) == 5
    assert "holds" in capsys.readouterr().err


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "no model to tune"),
        ([*LEARNER, "--precision", "int8"], "may win only within limits"),
        ([*LEARNER, "--runtime", "onnx"], "unknown runtime 'onnx'; did you mean 'onnxruntime'?"),
        ([*LEARNER, "--objective", "speed"], "unknown objective 'speed'"),
        ([*LEARNER, "--in-flight", "2"], "add --objective throughput"),
        ([*LEARNER, "--max-top1-drop", "1"], "needs labelled images"),
        ([*LEARNER, "--error", "0.7"], "give a probability below 0.5"),
        ([*LEARNER, "--runtime", "tensorrt-rtx"], "runs on cuda only"),
        ([*LEARNER, "--runtime", "torch", "--lowering", "tokens"], "nothing is left to race"),
        (["--stm", "convnext", "--task", "detection", "--max-error", "1"], "gives maps, not"),
        ([*LEARNER, "--gpu", "a100"], "has no"),
    ],
)
def test_what_cannot_be_tuned_says_why(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *words]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert len(err.strip().splitlines()) == 1
    assert list(Path().iterdir()) == []


@pytest.mark.usefixtures("here")
def test_a_file_from_elsewhere_is_data(
    make_row: Callable[..., Row], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path("tuned.toml")
    config.write_text('model = "tests.toys:wrapped"\n[tuned]\nprocessor = "another"\n')
    assert main(["profile", "--config", "tuned.toml"]) == 2
    assert "wants to run Python code" in capsys.readouterr().err
    assert main(["export", "--config", "tuned.toml"]) == 2
    assert "wants to run Python code" in capsys.readouterr().err
    config.write_text("[tuned]\nprocessor = [1]\n")
    assert main(["profile", "--config", "tuned.toml"]) == 2
    assert "no table of figures" in capsys.readouterr().err
    for figure in ("nan", "inf", "-1.0", "1e300"):
        config.write_text("[tuned]\n" + "".join(f"{name} = {figure}\n" for name in TIMES))
        assert compared_with(tuned_of(config), (make_row(),)) == ""
    assert main(["profile", "--config", "tuned.toml", "--sweep", "tuned.toml"]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_file_of_another_machine_is_said_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    lines = ['stm = "convnext"', 'scale = "nano"', "image_size = 32", "[tuned]"]
    Path("tuned.toml").write_text("\n".join([*lines, 'processor = "Z80"']) + "\n")
    quick = ["--budget-s", "0.5", "--processes", "3", "--no-explain", "--batch", "1"]
    assert main(["profile", "--config", "tuned.toml", *quick]) == 0
    err = capsys.readouterr().err
    assert "was tuned on another machine (Z80 there" in err
