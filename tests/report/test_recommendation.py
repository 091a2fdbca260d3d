"""Recommendations: against brute force over whatever rows, and in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stmdeploy.cli.main import main
from stmdeploy.report.recommendation import Kept, Limits, judged, recommend
from stmdeploy.report.recommendation_table import reason
from stmdeploy.results.state import DONE
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row, RowContrast
from tests.fakes import evaluation

MakeRow = Callable[..., Row]

some = st.floats(1, 100)
rows_of_figures = st.lists(
    st.fixed_dictionaries(
        {
            "p50": some,
            "spread": st.floats(0, 0.5),
            "throughput": some,
            "memory": some,
            "device_memory": st.none() | some,
            "energy": st.none() | some,
            "published": st.none() | some,
            "measured": st.none() | st.tuples(some, st.floats(0, 5)),
        }
    ),
    max_size=12,
)
limits_of = st.builds(
    Limits, *(st.none() | some for _ in range(5))
)  # latency, throughput, memory, energy, top-1


def built(make_row: MakeRow, figures: dict[str, Any], i: int = 0) -> Row:
    """A row that measured such figures."""
    p50, spread = float(figures["p50"]), 1 + float(figures["spread"])
    row = make_row()
    assert row.measurement is not None
    measurement = row.measurement.model_copy(
        update={
            "latency_ms_p50": p50,
            "latency_ms_p50_low": p50 / spread,
            "latency_ms_p50_high": p50 * spread,
            "throughput_images_s": figures["throughput"],
            "throughput_images_s_low": float(figures["throughput"]) / spread,
            "throughput_images_s_high": float(figures["throughput"]) * spread,
            "memory_peak_mib": figures["memory"],
            "device_memory_peak_mib": figures["device_memory"],
            "energy_j_per_image": figures["energy"],
        }
    )
    accuracy = None
    if figures["measured"] is not None:
        value, half = figures["measured"]
        accuracy = evaluation(row, value, half=half)
    return row.model_copy(
        update={
            "model": f"m{i}",
            "measurement": measurement,
            "published_top1_percent": figures["published"],
            "accuracy": accuracy,
        }
    )


def keeps_for_sure(row: Row, limits: Limits) -> bool:
    """The definition, spelled out limit by limit."""
    m = row.measurement
    assert m is not None
    top1 = row.accuracy.top1.low if row.accuracy else row.published_top1_percent
    memory = m.memory_peak_mib if m.device_memory_peak_mib is None else m.device_memory_peak_mib
    slowest = m.throughput_images_s_low
    assert slowest is not None
    asked: list[tuple[float | None, Callable[[float], bool]]] = [
        (limits.max_latency_ms, lambda limit: m.latency_ms_p50_high <= limit),
        (limits.min_throughput_images_s, lambda limit: slowest >= limit),
        (limits.max_memory_mib, lambda limit: memory <= limit),
        (limits.max_energy_j_per_image,
         lambda limit: m.energy_j_per_image is not None and m.energy_j_per_image <= limit),
        (limits.min_top1_percent, lambda limit: top1 is not None and top1 >= limit),
    ]  # fmt: skip
    return all(keeps(limit) for limit, keeps in asked if limit is not None)


def top1_of(row: Row) -> float:
    if row.accuracy:
        return row.accuracy.top1.percent
    return 0.0 if row.published_top1_percent is None else row.published_top1_percent


def merits(row: Row) -> tuple[float, float, float]:
    """More is better in each."""
    m = row.measurement
    assert m is not None
    return top1_of(row), -m.latency_ms_p50, m.throughput_images_s


def beats(one: Row, other: Row) -> bool:
    """At least as good in all, better in one."""
    pairs = list(zip(merits(one), merits(other), strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@given(rows_of_figures, limits_of)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_choices_are_those_of_brute_force(
    make_row: MakeRow, figures: list[dict[str, Any]], limits: Limits
) -> None:
    rows = [built(make_row, one, i) for i, one in enumerate(figures)]
    found = recommend(rows, limits)
    keeping = [row for row in rows if keeps_for_sure(row, limits)]
    unbeaten = [r for r in keeping if not any(beats(other, r) for other in keeping)]
    chosen = [one.row for one in found.choices]
    # Of rows that are equal in everything, one stands for all.
    found_merits = [merits(row) for row in chosen]
    assert set(found_merits) == {merits(row) for row in unbeaten}
    assert len(found_merits) == len(set(found_merits))
    assert found_merits == sorted(found_merits, reverse=True)
    everybody = [*found.choices, *found.runners_up, *found.left_out]
    assert sorted(one.row.model for one in everybody) == sorted(row.model for row in rows)
    certain = [one.row for one in found.runners_up if not one.kept]
    assert len(certain) + len(chosen) == len(keeping)


def test_a_failed_row_is_no_choice(make_row: MakeRow) -> None:
    found = recommend([make_row(measurement=None, failure="died")], Limits())
    assert found.choices == found.runners_up == found.left_out == ()


@pytest.fixture
def store(tmp_path: Path, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Rows of an A100 and of a CPU: one fast, one accurate, one uncertain, one of fp16."""
    monkeypatch.chdir(tmp_path)
    Path("stmdeploy-results").mkdir()
    store = Store(Path("stmdeploy-results"), create=True)
    store.add_sweep("s", "{}", [(str(i), "{}") for i in range(5)])
    plain: dict[str, Any] = {
        "p50": 4.0, "spread": 0.05, "throughput": 250.0, "memory": 100.0,
        "device_memory": None, "energy": None, "published": 80.5, "measured": None,
    }  # fmt: skip
    figures = [
        plain,
        {**plain, "p50": 2.0, "published": 78.0},
        {**plain, "p50": 4.9, "published": 83.0},  # up to 5.15 ms
        {**plain, "p50": 1.0, "published": None},  # fp16
        {**plain, "published": 90.0},  # of the CPU
    ]
    for i, one in enumerate(figures):
        where = {"device_name": "NVIDIA A100 80GB PCIe", "device": "cuda"} if i < 4 else {}
        store.save_row("s", i, built(make_row, one, i).model_copy(update=where), DONE)
    return store


