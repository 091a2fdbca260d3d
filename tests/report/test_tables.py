"""Tables of text."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stmdeploy.report.profile_table import profile_table
from stmdeploy.report.text_table import TextTable, significant
from stmdeploy.schema.measurement import ScenarioResult
from stmdeploy.schema.row import Row, Try
from tests.fakes import evaluation

MakeRow = Callable[..., Row]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.6675, "0.667"),
        (12.345, "12.3"),
        (1234.5, "1234"),
        (9.996, "10.0"),
        (0.0, "0.00"),
        (99.95, "100"),
        (0.0123, "0.0123"),
    ],
)
def test_significant(value: float, text: str) -> None:
    assert significant(value) == text


def test_published_and_measured_figures_stand_in_one_line(make_row: MakeRow) -> None:
    table = profile_table([make_row()])
    line = dict(zip(table.headers, table.cells[0], strict=True))
    assert line["top-1 %"] == "75.3"
    assert line["latency ms"] == "10.0"
    assert line["95 % interval"] == "9.50 .. 10.5"
    assert line["images/s"] == "99.0"
    assert line["GMACs"] == "0.667"
    assert line["params M"] == "4.30"
    notes = " ".join(table.notes)
    assert "published by the authors, not measured here" in notes
    assert "weights: synthetic" in notes
    assert "MACs leave out: gelu" in notes


def test_accuracy_of_another_network_does_not_stand_beside_latency(make_row: MakeRow) -> None:
    table = profile_table([make_row()])
    assert not any("AP" in text for text in (*table.headers, *table.notes))


def test_measured_accuracy_stands_beside_the_published_one(make_row: MakeRow) -> None:
    row = make_row()
    table = profile_table([row.model_copy(update={"accuracy": evaluation(row, 70.0)}), row])
    assert table.headers[:5] == ("backbone", "batch", "top-1 %", "measured top-1 %", "latency ms")
    assert [line[3] for line in table.cells] == ["70.0", "-"]
    assert table.keys == 2


def test_columns_that_vary_are_shown(make_row: MakeRow) -> None:
    table = profile_table([make_row(), make_row(runtime="torch", threads=1)])
    assert table.headers[:3] == ("backbone", "runtime", "threads")
    assert "runtime" not in profile_table([make_row()]).headers


def test_a_failed_row_says_why(make_row: MakeRow) -> None:
    table = profile_table([make_row(measurement=None, failure="killed")])
    assert "failed" in table.cells[0]
    assert "failed: unified_dcn_v3_micro, batch 1: killed" in table.notes


def test_markdown(make_row: MakeRow) -> None:
    lines = profile_table([make_row(published_top1_percent=None)]).markdown().splitlines()
    assert lines[0].startswith("| backbone | batch | top-1 % |")
    assert lines[1].startswith("| :--- | ---: |")
    assert lines[2].startswith("| unified_dcn_v3_micro | 1 | - |")


def test_an_unsteady_row_is_marked_and_says_what_to_try(make_row: MakeRow) -> None:
    row = make_row()
    assert row.measurement is not None
    shaken = row.measurement.model_copy(update={"steady": False, "advice": ("raise --budget-s",)})
    table = profile_table([make_row(measurement=shaken)])
    assert table.cells[0][table.headers.index("latency ms")] == "~10.0"
    assert "~ raise --budget-s: unified_dcn_v3_micro, onnxruntime, batch 1" in table.notes
    assert "over 3 processes" in table.notes[1]


def test_a_scenario_shows_loadgens_figures_and_verdict(make_row: MakeRow) -> None:
    row = make_row(scenario="server")
    assert row.measurement is not None
    result = ScenarioResult(
        scenario="server", valid=False, reasons=("too short",), queries=9, latency_ms_p50=21.0,
        latency_ms_p90=30.0, latency_ms_p99=40.0, throughput_images_s=77.0, target_queries_s=80.0,
        target_latency_ms=50.0, logs="logs", loadgen_version="6",
    )  # fmt: skip
    served = row.measurement.model_copy(update={"scenario": result, "throughput_images_s": 77.0})
    table = profile_table([make_row(scenario="server", measurement=served), make_row()])
    line = dict(zip(table.headers, table.cells[0], strict=True))
    assert line["scenario"] == "server INVALID"
    assert (line["latency ms"], line["p90 ms"], line["images/s"]) == ("21.0", "30.0", "77.0")


def test_a_table_for_latex() -> None:
    table = TextTable(("a_b", "50 %"), (("x & y", "~1"),), notes=("one note",))
    assert table.latex().splitlines() == [
        "% one note",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"a\_b & 50 \% \\",
        r"\midrule",
        r"x \& y & \textasciitilde{}1 \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_rows_that_were_tried_again_say_so(make_row: MakeRow) -> None:
    moment = {"started_utc": "2026-01-01", "ended_utc": "2026-01-02"}
    lost = Try(node="", failure="the node is dead", **moment)
    crashed = Try(node="gpu-1", failure="worker died of SIGSEGV", **moment)
    row = make_row(node="a100", tries=(lost, crashed, Try(node="gpu-2", failure="", **moment)))
    (note,) = [n for n in profile_table([row, make_row()]).notes if "tried" in n]
    assert note.startswith("tried 3 times: unified_dcn_v3_micro, a100, batch 1: ")
    assert note.endswith("a lost node: the node is dead; gpu-1: worker died of SIGSEGV")
