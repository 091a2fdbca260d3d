"""Rows on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from stmdeploy import StmdeployError
from stmdeploy.results.frame import flat, to_frame, write_frame
from stmdeploy.results.row import Row
from stmdeploy.results.store import ResultsFolder, read_results

MakeRow = Callable[..., Row]


def test_the_document_is_whole_after_every_row(tmp_path: Path, make_row: MakeRow) -> None:
    store = ResultsFolder(tmp_path)
    for batch in (1, 8):
        store.append(make_row(batch=batch))
        assert read_results(tmp_path) == store.results
    assert [row.batch for row in read_results(tmp_path / "results.json").rows] == [1, 8]


def test_a_failed_row_is_kept_with_its_reason(tmp_path: Path, make_row: MakeRow) -> None:
    store = ResultsFolder(tmp_path)
    store.append(make_row(measurement=None, failure="worker died of SIGSEGV"))
    row = read_results(tmp_path).rows[0]
    assert row.measurement is None
    assert row.failure == "worker died of SIGSEGV"


def test_a_folder_is_claimed_by_one_profile(tmp_path: Path) -> None:
    ResultsFolder(tmp_path)
    with pytest.raises(StmdeployError, match="already holds results"):
        ResultsFolder(tmp_path)


def test_a_claim_that_cannot_be_written_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stmdeploy.results.store.write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        ResultsFolder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "holds no stmdeploy results"),
        ('{"kind": "stmdeploy-results", "schema_version": 9}', "has schema 9"),
        ('{"kind": "stmdeploy-results", "schema_version": 1, "rows": [{}]}', "damaged at rows.0"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(StmdeployError, match=says):
        read_results(tmp_path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="no such file"):
        read_results(tmp_path / "nothing")


def test_frames_have_a_column_per_figure(make_row: MakeRow) -> None:
    rows = [make_row(), make_row(measurement=None, failure="x")]
    frame = to_frame(rows)
    columns = {
        "latency_ms_p50",
        "throughput_images_s",
        "published_top1_percent",
        "macs",
        "parameters",
        "memory_peak_mib",
        "environment_processor",
        "failure",
    }
    assert columns <= set(frame.columns)
    assert frame["latency_ms_p50"].isna().tolist() == [False, True]
    assert "samples_ms" not in frame.columns
    assert flat(rows[0]).keys() == flat(rows[1]).keys()
    assert json.dumps(flat(rows[0]), allow_nan=False)


def test_figures_that_are_no_numbers_are_refused(tmp_path: Path, make_row: MakeRow) -> None:
    ResultsFolder(tmp_path).append(make_row())
    text = (tmp_path / "results.json").read_text()
    (tmp_path / "results.json").write_text(text.replace('_p50": 10.0', '_p50": NaN'))
    with pytest.raises(StmdeployError, match=r"damaged at rows\.0\.measurement\.latency_ms_p50"):
        read_results(tmp_path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_frames_are_read_back_by_pandas(tmp_path: Path, make_row: MakeRow, suffix: str) -> None:
    path = tmp_path / f"rows{suffix}"
    write_frame([make_row(batch=1), make_row(batch=8)], path, suffix.removeprefix("."))
    frame = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert frame["batch"].tolist() == [1, 8]
    assert frame["latency_ms_p50"].tolist() == [10.0, 10.0]
