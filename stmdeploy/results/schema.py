"""The tables of the store, and how an older store becomes one of this version."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.schema import CreateTable

from stmdeploy.errors import StmdeployError
from stmdeploy.reading import printable

#: 1: first version.  2: rows say when they were last measured.  3: evaluations.  4: rows of
#: clusters, in the documents alone.
SCHEMA_VERSION = 4
_RESTORE = "restore it, or choose another --out"

metadata = MetaData()
version_table = Table("schema_version", metadata, Column("version", Integer, nullable=False))
#: A sweep: what was asked for.
sweeps = Table(
    "sweeps",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created_utc", String(32), nullable=False),
    Column("spec", Text, nullable=False),
)
#: A model of a sweep: built, counted, exported.
models = Table(
    "models",
    metadata,
    Column("sweep", String(40), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("prepared", Text, nullable=False),
    ForeignKeyConstraint(["sweep"], ["sweeps.id"], ondelete="CASCADE"),
)
#: A row: its spec, its state (planned, measuring, done, failed), and what it comes to so far.
rows = Table(
    "rows",
    metadata,
    Column("sweep", String(40), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("key", String(32), nullable=False),
    Column("spec", Text, nullable=False),
    Column("state", String(12), nullable=False),
    Column("row", Text),
    Column("measured_utc", String(32)),
    ForeignKeyConstraint(["sweep"], ["sweeps.id"], ondelete="CASCADE"),
)
#: One process of a row, its samples packed.
processes = Table(
    "processes",
    metadata,
    Column("sweep", String(40), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("process", Text, nullable=False),
    Column("samples", LargeBinary, nullable=False),
    ForeignKeyConstraint(
        ["sweep", "position"], ["rows.sweep", "rows.position"], ondelete="CASCADE"
    ),
)
#: Accuracy of an artifact on a runtime over some data.
evaluations = Table(
    "evaluations",
    metadata,
    Column("artifact_sha256", String(64), primary_key=True),
    Column("runtime", String(64), primary_key=True),
    Column("provider", String(64), primary_key=True),
    Column("data_sha256", String(64), primary_key=True),
    Column("created_utc", String(32), nullable=False),
    Column("evaluation", Text, nullable=False),
)
#: What turns a store of the version before into one of this version.
MIGRATIONS = {
    2: ("ALTER TABLE rows ADD COLUMN measured_utc VARCHAR(32)",),
    3: (str(CreateTable(evaluations, if_not_exists=True)),),
    4: (),
}


def refuse_programs(connection: Connection, name: str) -> None:
    """Raises StmdeployError for a SQLite file that holds more than tables and indices: views,
    triggers and virtual tables compute as they are read or written."""
    listed = "SELECT type, name FROM sqlite_master WHERE type NOT IN ('table', 'index')"
    virtual = "SELECT 'virtual table', name FROM sqlite_master WHERE sql LIKE 'CREATE VIRTUAL%'"
    for query in (listed, virtual):
        if found := connection.execute(text(query)).first():
            kind, which = (printable(str(word))[:40] for word in found)
            raise StmdeployError(
                f"{name} holds a {kind} {which!r}, and no store of ours does", _RESTORE
            )


def refuse_other_types(connection: Connection, name: str) -> None:
    """Raises StmdeployError for a SQLite file whose columns are not all there, or hold something
    else than they say: SQLite itself does not mind."""
    for table in metadata.sorted_tables:
        there = {column["name"] for column in inspect(connection).get_columns(table.name)}
        if missing := [column.name for column in table.columns if column.name not in there]:
            raise StmdeployError(f"{name} is damaged: {table.name} has no {missing[0]}", _RESTORE)
        wrong = " OR ".join(map(_is_other, table.columns))
        if connection.execute(text(f"SELECT 1 FROM {table.name} WHERE {wrong} LIMIT 1")).first():
            raise StmdeployError(
                f"{name} is damaged: {table.name} holds values of another type", _RESTORE
            )


def _is_other(column: Column[Any]) -> str:
    kinds = {Integer: "integer", LargeBinary: "blob"}
    kind = next((kinds[k] for k in kinds if isinstance(column.type, k)), "text")
    allowed = f"'{kind}', 'null'" if column.nullable else f"'{kind}'"
    return f"typeof({column.name}) NOT IN ({allowed})"


def bring_up_to_date(connection: Connection, name: str, *, create: bool = True) -> None:
    """Makes the tables of an empty store, or migrates an older one.

    Raises:
        StmdeployError: the store is empty and not to be made, of a newer version, or something
            else's.
    """
    known = set(inspect(connection).get_table_names())
    if not known:
        if not create:
            raise StmdeployError(f"no results in {name}", "run `stmdeploy profile` first")
        metadata.create_all(connection)
        connection.execute(version_table.insert().values(version=SCHEMA_VERSION))
        return
    if not known >= {table.name for table in (version_table, sweeps, models, rows, processes)}:
        raise StmdeployError(f"{name} holds no stmdeploy results", "choose another --store")
    versions = connection.execute(select(version_table.c.version)).scalars().all()
    if len(versions) != 1 or type(versions[0]) is not int or versions[0] < 1:
        raise StmdeployError(f"{name} does not say of which schema it is", _RESTORE)
    version = versions[0]
    if version > SCHEMA_VERSION:
        raise StmdeployError(
            f"{name} has schema {version}, this stmdeploy writes {SCHEMA_VERSION}",
            "use the stmdeploy that wrote it, or a newer one",
        )
    for step in range(version + 1, SCHEMA_VERSION + 1):
        for statement in MIGRATIONS[step]:
            connection.execute(text(statement))
    if version != SCHEMA_VERSION:
        connection.execute(update(version_table).values(version=SCHEMA_VERSION))
