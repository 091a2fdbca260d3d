"""The results in the repository: by their schema, dated, and plausible."""

from __future__ import annotations

import csv
import json
import tomllib
from datetime import datetime
from pathlib import Path

import pytest

from stmdeploy.results.frame import to_timm_frame
from stmdeploy.schema.row import Row
from stmdeploy.schema.tuned import Tuned

RESULTS = Path(__file__).parents[1] / "results"
MACHINES = sorted(path.parent for path in RESULTS.glob("*/machine.toml"))
FILES = sorted(
    path for folder in MACHINES for path in folder.glob("*.json") if path.name != "tune.json"
)
#: Clocks differ from one moment to the next: so far below its bound a latency may be.
SLACK = 0.9


def rows_of(path: Path) -> list[Row]:
    """The rows of a file."""
    return [Row.model_validate(row) for row in json.loads(path.read_text("utf-8"))["rows"]]


def test_there_are_results() -> None:
    assert MACHINES and FILES
    for folder in RESULTS.iterdir():
        assert folder.name in ("README.md", "evidence") or folder in MACHINES, folder


@pytest.mark.parametrize("folder", MACHINES, ids=lambda path: path.name)
def test_a_machine_is_described(folder: Path) -> None:
    about = tomllib.loads((folder / "machine.toml").read_text("utf-8"))
    assert about.keys() == {"title", "processor", "measured_by", "remarks"}
    assert all(isinstance(text, str) and text for text in about.values())
    for path in folder.glob("*.json"):
        if path.name != "tune.json":
            assert {row.environment.processor for row in rows_of(path)} == {about["processor"]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_rows_are_dated_and_plausible(path: Path) -> None:
    rows = rows_of(path)
    assert rows
    for row in rows:
        assert row.failure is None and row.measurement is not None
        assert row.stmdeploy_version and datetime.fromisoformat(row.started_utc)
        found = row.measurement
        low, middle, high = (
            found.latency_ms_p50_low, found.latency_ms_p50, found.latency_ms_p50_high,
        )  # fmt: skip
        assert 0 < low <= middle <= high
        assert found.processes >= 3 and found.samples >= 10
        if row.bound is not None:
            assert middle >= SLACK * row.bound.bound_ms, row.key
        by_latency = 1e3 * row.batch / middle
        assert 0.3 * by_latency <= found.throughput_images_s <= 3 * by_latency
        for other in row.contrasts:
            assert other.error >= 0 and abs(other.difference) < 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_timms_columns_are_those_of_the_rows(path: Path) -> None:
    beside = path.with_suffix(".csv")
    frame = to_timm_frame(rows_of(path))
    with beside.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["model"] for line in lines] == list(frame["model"])
    for line, time in zip(lines, frame["infer_step_time"], strict=True):
        assert float(line["infer_step_time"]) == pytest.approx(time)


@pytest.mark.parametrize("folder", MACHINES, ids=lambda path: path.name)
def test_races_are_whole(folder: Path) -> None:
    path = folder / "tune.json"
    if not path.is_file():
        pytest.skip("this machine has none")
    for document in json.loads(path.read_text("utf-8"))["tuned"]:
        found = Tuned.model_validate(document)
        best = found.named(found.best)
        assert best.state == "best" and best.waves >= 3
        assert best.limits is None or best.limits.holds
        assert best.precision == "fp32" or best.limits is not None
