"""Measured rows as objects: frames, ratios, plots, a page; from a sweep of two real rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import stmdeploy
from tests.sharing import SharedArtifacts

OPTIONS: dict[str, Any] = {"scale": "nano", "image_size": 32, "num_classes": 10, "threads": 1}


@pytest.fixture(scope="session")
def store(artifacts: SharedArtifacts) -> Path:
    """The store of a small sweep; it is everybody's, so read it only."""

    def make(root: Path) -> None:
        stmdeploy.profile(
            "convnext", runtime=["onnxruntime", "torch"], batch=[1, 2], budget_s=0.3, processes=3,
            explain=False, out=root, progress=False, **OPTIONS,
        )  # fmt: skip

    return artifacts.made("a sweep of convnext nano in two runtimes", make)


@pytest.mark.slow
def test_rows_are_frames_ratios_and_html(store: Path) -> None:
    results = stmdeploy.load_results(store)
    assert len(results) == 4 and not results.failed
    assert results[0].model == "unified_convnext_nano"
    assert "4 rows" in repr(results) and results.sweep in repr(results)
    frame = results.to_pandas()
    assert list(frame["batch"]) == [1, 2, 1, 2]
    assert (frame["latency_ms_p50"] > 0).all()
    ratios = results.ratios()
    assert list(ratios.columns) == [
        "row", "reference", "ratio", "ratio_low", "ratio_high", "group",
    ]  # fmt: skip
    assert (ratios["ratio_low"] <= ratios["ratio"]).all()
    beside = results.ratios("torch")
    assert beside["reference"].str.contains("torch").all()
    table = results._repr_html_()
    assert table.count("<tr>") == 5 and "unified_convnext_nano" in table
    assert len(results[:2]) == 2 and results[:2].sweep == results.sweep
    newest = stmdeploy.load_results(store / "results.db", newest=True)
    assert {row.key for row in newest} == {row.key for row in results}


@pytest.mark.slow
def test_rows_are_plots_and_a_page(store: Path, tmp_path: Path) -> None:
    results = stmdeploy.load_results(store)
    forest = results.plot("ratios")
    assert len(forest.data[0].x) == 4 and 1.0 in forest.data[0].x
    lines = results.plot("throughput")
    assert [list(line.x) for line in lines.data] == [[1, 2], [1, 2]]
    with pytest.raises(stmdeploy.StmdeployError, match="no row has an accuracy"):
        results.plot()
    with pytest.raises(stmdeploy.StmdeployError, match="unknown plot"):
        results.plot("pie")  # type: ignore[arg-type]
    page = results.report(tmp_path / "report.html").read_text("utf-8")
    assert "unified_convnext_nano" in page


@pytest.mark.slow
def test_the_front_is_what_no_other_beats(store: Path) -> None:
    results = stmdeploy.load_results(store)
    told = [
        row.model_copy(update={"published_top1_percent": accuracy})
        for row, accuracy in zip(results[:2], (70.0, 80.0), strict=True)
    ]
    made = stmdeploy.Results(tuple(told), folder=store).plot()
    points = [(float(one.x[0]), float(one.y[0])) for one in made.data[:-1]]
    front = list(zip(made.data[-1].x, made.data[-1].y, strict=True))
    beaten = {
        a for a in points for b in points if b != a and b[0] <= a[0] and b[1] >= a[1]
    }  # fmt: skip
    assert set(front) == set(points) - beaten


def test_no_store_is_said(tmp_path: Path) -> None:
    with pytest.raises(stmdeploy.StmdeployError, match="no results"):
        stmdeploy.load_results(tmp_path)