def test_one_process_is_never_certain(make_row: MakeRow) -> None:
    """It knows nothing of others."""
    row = make_row()
    assert row.measurement is not None
    alone = row.model_copy(
        update={"measurement": row.measurement.model_copy(update={"processes": 1})}
    )
    for limits in (Limits(max_latency_ms=1e9), Limits(min_throughput_images_s=1e-9)):
        assert judged(row, limits).kept is Kept.YES
        assert judged(alone, limits).kept is Kept.NOT_CERTAIN


@pytest.mark.usefixtures("store")
def test_the_command_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["recommend", "--max-latency-ms", "5", "--gpu", "a100", "--min-top1", "80"]
    assert main([*asked, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in found["choices"]] == ["m0"]
    assert (
        found["choices"][0]["reason"]
        == "the most accurate and the fastest and the highest throughput"
    )
    assert [(r["model"], r["reason"]) for r in found["runners_up"]] == [
        ("m2", "latency not certain")
    ]
    assert {r["model"]: r["reason"] for r in found["left_out"]} == {
        "m1": "top1 broken", "m3": "top1 not known",
    }  # fmt: skip
    assert main(asked) == 0
    shown = capsys.readouterr().out
    assert "80.5 (published)" in shown
    assert "stmdeploy evaluate" in shown


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["--gpu", "h100"], "nothing is measured on NVIDIA H100 SXM"),
        ([], "nothing is measured on"),
        (["--gpu", "a100", "--max-latency-ms", "0.5"], "none of 4 measured rows"),
        (
            ["--gpu", "a100", "--batch", "3"],
            "no measured row of classification on that hardware fits",
        ),
    ],
)
def test_nothing_to_recommend_is_exit_code_3(
    asked: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["recommend", *asked]) == 3
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "asked", [["--max-latency-ms", "-1"], ["--gpu", "a10000"], ["--gpu", "a100", "--device", "x"]]
)
def test_bad_input_is_one_line(asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recommend", *asked]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def took_turns(make_row: MakeRow, top1: tuple[float, float], difference: float) -> list[Row]:
    """Two rows, of which the second was slower by a logarithm, known to 0.02 either way; their own
    intervals overlap."""
    rows = []
    for key, other, sign in (("a", "b", -1), ("b", "a", 1)):
        found = RowContrast(key=other, difference=sign * difference, error=0.008, freedom=5)
        rows.append(
            make_row(
                model=key, key=key, contrasts=(found,), published_top1_percent=top1[key == "b"]
            )
        )
    usual = rows[1].measurement
    assert usual is not None
    slower = usual.model_copy(update={"latency_ms_p50": 1.05 * usual.latency_ms_p50})
    return [rows[0], rows[1].model_copy(update={"measurement": slower})]


def test_ties_are_not_ranked(make_row: MakeRow) -> None:
    tied = recommend(took_turns(make_row, (80.0, 80.0), 0.01), Limits())
    assert [one.row.model for one in tied.choices] == ["a", "b"]
    assert reason(tied.choices[0], tied) == (
        "the most accurate and as fast as any and the highest throughput and not told apart from b"
    )
    assert reason(tied.choices[1], tied) == "as fast as any and not told apart from a"
    better = recommend(took_turns(make_row, (80.0, 81.0), 0.01), Limits())
    assert [one.row.model for one in better.choices] == ["b"], "as fast, and more accurate"
    apart = recommend(took_turns(make_row, (80.0, 80.0), 0.05), Limits())
    assert [one.row.model for one in apart.choices] == ["a"]
