"""Rows of a stored sweep, compared by the waves that they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from stmdeploy.measure.calm import Taken
from stmdeploy.results.state import DONE, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.comparing import compare, compare_by_reference, contrasts_of

MakeRow = Callable[..., Row]
MakeProcess = Callable[..., ProcessRun]
#: What every wave of a row was slower by.
WAVES = (0.99, 1.0, 1.02, 1.01)


ROWS = SweepSpec((ModelSpec("unified_convnext_nano"),), (RunSpec("onnxruntime", 1, 1),), repeats=3)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With a sweep of three rows, the first of which is the reference."""
    store = Store(tmp_path, create=True)
    rows = [(key, row.to_json()) for key, row in zip("abc", ROWS.rows(), strict=True)]
    store.add_sweep("s", ROWS.to_json(), rows)
    return store


def processes(make: MakeProcess, ms: float, waves: range | None) -> tuple[ProcessRun, ...]:
    return tuple(
        make(samples_ms=(ms, ms * factor, ms * factor), turns=(1, 2), wave=waves and waves[i])
        for i, factor in enumerate(WAVES)
    )


def test_rows_of_one_wave_and_of_two_blocks(
    store: Store, make_row: MakeRow, make_process: MakeProcess
) -> None:
    """b took turns with a, and c with a: b and c are compared by a."""
    reference = processes(make_process, 10.0, range(4)) + processes(make_process, 10.0, range(4, 8))
    store.add_processes(
        "s",
        [
            Measured(0, 0, reference, make_row(), DONE),
            Measured(1, 0, processes(make_process, 12.0, range(4)), make_row(), DONE),
            Measured(2, 0, processes(make_process, 15.0, range(4, 8)), make_row(), DONE),
        ],
    )
    compare(store, "s")
    a, b, c = store.rows("s")
    assert [one.key for one in b.contrasts] == ["a"]
    compare_by_reference(store, "s")
    assert store.rows("s")[0] == a, "it has both already"
    _, b, c = store.rows("s")
    assert {one.key: round(math.exp(one.difference), 6) for one in a.contrasts} == {
        "b": round(10 / 12, 6),
        "c": round(10 / 15, 6),
    }
    (by_third,) = [one for one in b.contrasts if one.key == "c"]
    assert math.exp(by_third.difference) == pytest.approx(12 / 15)
    assert [-one.difference for one in c.contrasts if one.key == "b"] == [by_third.difference]
    compare_by_reference(store, "s")
    assert store.rows("s") == (a, b, c), "nothing is left to compare"


def test_what_ran_alone_is_not_compared(
    store: Store, make_row: MakeRow, make_process: MakeProcess
) -> None:
    alone = processes(make_process, 10.0, None)
    store.add_processes(
        "s", [Measured(position, 0, alone, make_row(), DONE) for position in (0, 1)]
    )
    compare(store, "s")
    assert [row.contrasts for row in store.rows("s")] == [(), ()]


def test_two_waves_are_too_few(store: Store, make_row: MakeRow, make_process: MakeProcess) -> None:
    two = processes(make_process, 10.0, range(4))[:2]
    store.add_processes("s", [Measured(p, 0, two, make_row(), DONE) for p in (0, 1)])
    compare(store, "s")
    assert [row.contrasts for row in store.rows("s")] == [(), ()]


def test_pairs_of_different_batches_do_not_widen_those_of_one() -> None:
    """A machine of two speeds, at which large batches take as long, is no fault of small ones."""
    dice = np.random.default_rng(8)
    speeds = np.where(np.arange(6) < 3, 0.0, 0.3)

    def waves(batch: int) -> dict[int, Taken]:
        logs = dice.normal(speeds * (batch > 1), 0.01)
        return {wave: Taken([[float(np.exp(log))] * 5] * 8) for wave, log in enumerate(logs)}

    rows = {f"{name}{batch}": waves(batch) for batch in (1, 8) for name in "abcd"}
    found = contrasts_of(rows, {key: int(key[1:]) for key in rows})
    widths = {key: found["a1"][key].ratio().half_width_percent for key in ("b1", "c1", "d1", "b8")}
    assert max(widths[key] for key in ("b1", "c1", "d1")) < 4.0 < 10.0 < widths["b8"]
