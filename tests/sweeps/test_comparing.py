"""Rows of a stored sweep, compared by the waves that they share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy.results.state import DONE, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.sweeps.comparing import compare

MakeRow = Callable[..., Row]
MakeProcess = Callable[..., ProcessRun]
#: What every wave of a row was slower by.
WAVES = (0.99, 1.0, 1.02, 1.01)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path, create=True)
    store.add_sweep("s", "{}", [(name, "") for name in "abc"])
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
    a, b, _ = store.rows("s")
    assert {one.key: round(math.exp(one.difference), 6) for one in a.contrasts} == {
        "b": round(10 / 12, 6),
        "c": round(10 / 15, 6),
    }
    (by_third,) = [one for one in b.contrasts if one.key == "c"]
    assert math.exp(by_third.difference) == pytest.approx(12 / 15)


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
