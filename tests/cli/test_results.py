"""`results`: what a store holds besides sweeps."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy.cli.main import main
from stmdeploy.results.state import DONE
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row, RowContrast
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from tests.fakes import evaluation

MakeRow = Callable[..., Row]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The store of the working folder, empty."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stmdeploy-results").mkdir()
    return Store(tmp_path / "stmdeploy-results", create=True)


def evaluate(store: Store, make_row: MakeRow, artifacts: int) -> None:
    """So many artifacts over one data set, and the first over another."""
    rows = [
        make_row(model=f"unified_m{i}_micro", artifact_sha256=str(i) * 64) for i in range(artifacts)
    ]
    for row in rows:
        store.add_evaluation(evaluation(row, 70.0))
    other = {"data": "another", "data_sha256": "3" * 64, "created_utc": "2026-01-02"}
    store.add_evaluation(evaluation(rows[0], 60.0).model_copy(update=other))


def test_evaluations_alone_are_told(
    store: Store, make_row: MakeRow, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(store, make_row, 2)
    assert main(["results", "list"]) == 0
    assert capsys.readouterr().out == (
        "No sweeps. 3 evaluations of 2 artifacts, unified_m0_micro fp32, unified_m1_micro fp32: "
        "see `stmdeploy results evaluations`.\n"
    )
    assert main(["results", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"sweeps": [], "evaluations": 3}


def test_many_artifacts_are_not_all_named(
    store: Store, make_row: MakeRow, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(store, make_row, 8)
    store.add_sweep("s1", "{}", [("a", "A")])
    assert main(["results", "list"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].startswith("9 evaluations of 8 artifacts, unified_m0_micro fp32, ")
    assert ", unified_m4_micro fp32, 3 more: see " in shown[-1]


@pytest.mark.usefixtures("store")
def test_an_empty_store_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["results", "list"]) == 0
    assert capsys.readouterr().out == "No sweeps. To measure one: stmdeploy profile.\n"
    assert main(["results", "evaluations"]) == 2
    assert "holds no evaluation" in capsys.readouterr().err


def test_evaluations_of_two_data_sets_are_told_apart(
    store: Store, make_row: MakeRow, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(store, make_row, 1)
    assert main(["results", "evaluations"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    keys = ["unified_m0_micro", "fp32", "onnxruntime"]
    assert [line[:6] for line in lines if line[:1] == keys[:1]] == [
        [*keys, "val", "100", "70.00"],
        [*keys, "another", "100", "60.00"],
    ]
    assert main(["results", "evaluations", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["evaluations"]
    assert [one["data"] for one in found] == ["val", "another"]


def compared(store: Store, make_row: MakeRow) -> None:
    """A sweep of two mixers that took turns, with swin as its reference."""
    spec = SweepSpec(
        tuple(ModelSpec(f"unified_{stm}_micro") for stm in ("convnext", "swin")),
        (RunSpec("onnxruntime", 1, 1),),
        reference="swin",
    )
    store.add_sweep("s1", spec.to_json(), [(row.key, row.to_json()) for row in spec.rows()])
    first, second = (row.key for row in spec.rows())
    for position, (mine, other, sign) in enumerate(((first, second, -1), (second, first, 1))):
        contrast = RowContrast(key=other, difference=sign * math.log(1.5), error=0.01, freedom=5)
        model = spec.models[position].name
        row = make_row(model=model, key=mine, contrasts=(contrast,))
        store.save_row("s1", position, row, DONE)


@pytest.mark.parametrize("command", [["results", "show"], ["report", "s1"]])
def test_rows_are_compared_with_the_reference_of_their_sweep(
    command: list[str], store: Store, make_row: MakeRow, capsys: pytest.CaptureFixture[str]
) -> None:
    compared(store, make_row)

    def references(*words: str) -> list[tuple[str, float]]:
        assert main([*command, "--json", *words]) == 0
        found = json.loads(capsys.readouterr().out)["ratios"]
        return [(one["reference"].split("/")[0], round(one["ratio"], 3)) for one in found]

    assert references() == [("unified_swin_micro", 0.667)]
    assert references("--reference", "convnext") == [("unified_convnext_micro", 1.5)]
