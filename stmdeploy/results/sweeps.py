"""The sweeps of a store and their rows: which there are, how far each has come, and to what."""

from __future__ import annotations

import re
from collections.abc import Sequence

from sqlalchemy import ColumnElement, Table, Update, func, select, update

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import printable
from stmdeploy.results.database import Database
from stmdeploy.results.faults import RESTORE, parsed
from stmdeploy.results.newest import Entry
from stmdeploy.results.schema import rows, sweeps
from stmdeploy.results.state import DONE, PlannedRow, SweepInfo, now_utc
from stmdeploy.schema.row import Row

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,39}")


def all_sweeps(database: Database) -> tuple[SweepInfo, ...]:
    """Every sweep, the oldest first.

    Raises:
        StmdeployError: an id is none of ours; folders are named by it.
    """
    by = (sweeps.c.created_utc, sweeps.c.id, rows.c.state)
    query = select(*by, func.count()).outerjoin_from(sweeps, rows).group_by(*by).order_by(*by)
    found: dict[str, SweepInfo] = {}
    for created, sweep, state, number in database.read(query):
        if not _ID.fullmatch(sweep):
            named = f"{database.name} has a sweep named {printable(sweep)[:60]!r}"
            raise StmdeployError(f"{named}; stmdeploy gives no such id", RESTORE)
        info = found.setdefault(sweep, SweepInfo(sweep, created, {}))
        if state is not None:  # else it has no rows
            info.states[state] = number
    return tuple(found.values())


def named_sweep(database: Database, begin: str | None, *, unfinished: bool) -> SweepInfo:
    """The sweep whose id is, or alone begins with, some word; the newest for None.

    Raises:
        StmdeployError: no such sweep, or the word fits several.
    """
    known = [info for info in all_sweeps(database) if info.unfinished or not unfinished]
    if begin is not None:
        fit = [info for info in known if info.id.startswith(begin)]
        known = [info for info in fit if info.id == begin] or fit
        if len(known) > 1:
            ids = ", ".join(info.id for info in known)
            raise StmdeployError(f"sweep {begin!r} is not clear", f"one of: {ids}")
    if not known:
        what = f"{'unfinished ' if unfinished else ''}sweep{f' {begin!r}' if begin else ''}"
        raise StmdeployError(f"{database.name} has no {what}", "see `stmdeploy results list`")
    return known[-1]


def of(table: Table, sweep: str, position: int | None = None) -> ColumnElement[bool]:
    """A condition: the lines of a sweep, or of one of its rows or models."""
    mine = table.c.sweep == sweep
    return mine if position is None else mine & (table.c.position == position)


def planned_rows(database: Database, which: ColumnElement[bool]) -> tuple[PlannedRow, ...]:
    """The rows of a sweep for which a condition holds, in their order."""
    query = select(rows.c.position, rows.c.key, rows.c.spec, rows.c.state)
    found = database.read(query.where(which).order_by(rows.c.position))
    return tuple(PlannedRow(*line) for line in found)


def begun_rows(database: Database, *which: ColumnElement[bool]) -> Sequence[Entry]:
    """What the rows that were begun come to so far, as far as all conditions hold.

    Raises:
        StmdeployError: a row is damaged.
    """
    place = (rows.c.sweep, rows.c.position)
    query = select(rows.c.key, *place, rows.c.row).where(rows.c.row.is_not(None), *which)
    return [
        Entry(key, sweep, position, parsed(Row, document, f"a row of {database.name}"))
        for key, sweep, position, document in database.read(query.order_by(*place))
    ]


def set_row(sweep: str, position: int, row: Row, state: str = "") -> Update:
    """A statement that keeps what a row comes to, without the accuracy, which is added later.

    With a state, the row was measured just now, and one that somebody has finished stays so.
    """
    document = row.model_dump_json(exclude={"accuracy"})
    change = update(rows).where(of(rows, sweep, position)).values(row=document)
    if state:
        change = change.values(state=state, measured_utc=now_utc())
    return change if state in ("", DONE) else change.where(rows.c.state != DONE)
