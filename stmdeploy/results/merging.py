"""Copies what one database has and another lacks, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Table, func, select, tuple_, update

from stmdeploy.results.schema import (
    evaluations,
    invariances,
    models,
    processes,
    receptive_fields,
    rows,
    same_key,
    sweeps,
)

#: Tables that belong to no sweep.
_apart = (evaluations, invariances, receptive_fields)
#: Lines that are copied at a time: samples are large.
_AT_ONCE = 200
#: Columns that a newer line overwrites in an older one; the last of them is the date.
_RENEWED = {
    rows.name: ("state", "row", "measured_utc"),
    evaluations.name: ("evaluation", "created_utc"),
    invariances.name: ("invariance", "created_utc"),
    receptive_fields.name: ("field", "created_utc"),
}


def take_over(source: Connection, target: Connection) -> tuple[int, int]:
    """Adds what is missing in the target, and replaces what is older there.

    Returns:
        How many sweeps, and how many processes, were added.
    """
    added = {}
    for table in (sweeps, models, rows, processes, *_apart):
        added[table.name] = 0
        for lines in _lines_of(source, table):
            if table.name in _RENEWED:
                _renew(target, table, lines)
            added[table.name] += _add_missing(target, table, lines)
    return added[sweeps.name], added[processes.name]


def _lines_of(source: Connection, table: Table) -> Iterator[list[dict[str, Any]]]:
    """All lines of a table, in parts."""
    found = source.execution_options(yield_per=_AT_ONCE).execute(select(table))
    for lines in found.mappings().partitions():
        yield [dict(line) for line in lines]


def _add_missing(connection: Connection, table: Table, lines: list[dict[str, Any]]) -> int:
    """Inserts the lines whose key is not there yet; returns how many."""
    keys = list(table.primary_key.columns)
    wanted = [tuple(line[column.name] for column in keys) for line in lines]
    there = select(*keys).where(tuple_(*keys).in_(wanted))
    have = {tuple(line) for line in connection.execute(there)}
    new = [line for line, key in zip(lines, wanted, strict=True) if key not in have]
    if new:
        connection.execute(table.insert(), new)
    return len(new)


def _renew(connection: Connection, table: Table, theirs: list[dict[str, Any]]) -> None:
    """Replaces our lines by theirs where theirs are newer."""
    *_, time = names = _RENEWED[table.name]
    for line in theirs:
        if line[time] is not None:
            older = func.coalesce(table.c[time], "") < line[time]
            ours = update(table).where(same_key(table, line), older)
            connection.execute(ours.values({name: line[name] for name in names}))
