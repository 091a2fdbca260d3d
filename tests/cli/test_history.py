"""History from a store: rows over time, steps, and the exit code of a nightly job."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stmdeploy.cli.main import main
from stmdeploy.report.history import _figure
from stmdeploy.results.state import DONE
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import Measurement
from stmdeploy.schema.row import Row, RowContrast

MakeRow = Callable[..., Row]


def write_store(folder: Path, row: Row, figures: list[float], ratios: list[float]) -> None:
    """A store with a sweep for every figure of one row, and a second row beside it."""
    folder.mkdir()
    store = Store(folder, create=True)
    measurement = row.measurement
    assert isinstance(measurement, Measurement)
    for night, (figure, ratio) in enumerate(zip(figures, ratios, strict=True)):
        sweep = f"202611{1 + night // 24:02}-{night % 24:02}0000-aaaa"
        time = f"2026-11-{1 + night // 24:02}T{night % 24:02}:00:00.000+00:00"
        store.add_sweep(sweep, "{}", [("key-a", "{}"), ("key-b", "{}")])
        told = measurement.model_copy(
            update={
                "latency_ms_p50": figure,
                "latency_ms_p50_low": figure,
                "latency_ms_p50_high": figure,
            }
        )
        to_other = RowContrast(key="key-b", difference=math.log(ratio), error=0.01, freedom=5)
        update = {"started_utc": time, "measurement": told, "key": "key-a"}
        store.save_row(sweep, 0, row.model_copy(update={**update, "contrasts": (to_other,)}), DONE)
        other = {**update, "key": "key-b", "runtime": "torch", "contrasts": ()}
        store.save_row(sweep, 1, row.model_copy(update=other), DONE)
    store.close()


@pytest.fixture
def nights() -> list[float]:
    """Forty steady nights, with noise of 2 %."""
    return [float(one) for one in 10 * np.exp(np.random.default_rng(5).normal(0, 0.02, 40))]


@pytest.mark.usefixtures("here")
def test_a_step_makes_a_nightly_job_fail(
    make_row: MakeRow, nights: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    slower = [one * (1.08 if night >= 25 else 1) for night, one in enumerate(nights)]
    write_store(Path("stmdeploy-results"), make_row(), slower, [1.0] * 40)
    assert main(["history", "--json", "--figure", "history.png"]) == 1
    found = json.loads(capsys.readouterr().out)["history"]
    assert len(found) == 2
    (step,) = found[0]["steps"]
    assert step["percent"] == pytest.approx(8, abs=2.5)
    assert found[0]["entries"][25]["sweep"][:8] == step["sweep"][:8]
    assert Path("history.png").stat().st_size > 1000
    assert main(["history", "--threshold-percent", "20"]) == 0
    assert "%" in capsys.readouterr().out
    # The whole machine became slower: by turns with another row nothing happened.
    assert main(["history", "--relative-to", "torch", "--json"]) == 0
    (beside,) = json.loads(capsys.readouterr().out)["history"]
    assert beside["steps"] == [] and beside["unit"] == "times torch"


@pytest.mark.usefixtures("here")
def test_a_steady_row_and_a_short_one(
    make_row: MakeRow, nights: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    write_store(Path("stmdeploy-results"), make_row(), nights, nights)
    assert main(["history"]) == 0
    assert "none" in capsys.readouterr().out
    write_store(Path("short"), make_row(), nights[:5], nights[:5])
    assert main(["history", "--out", "short"]) == 3
    assert "too few to say" in capsys.readouterr().out
    assert main(["history", "--row", "no-such-row"]) == 2
    assert main(["history", "--relative-to", "no-such-row"]) == 2
    assert main(["history", "--threshold-percent", "0"]) == 2
    assert main(["history", "--out", "nowhere"]) == 2


def test_a_row_is_compared_with_that_of_its_own_batch(make_row: MakeRow) -> None:
    to = [
        RowContrast(key=key, difference=math.log(ratio), error=0.01, freedom=5)
        for key, ratio in (("at batch 1", 8.0), ("at batch 8", 1.5))
    ]
    beside = {1: "at batch 1", 8: "at batch 8"}
    row = make_row(batch=8, contrasts=tuple(to))
    assert _figure(row, beside) == pytest.approx(1.5)
    assert _figure(row, {1: "at batch 1"}) is None
