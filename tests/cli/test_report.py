"""`report` over a store with failed and unsteady rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy.cli.main import main
from stmdeploy.results.state import DONE, FAILED
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row

MakeRow = Callable[..., Row]


@pytest.fixture
def folder(tmp_path: Path, make_row: MakeRow) -> Path:
    """A store of an unsteady row that failed later, and of one that always failed."""
    store = Store(tmp_path, create=True)
    store.add_sweep("s1", "{}", [("a", "A"), ("b", "B")])
    row = make_row()
    assert row.measurement is not None
    shaken = row.measurement.model_copy(update={"steady": False, "advice": ("raise --budget-s",)})
    store.save_row("s1", 0, make_row(measurement=shaken), DONE)
    broken = make_row(batch=8, measurement=None, failure="not exported: no GridSample")
    store.save_row("s1", 1, broken, FAILED)
    store.add_sweep("s2", "{}", [("a", "A")])
    later = {"started_utc": "2026-01-02T00:00:00+00:00", "measurement": None}
    store.save_row("s2", 0, make_row(failure="worker died", **later), FAILED)
    store.close()
    return tmp_path


def test_the_page_has_failed_rows_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(folder)]) == 0
    assert "2 rows, 1 of them failed" in " ".join(capsys.readouterr().err.split())
    page = (folder / "report.html").read_text("utf-8")
    failures = page[page.index('id="failures"') : page.index('id="table-title"')]
    care = page[page.index('id="care"') : page.index('id="environment-title"')]
    for told in ("not exported: no GridSample", "worker died"):
        assert told in failures and told not in care
    assert "raise --budget-s" in care


def test_so_has_the_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "--out", str(folder), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["failure"] for row in document["rows"]] == [None, "not exported: no GridSample"]
    assert [row["failure"] for row in document["failed_since"]] == ["worker died"]


@pytest.mark.parametrize(("form", "mark"), [("--markdown", "~"), ("--latex", "textasciitilde{}")])
def test_so_have_tables_for_papers(
    folder: Path, capsys: pytest.CaptureFixture[str], form: str, mark: str
) -> None:
    assert main(["report", "--out", str(folder), form]) == 0
    text = capsys.readouterr().out
    assert f"{mark}10.0" in text
    model = "unified_dcn_v3_micro"
    for note in (
        f"~ raise --budget-s: {model}, onnxruntime, batch 1",
        f"failed: {model}, batch 8: not exported: no GridSample",
        f"failed after this measurement: {model}, onnxruntime, batch 1: worker died",
    ):
        assert note in text


def test_a_sweep_of_failed_rows_alone_has_a_page(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "s2", "--out", str(folder)]) == 0
    assert "1 row, 1 of them failed" in " ".join(capsys.readouterr().err.split())
    assert "0 rows measured, 1 failed" in (folder / "report.html").read_text("utf-8")


def test_failed_rows_are_not_recommended(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", "--out", str(folder), "--device", "Test CPU", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [choice["batch"] for choice in document["choices"]] == [1]
    assert document["runners_up"] == []
