"""Older stores become ones of this version; newer ones, and other files, are refused."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.results.schema import SCHEMA_VERSION
from stmdeploy.results.state import DONE, Measured
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from tests.results.conftest import Backend

MakeRow = Callable[..., Row]
MakeProcess = Callable[..., ProcessRun]


def test_a_store_of_version_1_is_migrated(
    backend: Backend, make_row: MakeRow, make_process: MakeProcess
) -> None:
    store = backend.new("old")
    store.add_sweep("old", "{}", [("a", "A")])
    store.add_processes("old", [Measured(0, 0, (make_process(),), make_row(), DONE)])
    store.close()
    backend.execute(store, "ALTER TABLE rows DROP COLUMN measured_utc")
    backend.execute(store, "DROP TABLE evaluations")
    backend.execute(store, "UPDATE schema_version SET version = 1")
    migrated = backend.again(store)
    assert migrated.rows("old") == (make_row(),)
    migrated.save_row("old", 0, make_row(batch=3), DONE)
    assert migrated.rows("old")[0].batch == 3
    assert migrated.evaluations() == ()
    assert backend.execute(store, "SELECT version FROM schema_version") == [(SCHEMA_VERSION,)]


def test_the_models_of_version_4_are_dropped(
    backend: Backend, make_row: MakeRow, make_process: MakeProcess
) -> None:
    """Their failures are sentences with a code; `profile --resume` prepares them again."""
    store = backend.new("old")
    store.add_sweep("old", "{}", [("a", "A"), ("b", "B")])
    store.add_processes("old", [Measured(0, 0, (make_process(),), make_row(), DONE)])
    store.close()
    artifact = {"target": "onnx", "precision": "fp32", "failure": "no room", "failure_code": 5}
    document = json.dumps({"parameters": 1, "artifacts": [artifact]})
    backend.execute(store, f"INSERT INTO models VALUES ('old', 0, '{document}')")
    backend.execute(store, "UPDATE schema_version SET version = 4")
    migrated = backend.again(store)
    assert migrated.prepared("old") == {}
    assert [info.id for info in migrated.sweeps()] == ["old"]
    assert [row.key for row in migrated.planned("old")] == ["a", "b"]
    assert migrated.rows("old") == (make_row(),)
    assert migrated.processes("old", 0) == (make_process(),)
    assert backend.execute(store, "SELECT version FROM schema_version") == [(SCHEMA_VERSION,)]


def test_a_newer_store_is_refused(backend: Backend) -> None:
    store = backend.new("newer")
    backend.execute(store, "UPDATE schema_version SET version = 99")
    with pytest.raises(StmdeployError, match="has schema 99, this stmdeploy reads up to"):
        backend.again(store)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at" * 20)
    with pytest.raises(StmdeployError, match="is damaged: file is not a database"):
        Store(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(StmdeployError, match="holds no stmdeploy results"):
        Store(tmp_path / "other.db")
    with pytest.raises(StmdeployError, match="no results in"):
        Store(tmp_path)


@pytest.mark.parametrize(
    ("statement", "rewritten"),
    [
        ("CREATE VIEW extra AS SELECT 1 AS x", None),
        ("CREATE TRIGGER extra AFTER INSERT ON rows BEGIN DELETE FROM rows; END", None),
        ("CREATE VIRTUAL TABLE extra USING fts5(x)", None),
        ("CREATE VIRTUAL TABLE extra USING fts5(x)", "CREATE/**/VIRTUAL TABLE extra USING fts5(x)"),
    ],
)
def test_what_computes_is_refused(tmp_path: Path, statement: str, rewritten: str | None) -> None:
    Store(tmp_path, create=True).close()
    with sqlite3.connect(tmp_path / "results.db") as connection:
        connection.execute("CREATE UNIQUE INDEX mine ON rows (sweep, key)")
        connection.execute("ANALYZE")
    Store(tmp_path).close()  # an index of the user's own is none
    with sqlite3.connect(tmp_path / "results.db") as connection:
        connection.execute(statement)
        if rewritten:
            connection.execute("PRAGMA writable_schema = ON")
            definition = "UPDATE sqlite_master SET sql = ? WHERE name = 'extra'"
            connection.execute(definition, (rewritten,))
    with pytest.raises(StmdeployError, match="defines 'extra', which is no table or index"):
        Store(tmp_path)


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    """What would end the path of a URL does not end that of a file."""
    folder = tmp_path / "a?mode=ro#b%20c"
    folder.mkdir()
    Store(folder, create=True).add_sweep("s", "{}", [("a", "A")])
    assert [info.id for info in Store(folder).sweeps()] == ["s"]
    assert (folder / "results.db").is_file()
