"""Figures for papers show what was measured, and only that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.report.figures import write_figures
from stmdeploy.schema.row import Row

MakeRow = Callable[..., Row]


def test_every_figure_in_every_format(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [
        make_row(stm=stm, model=f"unified_{stm}", runtime=runtime, batch=batch,
                 published_top1_percent=top1, parts_ms={"stem": 1.0, "stage 1 mixer": 3.0})
        for stm, top1 in (("dcn", 75.3), ("halo", 75.8))
        for runtime in ("torch", "onnxruntime")
        for batch in (1, 8)
    ]  # fmt: skip
    written = write_figures(rows, tmp_path)
    assert sorted(path.name for path in written) == sorted(p.name for p in tmp_path.iterdir())
    assert {path.stem for path in written} == {
        "accuracy-latency", "throughput-batch", "time-by-part",
    }  # fmt: skip
    for path in written:
        head = path.read_bytes()[:200]
        assert {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[path.suffix] in head
    drawn = (tmp_path / "accuracy-latency.svg").read_text("utf-8")
    assert drawn.count("<!-- halo micro -->") == 4
    assert "(published)" in drawn


def test_what_has_no_data_is_not_drawn(tmp_path: Path, make_row: MakeRow) -> None:
    written = write_figures([make_row()], tmp_path)
    assert {path.stem for path in written} == {"accuracy-latency"}
    with pytest.raises(StmdeployError, match="no row has what a figure shows"):
        write_figures([make_row(published_top1_percent=None)], tmp_path)
    with pytest.raises(StmdeployError, match="no row has"):
        write_figures([make_row(measurement=None, failure="died")], tmp_path)
