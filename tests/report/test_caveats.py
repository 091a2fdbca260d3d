"""Caveats: each told once, with every row that it is of."""

from __future__ import annotations

from collections.abc import Callable

from stmdeploy.report.alike import Caveat
from stmdeploy.report.caveats import Topic, caveats, is_unsteady
from stmdeploy.schema.measurement import ScenarioResult
from stmdeploy.schema.row import Row, Try

MakeRow = Callable[..., Row]


def unsteady(row: Row, *advice: str) -> Row:
    assert row.measurement is not None
    shaken = row.measurement.model_copy(update={"steady": False, "advice": advice})
    return row.model_copy(update={"measurement": shaken})


def served(row: Row, *, valid: bool, reasons: tuple[str, ...] = ()) -> Row:
    assert row.measurement is not None
    result = ScenarioResult(
        scenario="server", valid=valid, reasons=reasons, queries=9, latency_ms_p50=21.0,
        latency_ms_p90=30.0, latency_ms_p99=40.0, throughput_images_s=77.0, target_queries_s=80.0,
        target_latency_ms=50.0, logs="logs", loadgen_version="6",
    )  # fmt: skip
    measurement = row.measurement.model_copy(update={"scenario": result})
    return row.model_copy(update={"scenario": "server", "measurement": measurement})


def test_rows_as_they_should_be_have_none(make_row: MakeRow) -> None:
    assert caveats([make_row(), served(make_row(), valid=True)]) == ()


def test_advice_that_differs_by_its_figures_is_one_line(make_row: MakeRow) -> None:
    widths = (3.1, 12.0, 7.5)
    rows = [
        unsteady(make_row(batch=i), f"the interval is +-{width:.1f} %, wanted was 2 %", "cool it")
        for i, width in enumerate(widths)
    ]
    names = tuple(f"unified_dcn_v3_micro, batch {i}" for i in range(3))
    expected = (
        Caveat("the interval is +-3.1 .. 12.0 %, wanted was 2 %", names),
        Caveat("cool it", names),
    )
    assert caveats(rows) == (Topic("~ Not measured steadily", expected),)


def test_failures_of_one_reason_are_one_line(make_row: MakeRow) -> None:
    """Figures in a failure are not put together: they may be names."""
    rows = [make_row(batch=i, measurement=None, failure="died of 9") for i in (1, 2)]
    rows.append(make_row(batch=3, measurement=None, failure="died of 11"))
    (topic,) = caveats(rows)
    assert topic.title == "Failed"
    assert [(one.text, len(one.rows)) for one in topic.caveats] == [
        ("died of 9", 2), ("died of 11", 1),
    ]  # fmt: skip


def test_a_later_failure_stands_apart(make_row: MakeRow) -> None:
    (topic,) = caveats([make_row()], [make_row(measurement=None, failure="died")])
    assert topic.title == "Failed after the measurement that is shown"
    assert topic.caveats == (Caveat("died", ("unified_dcn_v3_micro, batch 1",)),)


def test_rows_are_named_by_what_tells_them_apart(make_row: MakeRow) -> None:
    rows = [
        make_row(threads=threads, runtime=runtime, measurement=None, failure="died")
        for threads, runtime in ((1, "torch"), (2, "onnxruntime"))
    ]
    (topic,) = caveats(rows)
    assert topic.caveats[0].rows == (
        "unified_dcn_v3_micro, torch, threads 1, batch 1",
        "unified_dcn_v3_micro, onnxruntime, threads 2, batch 1",
    )


def test_what_loadgen_rejects_says_why(make_row: MakeRow) -> None:
    rows = [
        served(make_row(), valid=False, reasons=("too short",)),
        served(make_row(), valid=False),
    ]
    (topic,) = caveats(rows)
    assert topic.title == "INVALID by the rules of LoadGen"
    assert [one.text for one in topic.caveats] == ["too short", "it gives no reason"]


def test_rows_that_were_tried_again(make_row: MakeRow) -> None:
    moment = {"started_utc": "2026-01-01", "ended_utc": "2026-01-02"}
    tries = (
        Try(node="", failure="the node is dead", **moment),
        Try(node="b", failure="", **moment),
    )
    (topic,) = caveats([make_row(tries=tries)])
    assert [one.text for one in topic.caveats] == ["tried 2 times: a lost node: the node is dead"]


def test_only_latencies_of_our_own_are_unsteady(make_row: MakeRow) -> None:
    shaken = unsteady(make_row(), "raise --budget-s")
    assert is_unsteady(shaken)
    assert not is_unsteady(make_row())
    assert not is_unsteady(served(shaken, valid=True))
    assert not is_unsteady(shaken.model_copy(update={"failure": "died"}))
