"""Rows as frames and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from stmdeploy import StmdeployError
from stmdeploy.results.frame import flat, to_frame, write_frame
from stmdeploy.schema.row import Row

MakeRow = Callable[..., Row]


def test_frames_have_a_column_per_figure(make_row: MakeRow) -> None:
    rows = [make_row(), make_row(measurement=None, failure="x")]
    frame = to_frame(rows)
    columns = {
        "latency_ms_p50",
        "latency_with_copies_ms_p50",
        "throughput_images_s",
        "published_top1_percent",
        "macs",
        "parameters",
        "memory_peak_mib",
        "energy_j_per_image",
        "scenario_valid",
        "environment_processor",
        "failure",
    }
    assert columns <= set(frame.columns)
    assert frame["latency_ms_p50"].isna().tolist() == [False, True]
    assert flat(rows[0]).keys() == flat(rows[1]).keys()
    assert json.dumps(flat(rows[0]), allow_nan=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_frames_are_read_back_by_pandas(tmp_path: Path, make_row: MakeRow, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_frame([make_row(batch=1), make_row(batch=8)], path, suffix.removeprefix("."))
    frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert frame["batch"].tolist() == [1, 8]
    assert frame["latency_ms_p50"].tolist() == [10.0, 10.0]


def test_json_holds_whole_rows(tmp_path: Path, make_row: MakeRow) -> None:
    write_frame([make_row()], tmp_path / "rows.json", "json")
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert Row.model_validate(row) == make_row()


def test_timms_columns(tmp_path: Path, make_row: MakeRow) -> None:
    path = tmp_path / "timm.csv"
    rows = [make_row(), make_row(failure="x", measurement=None), make_row(scenario="server")]
    write_frame(rows, path, "timm")
    header, line = path.read_text().splitlines()
    assert header == (
        "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,"
        "param_count,infer_gmacs,infer_macts"
    )
    assert line == "unified_dcn_v3_micro,224,99.0,10.1,1,4.3,0.67,9.0"


def test_unknown_formats_are_refused(tmp_path: Path, make_row: MakeRow) -> None:
    with pytest.raises(StmdeployError, match="end the name in"):
        write_frame([make_row()], tmp_path / "rows.xls", "xls")


@pytest.mark.parametrize("name", ["=HYPERLINK(0)", "+1", "-1", "@SUM(A1)", "\tx"])
def test_a_cell_that_begins_a_formula_is_text(tmp_path: Path, make_row: MakeRow, name: str) -> None:
    path = tmp_path / "rows.csv"
    write_frame([make_row(model=name, relative_l2_error=-0.5)], path, "csv")
    frame = pd.read_csv(path)
    assert frame["model"].tolist() == [f"'{name}"]
    assert frame["relative_l2_error"].tolist() == [-0.5], "numbers stay numbers"
    write_frame([make_row(model=name)], path, "timm")
    assert pd.read_csv(path)["model"].tolist() == [f"'{name}"]
