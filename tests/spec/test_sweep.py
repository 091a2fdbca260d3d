"""Which rows a sweep has, and in what order they are measured."""

from __future__ import annotations

import pytest

from stmdeploy import StmdeployError
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, ScenarioSpec
from stmdeploy.spec.sweep import RowSpec, SweepSpec, shuffled

SWEEP = SweepSpec(
    models=(ModelSpec("unified_halo_micro"), ModelSpec("unified_swin_micro")),
    runs=(RunSpec("onnxruntime", 1, 2), RunSpec("torch", 8, 2)),
    precisions=("fp32", "int8"),
)


def test_rows_are_all_combinations() -> None:
    rows = SWEEP.rows()
    assert len(rows) == 8
    assert [row.model.name for row in rows] == ["unified_halo_micro"] * 4 + [
        "unified_swin_micro"
    ] * 4
    assert [row.run.precision for row in rows[:4]] == ["fp32", "fp32", "int8", "int8"]
    assert len({row.key for row in rows}) == 8


def test_a_row_asked_for_twice_is_one() -> None:
    twice = SweepSpec(SWEEP.models[:1], (SWEEP.runs[0], SWEEP.runs[0]))
    assert len(twice.rows()) == 1


def test_specs_come_back_from_json() -> None:
    assert SweepSpec.from_json(SWEEP.to_json(), "it") == SWEEP
    row = SWEEP.rows()[3]
    assert RowSpec.from_json(row.to_json(), "it") == row


def test_every_round_has_its_own_order_and_every_row() -> None:
    positions = list(range(20))
    orders = [shuffled(positions, "sweep", turn) for turn in range(3)]
    assert all(sorted(order) == positions for order in orders)
    assert orders[0] != orders[1] != orders[2]
    assert shuffled(positions, "sweep", 1) == orders[1]


def test_scenarios_are_checked() -> None:
    with pytest.raises(StmdeployError, match="did you mean 'offline'"):
        ScenarioSpec("ofline")
    with pytest.raises(StmdeployError, match="give --target-latency-ms"):
        ScenarioSpec("server")
    with pytest.raises(StmdeployError, match="one image at a time, not 8"):
        RunSpec("onnxruntime", 8, 1, scenario=ScenarioSpec("single-stream"))
    assert RunSpec("onnxruntime", 8, 1, scenario=ScenarioSpec("multi-stream")).batch == 8
