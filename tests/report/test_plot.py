"""The picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.report.plot import plot_accuracy_latency
from stmdeploy.results.row import Row

MakeRow = Callable[..., Row]


def test_an_svg_names_every_backbone(tmp_path: Path, make_row: MakeRow) -> None:
    rows = [make_row(batch=1), make_row(batch=8), make_row(stm="halo", runtime="torch")]
    plot_accuracy_latency(rows, tmp_path / "x.svg")
    text = (tmp_path / "x.svg").read_text()
    assert text.startswith("<?xml")
    for word in ("dcn micro", "halo micro", "batch 8", "published"):
        assert f"<!-- {word}" in text or word in text


def test_png(tmp_path: Path, make_row: MakeRow) -> None:
    plot_accuracy_latency([make_row()], tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_to_draw(tmp_path: Path, make_row: MakeRow) -> None:
    with pytest.raises(StmdeployError, match="no row has both"):
        plot_accuracy_latency([make_row(published_top1_percent=None)], tmp_path / "x.png")
    with pytest.raises(StmdeployError, match=r"end the name in \.png"):
        plot_accuracy_latency([make_row()], tmp_path / "x.bmp")
    assert list(tmp_path.iterdir()) == []
