"""The check end to end, with real workers over a small model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.slowed import slow_down
from stmdeploy.check.baseline import create_baseline
from stmdeploy.check.bundle import DOCUMENT, Baseline, member_info, open_bundle
from stmdeploy.cli.main import main
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from tests.check.conftest import FAST, Made, rival, sweep
from tests.check.known import KnownPairs
from tests.fakes import RecordedProgress
from tests.sharing import export_model

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("known_pairs")]


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, dict[str, Any]]]:
    """Runs the command; its exit code, and the only row of its document."""

    def run(*arguments: str | Path) -> tuple[int, dict[str, Any]]:
        code = main(["check", *map(str, arguments), "--trust", "--json"])
        document = json.loads(capsys.readouterr().out)
        assert document["exit_code"] == code
        (row,) = document["rows"]
        return code, {**row, "way": document["way"]}

    return run


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs the command; its exit code and the one line that it ends with."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        code = main(["check", *map(str, arguments), "--trust"])
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err
        return code, captured.err.strip().splitlines()[-1]

    return run


Check = Callable[..., tuple[int, dict[str, Any]]]
Fails = Callable[..., tuple[int, str]]


def test_the_same_model_exported_again_is_no_change(in_its_folder: Made, check: Check) -> None:
    code, row = check(in_its_folder.baseline)
    assert (code, row["verdict"], row["way"]) == (0, "no change", "artifacts")
    assert row["slowdown_percent_low"] <= row["slowdown_percent"] <= row["slowdown_percent_high"]
    assert row["pairs"] >= 2
    assert row["overall_percent_low"] <= row["overall_percent"] <= row["overall_percent_high"]
    assert row["candidate_latency_ms_p50"] > 0


def test_a_slowed_copy_is_a_regression(in_its_folder: Made, check: Check, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, row = check(in_its_folder.archive, in_its_folder.slowed, "--html", page)
    assert (code, row["verdict"]) == (1, "regression")
    assert row["slowdown_percent_low"] > 800
    assert "--layers" in row["advice"][0]
    assert page.read_text().count("<rect") == 96


def test_a_faster_candidate_is_an_improvement(
    in_its_folder: Made, check: Check, tmp_path: Path
) -> None:
    def slow(baseline: Baseline) -> Baseline:
        (row,) = baseline.rows
        for name in (in_its_folder.slowed.name, f"{in_its_folder.slowed.name}.json"):
            place = (tmp_path / "slow" / row.artifact).with_name(name)
            shutil.copyfile(in_its_folder.slowed.with_name(name), place)
        files = tuple(member_info(tmp_path / "slow", file.name) for file in baseline.files)
        return baseline.model_copy(update={"files": files})

    path = edited(in_its_folder, tmp_path / "slow", slow)
    code, row = check(path, in_its_folder.baseline)
    assert (code, row["verdict"]) == (0, "improvement")
    assert row["slowdown_percent_high"] < -80


@pytest.mark.nightly
def test_a_detection_backbone_and_the_rows_of_one_task(
    check: Check, fails: Fails, tmp_path: Path
) -> None:
    model = ModelSpec("unified_convnext_nano", (64, 96), task="detection")
    spec = SweepSpec((model,), (RunSpec("onnxruntime", 1, 1),), sampling=FAST)
    create_baseline(spec, tmp_path / "b", RecordedProgress())
    code, row = check(tmp_path / "b", "--task", "detection")
    assert (code, row["verdict"]) == (0, "no change")
    assert row["name"].startswith("unified_convnext_nano detection 64x96/onnxruntime")
    with open_bundle(tmp_path / "b") as bundle:
        assert [len(one) for one in bundle.baseline.rows[0].outputs] == [2458, 1229, 3072, 1536]
    code, line = fails(tmp_path / "b", "--task", "classification")
    assert code == 2 and "has no row of classification" in line


@pytest.mark.usefixtures("in_its_folder")
def test_weights_alone_are_not_compared_with_themselves(fails: Fails, tmp_path: Path) -> None:
    create_baseline(sweep("net", RunSpec("torch", 1, 1)), tmp_path / "b", RecordedProgress())
    code, line = fails(tmp_path / "b")
    assert code == 2
    assert "holds weights and no code" in line


def test_two_interpreters(in_its_folder: Made, check: Check) -> None:
    code, row = check(in_its_folder.baseline, "--baseline-python", sys.executable)
    assert (code, row["verdict"], row["way"]) == (0, "no change", "interpreters")


def test_stored_numbers_of_this_machine(in_its_folder: Made, check: Check) -> None:
    code, row = check(
        in_its_folder.baseline, in_its_folder.slowed, "--stored", "--threshold-percent", "30"
    )
    assert (code, row["verdict"], row["way"]) == (1, "regression", "stored")
    assert row["baseline_latency_ms_p50"] is None
    assert row["threshold_percent"] == 35


def edited(made: Made, folder: Path, change: Callable[[Baseline], Baseline]) -> Path:
    """A copy of the baseline, changed and sealed again, as another machine would have made it."""
    shutil.copytree(made.baseline, folder)
    document = folder / DOCUMENT
    baseline = change(Baseline.model_validate_json(document.read_text())).sealed()
    document.write_text(baseline.model_dump_json())
    return folder


def test_stored_numbers_of_another_machine_tell_nothing(
    in_its_folder: Made, check: Check, tmp_path: Path
) -> None:
    def elsewhere(baseline: Baseline) -> Baseline:
        machine = baseline.machine.model_copy(update={"processor": "Another CPU"})
        return baseline.model_copy(update={"machine": machine})

    path = edited(in_its_folder, tmp_path / "elsewhere", elsewhere)
    code, row = check(path, in_its_folder.slowed, "--stored")
    assert (code, row["verdict"], row["pairs"]) == (3, "cannot tell", 0)
    assert "processor was Another CPU" in row["advice"][0]
    code, row = check(path, in_its_folder.slowed, "--stored", "--cannot-tell", "pass")
    assert code == 0


def test_stored_numbers_of_another_runtime_tell_nothing(
    in_its_folder: Made, check: Check, tmp_path: Path
) -> None:
    def older(baseline: Baseline) -> Baseline:
        rows = tuple(r.model_copy(update={"runtime_version": "1.0"}) for r in baseline.rows)
        return baseline.model_copy(update={"rows": rows})

    path = edited(in_its_folder, tmp_path / "older", older)
    code, row = check(path, in_its_folder.slowed, "--stored", "--budget-s", "1")
    assert (code, row["verdict"], row["slowdown_percent"]) == (3, "cannot tell", None)
    assert "onnxruntime was 1.0" in row["advice"][0]


def test_gates(in_its_folder: Made, check: Check, tmp_path: Path) -> None:
    config = tmp_path / "gates.toml"
    config.write_text("threshold-percent = 1000\ngates = { size = 1, memory = 50, load = 1e6 }\n")
    code, row = check(
        in_its_folder.baseline, in_its_folder.baseline, "--config", config, "--stored"
    )
    assert (code, row["verdict"]) == (3, "cannot tell")
    assert "nothing is known for the gates load, memory" in row["advice"][0]
    code, row = check(in_its_folder.baseline, in_its_folder.slowed, "--config", config)
    assert (code, row["verdict"]) == (1, "regression")
    by_name = {gate["name"]: gate for gate in row["gates"]}
    assert by_name["size"]["broken"] and not by_name["memory"]["broken"]
    assert row["advice"][0].startswith("size grew by")


def test_a_fast_wrong_candidate_is_no_pass(
    in_its_folder: Made, check: Check, tmp_path: Path
) -> None:
    export_model(ExportSpec(rival("other"), "onnx", tmp_path), RecordedProgress())
    (wrong,) = tmp_path.glob("*.onnx")
    with open_bundle(in_its_folder.baseline) as bundle:
        right = bundle.artifact(bundle.baseline.rows[0].artifact).manifest
    # It claims to be the same model with the same weights.
    manifest: Manifest = read_artifact(wrong).manifest
    claim = manifest.model_copy(update={"model": right.model}).sealed()
    manifest_path(wrong).write_text(claim.model_dump_json())
    for way in ((), ("--stored",)):
        code, row = check(in_its_folder.baseline, wrong, *way)
        assert (code, row["verdict"]) == (4, "outputs differ")
    assert "with the same weights" in row["advice"][0]


def test_outputs_that_are_not_the_models_are_no_pass(
    in_its_folder: Made, check: Check, tmp_path: Path
) -> None:
    """Found by the worker itself: it gives something else than the manifest says."""
    copy = shutil.copytree(in_its_folder.slowed.parent, tmp_path / "other")
    path = copy / in_its_folder.slowed.name
    manifest = read_artifact(path).manifest
    known = manifest.proof.outputs
    others = known.model_copy(update={"seed": known.seed + 1})
    claim = manifest.proof.model_copy(update={"outputs": others})
    manifest_path(path).write_text(
        manifest.model_copy(update={"verification": claim}).sealed().model_dump_json()
    )
    code, row = check(in_its_folder.baseline, path)
    assert (code, row["verdict"]) == (4, "outputs differ")
    assert row["advice"][0].startswith("candidate: ")


def test_a_worker_that_dies_midway_is_no_pass(in_its_folder: Made, check: Check) -> None:
    folder = in_its_folder.folder
    path = folder / "dies"
    create_baseline(sweep("Dies", RunSpec("torch", 2, 1)), path, RecordedProgress())
    (folder / "die").touch()
    try:
        code, row = check(path, "--candidate-python", sys.executable)
    finally:
        (folder / "die").unlink()
    assert (code, row["verdict"]) == (5, "failed")
    assert "worker died of SIGSEGV" in row["advice"][0]


def test_candidates_that_do_not_fit(in_its_folder: Made, fails: Fails, tmp_path: Path) -> None:
    baseline = in_its_folder.baseline
    export_model(ExportSpec(rival("wide"), "onnx", tmp_path / "wide"), RecordedProgress())
    code, line = fails(baseline, tmp_path / "wide")
    assert code == 2 and "has no artifact of check_rivals:net in fp32 for onnx" in line
    export_model(ExportSpec(rival("net", 32), "onnx", tmp_path / "small"), RecordedProgress())
    code, line = fails(baseline, tmp_path / "small")
    assert code == 2
    assert "the candidate's input is image float32 ['batch', 3, 32, 32]" in line
    (tmp_path / "empty").mkdir()
    assert fails(baseline, tmp_path / "empty") == (
        2,
        f"stmdeploy: {tmp_path / 'empty'} holds no artifacts; "
        f"write some: stmdeploy export --out {tmp_path / 'empty'}",
    )
    code, line = fails(baseline, tmp_path / "none.onnx")
    assert code == 2 and "none.onnx.json" in line
    copy = shutil.copytree(in_its_folder.slowed.parent, tmp_path / "cut")
    artifact = copy / in_its_folder.slowed.name
    artifact.write_bytes(artifact.read_bytes()[:-10])
    code, line = fails(baseline, artifact)
    assert code == 2 and "is cut short" in line


def test_a_slowed_copy_gives_the_same_outputs(in_its_folder: Made, tmp_path: Path) -> None:
    with open_bundle(in_its_folder.baseline) as bundle:
        plain = bundle.artifact(bundle.baseline.rows[0].artifact).path
        slow = slow_down(plain, tmp_path, 3)
    assert read_artifact(slow).manifest.model == read_artifact(in_its_folder.slowed).manifest.model


def test_bad_usage(in_its_folder: Made, fails: Fails) -> None:
    baseline = in_its_folder.baseline
    for arguments, words in (
        ((baseline, "--stored", "--baseline-python", sys.executable), "--stored runs no baseline"),
        ((baseline, "--baseline-python", "/none/python"), "cannot be started"),
        ((baseline, "--threshold-percent", "-1"), "threshold-percent is -1"),
        ((baseline, "--budget-s", "nan"), "budget-s is nan"),
        ((baseline, "--cannot-tell", "maybe"), "unknown cannot-tell 'maybe'"),
        ((baseline, "--config", "none.toml"), "none.toml: no such file"),
        (("nothing-here",), "there is no baseline nothing-here"),
    ):
        code, line = fails(*arguments)
        assert code == 2
        assert words in line


def test_commands_to_a_runner_stay_commands_beside_json(
    made: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is in a line is escaped; the line itself is what the runner is to read."""
    monkeypatch.chdir(made.folder)
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    KnownPairs().install(monkeypatch)
    assert main(["check", str(made.baseline), str(made.slowed), "--json"]) == 1
    said = capsys.readouterr()
    assert any(line.startswith("::error title=stmdeploy") for line in said.err.splitlines())
    assert said.out.startswith("{")
