"""Rows beside their reference, in words and as JSON."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from stmdeploy.report.profile_table import profile_table
from stmdeploy.report.ratios import compared, document, name_of, sentences
from stmdeploy.schema.measurement import Measurement
from stmdeploy.schema.row import Row, RowContrast

MakeRow = Callable[..., Row]
#: Mixer, latency in ms.
LATENCIES = {"pvt": 10.1, "convnext": 10.0, "halo": 18.3}


@pytest.fixture
def rows(make_row: MakeRow) -> list[Row]:
    """Three mixers in one sweep at batch 1; pvt and convnext are within what waves differ by."""

    def contrast(mine: float, other: str) -> RowContrast:
        return RowContrast(
            key=other, difference=math.log(mine) - math.log(LATENCIES[other]), error=0.01, freedom=5
        )

    usual = make_row().measurement
    assert usual is not None
    return [
        make_row(
            model=f"unified_{stm}_micro",
            stm=stm,
            key=stm,
            measurement=usual.model_copy(update={"latency_ms_p50": ms}),
            contrasts=tuple(contrast(ms, other) for other in LATENCIES if other != stm),
        )
        for stm, ms in LATENCIES.items()
    ]


def test_convnext_is_the_usual_reference(rows: list[Row]) -> None:
    pvt, convnext, halo = compared(rows)
    assert {one.reference for one in (pvt, convnext, halo)} == {1}
    assert halo.ratio is not None and pvt.ratio is not None
    assert halo.ratio.ratio == pytest.approx(1.83)
    assert halo.ratio.low == pytest.approx(1.83 * math.exp(-2.5706 * 0.01), rel=1e-4)
    assert (pvt.group, convnext.group, halo.group) == ("a", "a", "b")


def test_another_reference_by_words_of_its_name(rows: list[Row]) -> None:
    assert {one.reference for one in compared(rows, "halo/batch1")} == {2}
    assert {one.reference for one in compared(rows, "nosuch")} == {0}, "else the first"


def test_in_words(rows: list[Row]) -> None:
    (told,) = sentences(rows, compared(rows))
    assert told == (
        "Batch 1: latency over that of convnext, each with its 95 % interval: pvt 1.01 "
        "(0.984 .. 1.04), halo 1.83 (1.78 .. 1.88); cannot be told apart: pvt and convnext."
    )
    table = profile_table(rows)
    place = table.headers.index("x reference")
    assert [line[place] for line in table.cells] == ["1.01 (0.984 .. 1.04)", "1",
                                                     "1.83 (1.78 .. 1.88)"]  # fmt: skip
    assert told in table.notes


def test_as_json(rows: list[Row]) -> None:
    found = document(rows)
    first, second = found["ratios"]
    assert first["row"] == name_of(rows[0])
    assert (second["row"], second["reference"]) == (name_of(rows[2]), name_of(rows[1]))
    assert second["ratio"] == pytest.approx(1.83)
    assert [row["group"] for row in found["rows"]] == ["a", "a", "b"]


def test_rows_of_two_sweeps_are_not_compared(rows: list[Row]) -> None:
    """One was measured again: what the other says of it is of then."""
    again = tuple(one.model_copy(update={"difference": 0.3}) for one in rows[0].contrasts)
    rows[0] = rows[0].model_copy(update={"contrasts": again})
    assert [one.row for one in compared(rows)] == [1, 2]


def test_rows_of_two_sweeps_share_no_letter(rows: list[Row]) -> None:
    """Nothing is known of how they compare; each sweep has a reference of its own."""
    later = [
        row.model_copy(
            update={
                "key": f"{row.key} later",
                "runtime": "openvino",
                "contrasts": tuple(
                    one.model_copy(update={"key": f"{one.key} later"}) for one in row.contrasts
                ),
            }
        )
        for row in rows
    ]
    found = compared([*rows, *later])
    assert [one.reference for one in found] == [1, 1, 1, 4, 4, 4]
    assert [one.group for one in found] == ["a", "a", "b", "c", "c", "d"]
    told = sentences([*rows, *later], found)
    assert [line.split(",")[0] for line in told] == [
        "Batch 1: latency over that of convnext", "Batch 1: latency over that of convnext",
    ]  # fmt: skip


def test_without_turns_nothing_is_said(make_row: MakeRow) -> None:
    assert compared([make_row()]) == ()
    assert "x reference" not in profile_table([make_row()]).headers
    assert isinstance(make_row().measurement, Measurement)
