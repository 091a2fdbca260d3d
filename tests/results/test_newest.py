"""The newest of every row, over sweeps, machines and failures."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stmdeploy.results.newest import Entry, newest_states
from stmdeploy.schema.row import Row

MakeRow = Callable[..., Row]


@pytest.fixture
def measured(make_row: MakeRow) -> Callable[..., Entry]:
    """An entry of the row ``a`` on some day."""

    def build(day: int, sweep: str = "s1", key: str = "a", **fields: object) -> Entry:
        row = make_row(started_utc=f"2026-01-{day:02}T00:00:00+00:00", **fields)
        return Entry(key, sweep, day, row)

    return build


@pytest.fixture
def failed(measured: Callable[..., Entry]) -> Callable[..., Entry]:
    """As `measured`, but it failed."""

    def build(day: int, **fields: object) -> Entry:
        return measured(day, **{"measurement": None, "failure": "died", **fields})

    return build


MakeEntry = Callable[..., Entry]


def test_a_failure_before_the_measurement_is_past(measured: MakeEntry, failed: MakeEntry) -> None:
    done = measured(2)
    assert newest_states([done], [failed(1)]) == ([done], [])
    assert newest_states([done], [failed(3)]) == ([done], [failed(3)])


def test_of_several_failures_the_newest_counts(measured: MakeEntry, failed: MakeEntry) -> None:
    assert newest_states([], [failed(1), failed(3), failed(2)]) == ([failed(3)], [])
    done = measured(1)
    assert newest_states([done], [failed(2), failed(3)]) == ([done], [failed(3)])


def test_another_machine_or_lowering_is_another_row(measured: MakeEntry, failed: MakeEntry) -> None:
    done = measured(1)
    for fields in ({"device_name": "another"}, {"lowering": "reference"}, {"key": "b"}):
        assert newest_states([done], [failed(2, **fields)]) == ([done, failed(2, **fields)], [])


def test_what_was_not_exported_has_no_lowering(measured: MakeEntry, failed: MakeEntry) -> None:
    done, broken = measured(1), failed(2, lowering=None)
    assert newest_states([done], [broken]) == ([done], [broken])
    # Exported by now, it failed for another reason.
    assert newest_states([], [broken, failed(3)]) == ([failed(3)], [])


def test_a_node_that_failed_need_not_name_its_device(
    measured: MakeEntry, failed: MakeEntry
) -> None:
    done = measured(1, node="a100", device_name="NVIDIA A100-SXM4-40GB")
    lost = failed(2, node="a100", device_name="a100")
    assert newest_states([done], [lost]) == ([done], [lost])
