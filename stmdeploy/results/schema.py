"""The tables of the store, and the migration of older stores to this version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Table

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import printable
from stmdeploy.results.faults import RESTORE, damaged, no_results

#: 1: first version.  2: rows say when they were last measured.  3: evaluations.  4: rows of
#: clusters, in the documents alone.  5: an artifact's failure has a kind and a hint; models of
#: older stores lack them and are dropped: `profile --resume` prepares them again.  6: processes
#: take turns, and rows are compared, in the documents alone.  7: invariance, receptive fields.
SCHEMA_VERSION = 7

metadata = sa.MetaData()
version_table = Table("schema_version", metadata, sa.Column("version", sa.Integer, nullable=False))
#: A sweep: its specification.
sweeps = Table(
    "sweeps",
    metadata,
    sa.Column("id", sa.String(40), primary_key=True),
    sa.Column("created_utc", sa.String(32), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
)
#: A model of a sweep: built, counted, exported.
models = Table(
    "models",
    metadata,
    sa.Column("sweep", sa.String(40), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("prepared", sa.Text, nullable=False),
    sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], ondelete="CASCADE"),
)
#: A row: its specification, its state (planned, measuring, done, failed), its figures so far.
rows = Table(
    "rows",
    metadata,
    sa.Column("sweep", sa.String(40), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("key", sa.String(32), nullable=False),
    sa.Column("spec", sa.Text, nullable=False),
    sa.Column("state", sa.String(12), nullable=False),
    sa.Column("row", sa.Text),
    sa.Column("measured_utc", sa.String(32)),
    sa.ForeignKeyConstraint(["sweep"], ["sweeps.id"], ondelete="CASCADE"),
)
#: One process of a row, its samples packed.
processes = Table(
    "processes",
    metadata,
    sa.Column("sweep", sa.String(40), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("process", sa.Text, nullable=False),
    sa.Column("samples", sa.LargeBinary, nullable=False),
    sa.ForeignKeyConstraint(
        ["sweep", "position"], ["rows.sweep", "rows.position"], ondelete="CASCADE"
    ),
)
#: Accuracy of an artifact on a runtime over some data.
evaluations = Table(
    "evaluations",
    metadata,
    sa.Column("artifact_sha256", sa.String(64), primary_key=True),
    sa.Column("runtime", sa.String(64), primary_key=True),
    sa.Column("provider", sa.String(64), primary_key=True),
    sa.Column("data_sha256", sa.String(64), primary_key=True),
    sa.Column("created_utc", sa.String(32), nullable=False),
    sa.Column("evaluation", sa.Text, nullable=False),
)
#: Invariance of an artifact on a runtime over some data, to some transforms.
invariances = Table(
    "invariances",
    metadata,
    sa.Column("artifact_sha256", sa.String(64), primary_key=True),
    sa.Column("runtime", sa.String(64), primary_key=True),
    sa.Column("provider", sa.String(64), primary_key=True),
    sa.Column("data_sha256", sa.String(64), primary_key=True),
    sa.Column("protocol", sa.String(16), primary_key=True),
    sa.Column("transforms", sa.String(64), primary_key=True),
    sa.Column("created_utc", sa.String(32), nullable=False),
    sa.Column("invariance", sa.Text, nullable=False),
)
#: Receptive fields of a network, for images of a size.
receptive_fields = Table(
    "receptive_fields",
    metadata,
    sa.Column("weights_sha256", sa.String(64), primary_key=True),
    sa.Column("task", sa.String(32), primary_key=True),
    sa.Column("image", sa.String(32), primary_key=True),
    sa.Column("created_utc", sa.String(32), nullable=False),
    sa.Column("field", sa.Text, nullable=False),
)
#: Statements that turn a store of the previous version into one of this version.
MIGRATIONS = {
    2: ("ALTER TABLE rows ADD COLUMN measured_utc VARCHAR(32)",),
    3: (str(sa.schema.CreateTable(evaluations, if_not_exists=True)),),
    4: (),
    5: (str(sa.delete(models)),),
    6: (),
    7: tuple(
        str(sa.schema.CreateTable(table, if_not_exists=True))
        for table in (invariances, receptive_fields)
    ),
}


def same_key(table: Table, line: Mapping[str, Any]) -> sa.ColumnElement[bool]:
    """A condition for the line of a table that has the primary key of another line."""
    return sa.and_(*(column == line[column.name] for column in table.primary_key))


def replace_line(connection: Connection, table: Table, line: Mapping[str, Any]) -> None:
    """Inserts a line, in place of one with the same key if there is one."""
    connection.execute(sa.delete(table).where(same_key(table, line)))
    connection.execute(table.insert().values(**line))


def refuse_programs(connection: Connection, name: str) -> None:
    """Raises StmdeployError for a SQLite file that holds more than tables and indices.

    Views, triggers and virtual tables compute when they are read or written. They are known by
    their definitions, because the type beside a definition can be forged. An index that SQLite
    makes by itself has no definition.
    """
    plain = ("TABLE", "INDEX", "UNIQUE INDEX")
    others = " AND ".join(f"sql NOT LIKE 'CREATE {kind} %'" for kind in plain)
    query = sa.text(f"SELECT name FROM sqlite_master WHERE {others}")
    if found := connection.execute(query).first():
        shown = printable(str(found.name))[:40]
        raise StmdeployError(f"{name} defines {shown!r}, which is no table or index", RESTORE)


def refuse_other_types(connection: Connection, name: str) -> None:
    """Raises StmdeployError for a SQLite file that lacks columns, or holds values of other types.

    SQLite itself does not enforce types.
    """
    for table in metadata.sorted_tables:
        there = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
        if missing := [column.name for column in table.columns if column.name not in there]:
            raise damaged(name, f"{table.name} has no {missing[0]}")
        wrong = " OR ".join(map(_is_other, table.columns))
        if connection.execute(sa.text(f"SELECT 1 FROM {table.name} WHERE {wrong} LIMIT 1")).first():
            raise damaged(name, f"{table.name} holds values of another type")


def _is_other(column: sa.Column[Any]) -> str:
    """A condition in SQL: a value of the column has another type."""
    kind = {int: "integer", bytes: "blob", str: "text"}[column.type.python_type]
    allowed = f"'{kind}', 'null'" if column.nullable else f"'{kind}'"
    return f"typeof({column.name}) NOT IN ({allowed})"


def bring_up_to_date(connection: Connection, name: str, *, create: bool = True) -> None:
    """Creates the tables of an empty store, or migrates an older one.

    Raises:
        StmdeployError: the store is empty and `create` is false, it is of a newer version, or it
            is another program's database.
    """
    known = set(sa.inspect(connection).get_table_names())
    if not known:
        if not create:
            raise no_results(name)
        metadata.create_all(connection)
        connection.execute(version_table.insert().values(version=SCHEMA_VERSION))
        return
    if not known >= {table.name for table in (version_table, sweeps, models, rows, processes)}:
        hint = "choose another with --out or --store"
        raise StmdeployError(f"{name} holds no stmdeploy results", hint)
    versions = connection.execute(sa.select(version_table.c.version)).scalars().all()
    if len(versions) != 1 or type(versions[0]) is not int or versions[0] < 1:
        raise StmdeployError(f"{name} does not say which schema it has", RESTORE)
    version = versions[0]
    if version > SCHEMA_VERSION:
        raise StmdeployError(
            f"{name} has schema {version}, this stmdeploy reads up to {SCHEMA_VERSION}",
            "use the stmdeploy that wrote it, or a newer one",
        )
    for step in range(version + 1, SCHEMA_VERSION + 1):
        for statement in MIGRATIONS[step]:
            connection.execute(sa.text(statement))
    if version != SCHEMA_VERSION:
        connection.execute(sa.update(version_table).values(version=SCHEMA_VERSION))
