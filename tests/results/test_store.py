"""The database of rows: whole at every moment, for several writers at once."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stmdeploy import StmdeployError
from stmdeploy.results.state import DONE, FAILED, MEASURING, PLANNED, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Prepared, Row
from tests.fakes import evaluation
from tests.results.conftest import Backend

MakeRow = Callable[..., Row]
MakeProcess = Callable[..., ProcessRun]


@pytest.fixture
def store(backend: Backend) -> Store:
    store = backend.new("first")
    store.add_sweep("s1", "{}", [("a", "A"), ("b", "B"), ("c", "C")])
    return store


def test_a_process_and_its_row_appear_together(
    backend: Backend, store: Store, make_row: MakeRow, make_process: MakeProcess
) -> None:
    process = make_process()
    assert store.add_processes("s1", [Measured(1, 0, (process,), make_row(batch=7), MEASURING)])
    assert store.processes("s1", 1) == (process,)
    assert [row.batch for row in store.rows("s1")] == [7]
    assert [row.state for row in store.planned("s1")] == [PLANNED, MEASURING, PLANNED]
    assert backend.again(store).rows("s1") == store.rows("s1")


def test_no_process_is_kept_twice(
    store: Store, make_row: MakeRow, make_process: MakeProcess
) -> None:
    assert store.add_processes(
        "s1", [Measured(0, 0, (make_process(),), make_row(batch=1), MEASURING)]
    )
    assert not store.add_processes(
        "s1", [Measured(0, 0, (make_process(),), make_row(batch=2), DONE)]
    )
    assert len(store.processes("s1", 0)) == 1
    assert [row.batch for row in store.rows("s1")] == [1]


def test_a_failed_row_is_kept_with_its_reason(store: Store, make_row: MakeRow) -> None:
    store.save_row("s1", 2, make_row(measurement=None, failure="worker died of SIGSEGV"), FAILED)
    (row,) = store.rows("s1")
    assert row.failure == "worker died of SIGSEGV"
    assert store.find_sweep(None).states == {PLANNED: 2, FAILED: 1}


def test_a_finished_row_stays(store: Store, make_row: MakeRow, make_process: MakeProcess) -> None:
    """Whatever another driver of the same sweep makes of it later; a failed one is planned anew."""
    assert store.add_processes("s1", [Measured(0, 0, (make_process(),), make_row(batch=1), DONE)])
    store.save_row("s1", 0, make_row(measurement=None, failure="node lost"), MEASURING)
    store.save_row("s1", 0, make_row(measurement=None, failure="node lost"), FAILED)
    assert [row.failure for row in store.rows("s1")] == [None]
    assert store.planned("s1")[0].state == DONE
    store.save_row("s1", 1, make_row(measurement=None, failure="died"), FAILED)
    store.plan_failed_again("s1")
    assert [row.state for row in store.planned("s1")] == [DONE, PLANNED, PLANNED]


def test_a_row_is_added_once(store: Store) -> None:
    assert store.add_row("s1", "d", "D") == 3
    assert store.add_row("s1", "d", "D") is None


def test_a_sweep_that_someone_deletes_meanwhile(
    backend: Backend, store: Store, make_row: MakeRow, make_process: MakeProcess
) -> None:
    backend.again(store).remove_sweep("s1")
    measured = [Measured(0, 0, (make_process(),), make_row(batch=1), MEASURING)]
    nothing: dict[str, Any] = {}
    ready = Prepared.model_construct(**nothing)
    for use in (
        lambda: store.asked("s1"),
        lambda: store.find_sweep("s1"),
        lambda: store.add_row("s1", "d", "D"),
        lambda: store.save_prepared("s1", 0, ready),
        lambda: store.add_processes("s1", measured),
    ):
        with pytest.raises(StmdeployError, match="has no sweep 's1'"):
            use()
    store.save_row("s1", 0, make_row(batch=1), DONE)
    assert store.rows("s1") == ()


def test_sweeps_are_found_by_how_they_begin(store: Store) -> None:
    store.add_sweep("s2x", "{}", [("a", "A")])
    assert store.find_sweep(None).id == "s2x"
    assert store.find_sweep("s1").id == "s1"
    with pytest.raises(StmdeployError, match="'s' is ambiguous; give one of: s1, s2x"):
        store.find_sweep("s")
    with pytest.raises(StmdeployError, match="has no sweep 't'"):
        store.find_sweep("t")


def test_removing_leaves_the_others(
    backend: Backend, store: Store, make_row: MakeRow, make_process: MakeProcess
) -> None:
    store.add_sweep("s2", "{}", [("a", "A")])
    for sweep in ("s1", "s2"):
        store.add_processes(sweep, [Measured(0, 0, (make_process(),), make_row(), DONE)])
    store.remove_sweep("s1")
    store.reclaim()
    assert [info.id for info in store.sweeps()] == ["s2"]
    for table in ("rows", "processes"):
        assert backend.execute(store, f"SELECT DISTINCT sweep FROM {table}") == [("s2",)]
    assert len(store.processes("s2", 0)) == 1
    store.drop_processes("s2")
    assert store.processes("s2", 0) == ()
    assert len(store.rows("s2")) == 1


def test_a_merge_takes_what_is_new(
    backend: Backend, make_row: MakeRow, make_process: MakeProcess
) -> None:
    mine, theirs = backend.new("mine"), backend.new("theirs")
    for store in (mine, theirs):
        store.add_sweep("both", "{}", [("a", "A"), ("b", "B")])
        store.add_processes(
            "both", [Measured(0, 0, (make_process(),), make_row(batch=1), MEASURING)]
        )
    theirs.add_processes("both", [Measured(0, 1, (make_process(),), make_row(batch=2), DONE)])
    theirs.add_sweep("theirs", "{}", [("a", "A")])
    mine.add_sweep("mine", "{}", [("a", "A")])
    assert mine.merge(theirs) == (1, 1)
    assert mine.merge(theirs) == (0, 0)
    assert {info.id for info in mine.sweeps()} == {"both", "theirs", "mine"}
    assert len(mine.processes("both", 0)) == 2
    assert [row.batch for row in mine.rows("both")] == [2]
    assert mine.find_sweep("both").states == {DONE: 1, PLANNED: 1}


def _write(place: tuple[Path, str], writer: int, count: int, row: Row, process: ProcessRun) -> None:
    store = Store(place[0], url=place[1])
    for i in range(count):
        assert store.add_processes("many", [Measured(writer * count + i, 0, (process,), row, DONE)])


@pytest.mark.slow
@pytest.mark.parametrize("each", [60, pytest.param(500, marks=pytest.mark.nightly)])
def test_eight_writers(
    backend: Backend, make_row: MakeRow, make_process: MakeProcess, each: int
) -> None:
    writers = 8
    store = backend.new("many")
    store.add_sweep("many", "{}", [(str(i), "") for i in range(writers * each)])
    spawn = multiprocessing.get_context("spawn")
    place = backend.place(store)
    jobs = [
        spawn.Process(target=_write, args=(place, i, each, make_row(), make_process()))
        for i in range(writers)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * writers
    assert store.find_sweep("many").states == {DONE: writers * each}
    assert len(store.rows("many")) == writers * each
    assert backend.execute(store, "SELECT count(*) FROM processes") == [(writers * each,)]
    backend.check(store)


def _add(place: tuple[Path, str], writer: int, count: int) -> None:
    store = Store(place[0], url=place[1], create=True)
    for i in range(count):
        assert store.add_row("shared", f"{writer}-{i}", "") is not None


@pytest.mark.nightly
def test_eight_writers_add_rows_to_one_sweep(backend: Backend) -> None:
    """Every one of them takes the next free position; none is taken twice."""
    store = backend.new("shared")
    store.add_sweep("shared", "{}", [("first", "")])
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=_add, args=(backend.place(store), i, 40)) for i in range(8)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * 8
    assert [row.position for row in store.planned("shared")] == list(range(321))


def test_a_damaged_row_is_named(backend: Backend, store: Store, make_row: MakeRow) -> None:
    store.save_row("s1", 0, make_row(), DONE)
    backend.execute(store, """UPDATE rows SET row = '{"model": 3}' WHERE position = 0""")
    with pytest.raises(StmdeployError, match="damaged at model"):
        store.rows("s1")


def test_the_newest_measurement_of_every_row(store: Store, make_row: MakeRow) -> None:
    """Rows of one key on two machines are two; a later sweep's takes an earlier one's place."""
    store.save_row("s1", 0, make_row(batch=1), DONE)
    store.save_row("s1", 1, make_row(batch=2, measurement=None, failure="died"), FAILED)
    store.save_row("s1", 2, make_row(batch=3), MEASURING)
    store.add_sweep("s2", "{}", [("a", "A"), ("a", "A")])
    later = "2026-01-02T00:00:00+00:00"
    store.save_row("s2", 0, make_row(batch=10, started_utc=later), DONE)
    store.save_row("s2", 1, make_row(batch=20, device_name="another"), DONE)
    assert [row.batch for row in store.newest_rows()] == [10, 20]
    # Explaining an older row does not make it a newer one; another lowering is another row.
    store.explain_row("s1", 0, make_row(batch=1, parts_ms={"stem": 1.0}))
    assert [row.batch for row in store.newest_rows()] == [10, 20]
    store.save_row("s1", 0, make_row(batch=1, lowering="reference"), DONE)
    assert [row.batch for row in store.newest_rows()] == [1, 10, 20]


def test_the_newest_states_have_what_failed(store: Store, make_row: MakeRow) -> None:
    """A measurement stays beside a later failure; what was never measured stands as failed."""
    store.save_row("s1", 0, make_row(batch=1), DONE)
    store.save_row("s1", 1, make_row(batch=2, measurement=None, failure="died"), FAILED)
    store.save_row("s1", 2, make_row(batch=3), MEASURING)
    store.add_sweep("s2", "{}", [("a", "A"), ("b", "B")])
    later = {"started_utc": "2026-01-02T00:00:00+00:00", "measurement": None}
    store.save_row("s2", 0, make_row(batch=10, failure="out of memory", **later), FAILED)
    store.save_row("s2", 1, make_row(batch=20, failure="died again", **later), FAILED)
    found = store.newest_states()
    assert [(row.batch, row.failure) for row in found.rows] == [(1, None), (20, "died again")]
    assert [(row.batch, row.failure) for row in found.failed_since] == [(10, "out of memory")]
    assert [row.batch for row in store.newest_rows()] == [1]
    # Asked for once more, but not yet measured.
    store.plan_failed_again("s2")
    assert store.newest_states() == found


def test_an_evaluation_belongs_to_the_very_artifact(
    backend: Backend, store: Store, make_row: MakeRow
) -> None:
    row, other = make_row(), make_row(artifact_sha256="9" * 64)
    store.save_row("s1", 0, row, DONE)
    store.save_row("s1", 1, other, DONE)
    for created, percent in (("2026-01-01", 70.0), ("2026-01-02", 80.0)):
        store.add_evaluation(evaluation(row, percent, created))
    first, second = store.rows("s1")
    assert first.accuracy is not None
    assert first.accuracy.top1.percent == 80.0  # over the same data the newer one stays
    assert second.accuracy is None
    assert len(store.evaluations()) == 1
    on_gpu = evaluation(row, 5.0, "2026-01-04").model_copy(update={"provider": "CUDA"})
    store.add_evaluation(on_gpu)
    assert store.rows("s1")[0] == first  # another provider's is not this row's
    few = evaluation(row, 10.0, "2026-01-03").model_copy(
        update={"images": 5, "data_sha256": "3" * 64}
    )
    store.add_evaluation(few)
    assert store.rows("s1")[0] == first  # fewer images, though newer
    # It is added as a row is read, and never stored with it.
    store.save_row("s1", 0, first, DONE)
    copy = backend.new("other")
    copy.merge(store)
    assert copy.evaluations() == store.evaluations()
    assert copy.rows("s1") == store.rows("s1")
