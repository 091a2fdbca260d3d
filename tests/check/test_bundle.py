"""Baselines that are whole, and every way in which they are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.check.baseline import create_baseline
from stmdeploy.check.bundle import (
    DOCUMENT,
    MachineKey,
    is_bundle,
    new_bundle,
    open_bundle,
    row_names,
)
from stmdeploy.cli.main import main
from stmdeploy.results.store import Store
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, ScenarioSpec
from stmdeploy.spec.sweep import RowSpec
from tests.check.conftest import Made, sweep
from tests.fakes import RecordedProgress

slow = pytest.mark.slow


@slow
def test_a_folder_and_an_archive_hold_the_same(made: Made) -> None:
    assert is_bundle(made.baseline) and is_bundle(made.archive)
    with open_bundle(made.baseline) as folder, open_bundle(made.archive) as archive:
        for bundle in (folder, archive):
            (row,) = bundle.baseline.rows
            assert row.name == "check_rivals:net 64x64/onnxruntime/fp32/batch1"
            assert len(row.calibrated) == 12
            assert bundle.artifact(row.artifact).manifest.model.name == "check_rivals:net"
            store = Store(bundle.folder)
            assert store.processes(bundle.baseline.sweep, 0)[0].samples_ms
            store.close()
        assert folder.baseline.id != archive.baseline.id, "measured apart"
    assert not archive.folder.exists()


@slow
def test_baselines_are_shown(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baseline", "show", str(made.archive), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["latency_ms_p50"] > 0
    assert main(["baseline", "show", str(made.baseline)]) == 0
    assert "check_rivals:net" in capsys.readouterr().out


@slow
def test_what_is_there_is_not_overwritten(made: Made) -> None:
    with pytest.raises(StmdeployError, match="exists already"):
        create_baseline(
            sweep("net", RunSpec("onnxruntime", 1, 1)), made.archive, RecordedProgress()
        )


def test_a_baseline_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_bundle(tmp_path / "a" / "b") as folder:
        (folder / "half").write_text("x")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def cut(path: Path) -> None:
    (store,) = path.rglob("results.db")
    store.write_bytes(store.read_bytes()[:-1])


def change(path: Path) -> None:
    (artifact,) = path.rglob("check_rivals*.onnx")
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)


def lose(path: Path) -> None:
    shutil.rmtree(path / "objects")


def edit(path: Path) -> None:
    document = path / DOCUMENT
    document.write_text(document.read_text().replace('"batch": 1', '"batch": 2'))


def advance(path: Path) -> None:
    document = path / DOCUMENT
    table = json.loads(document.read_text())
    document.write_text(json.dumps({**table, "schema_version": 99, "new_field": 1}))


def break_json(path: Path) -> None:
    (path / DOCUMENT).write_text("{")


def replace_json(path: Path) -> None:
    (path / DOCUMENT).write_text('{"kind": "something"}')


def empty(path: Path) -> None:
    (path / DOCUMENT).unlink()


def drop_field(path: Path) -> None:
    document = path / DOCUMENT
    table = json.loads(document.read_text())
    del table["machine"]
    document.write_text(json.dumps(table))


@slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (cut, "results.db is cut short"),
        (change, "is not the one in its manifest"),
        (lose, "is missing"),
        (edit, "was edited: its seal does not match"),
        (advance, "has schema 99, this stmdeploy reads 4"),
        (break_json, "baseline.json is not JSON"),
        (replace_json, "baseline.json is no stmdeploy-baseline"),
        (empty, "it has no baseline.json"),
        (drop_field, "baseline.json is damaged at machine"),
    ],
)
def test_every_fault_has_its_own_message_and_exit_code_2(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    message: str,
) -> None:
    copy = shutil.copytree(made.baseline, tmp_path / "copy")
    spoil(copy)
    assert main(["check", str(copy)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@slow
def test_an_archive_that_is_cut_short(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "cut.tar.gz"
    path.write_bytes(made.archive.read_bytes()[:-500])
    with pytest.raises(StmdeployError, match="is no baseline, or is cut short"), open_bundle(path):
        pass
    damaged = bytearray(made.archive.read_bytes())
    middle = len(damaged) // 2
    damaged[middle : middle + 2000] = bytes(2000)
    path.write_bytes(damaged)
    with pytest.raises(StmdeployError, match=r"cut short|changed|missing|holds"), open_bundle(path):
        pass
    path.write_bytes(b"not an archive at all")
    with pytest.raises(StmdeployError, match="is no baseline"), open_bundle(path):
        pass


def test_row_names() -> None:
    model = ModelSpec("unified_convnext_micro", image_size=(64, 96))
    one = RowSpec(model, RunSpec("onnxruntime", 8, 1, precision="int8"))
    two = RowSpec(model, RunSpec("onnxruntime", 8, 2, precision="int8"))
    name = "unified_convnext_micro 64x96/onnxruntime/int8/batch8"
    assert row_names((one,)) == (name,)
    assert row_names((one, two)) == (f"{name}/threads1", f"{name}/threads2")


def test_rows_that_a_check_cannot_compare(tmp_path: Path) -> None:
    for run in (
        RunSpec("torch", 1, 1, in_flight=2),
        RunSpec("torch", 1, 1, scenario=ScenarioSpec("offline")),
        RunSpec("torch", 1, 1, python="python3"),
    ):
        with pytest.raises(StmdeployError, match="a baseline holds plain rows"):
            create_baseline(sweep("net", run), tmp_path / "x", RecordedProgress())


def test_machines_differ_in_words() -> None:
    one = MachineKey(processor="A", cores=2, gpu="", driver="", power_limit_w=None)
    other = one.model_copy(update={"cores": 4, "power_limit_w": 300.0})
    assert one.differences(one) == ()
    assert one.differences(other) == ("cores was 2, is 4", "power_limit_w was None, is 300.0")
