"""The store of rows: a database that several processes write to, complete after every process.

Every change is one transaction. A kill at any moment loses the process that was being measured
and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sqlalchemy import ColumnElement, Connection, Table, Update, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import printable
from stmdeploy.results.database import FILE_NAME, Database, PostgresServer, SqliteFile
from stmdeploy.results.faults import RESTORE, parsed
from stmdeploy.results.merging import take_over
from stmdeploy.results.newest import (
    APART,
    Entry,
    NewestRows,
    by_row,
    newest_measured,
    newest_states,
    with_accuracy,
)
from stmdeploy.results.samples import pack, unpack
from stmdeploy.results.schema import (
    evaluations,
    invariances,
    models,
    processes,
    receptive_fields,
    replace_line,
    rows,
    sweeps,
)
from stmdeploy.results.state import (
    DONE,
    FAILED,
    PLANNED,
    Measured,
    PlannedRow,
    SweepInfo,
    now_utc,
)
from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.schema.invariance import Invariance
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.receptive_field import ReceptiveField
from stmdeploy.schema.row import Prepared, Row
from stmdeploy.spec.sweep import SweepSpec

_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,39}")


class Store:
    """The results of this machine; or of several, after a merge or on a server.

    Every method that reads raises StmdeployError for a damaged document.
    """

    def __init__(self, path: Path, *, url: str = "", create: bool = False) -> None:
        """Opens a store.

        Args:
            path: SQLite file or the folder that it lies in; with a server, the folder for
                artifacts and logs.
            url: URL of a PostgreSQL server, as `server_url` reads it; empty for the file.
            create: whether to make the store if there is none.

        Raises:
            StmdeployError: there is none, or it cannot be read or reached.
        """
        file = path if path.suffix == ".db" else path / FILE_NAME
        self.folder = path if url else file.parent
        self._database: Database = (
            PostgresServer(url, create=create) if url else SqliteFile(file, create=create)
        )
        self.name = self._database.name

    def is_same_as(self, other: Store) -> bool:
        """Whether both stores are the same database."""
        return self._database.identity == other._database.identity

    def close(self) -> None:
        """Disconnects from the database; what was written is complete."""
        self._database.close()

    def remove(self) -> None:
        """Deletes the store, if it is a file."""
        self._database.remove()

    def reclaim(self) -> None:
        """Returns the space of removed results to the disk."""
        self._database.reclaim()

    def add_sweep(self, sweep: str, spec: str, planned: Sequence[tuple[str, str]]) -> None:
        """Adds a sweep and its rows, each a (key, spec as JSON)."""
        lines = [
            {"sweep": sweep, "position": i, "key": key, "spec": spec, "state": PLANNED}
            for i, (key, spec) in enumerate(planned)
        ]
        with self._database.writing() as connection:
            connection.execute(sweeps.insert().values(id=sweep, created_utc=now_utc(), spec=spec))
            connection.execute(rows.insert(), lines)

    def add_row(self, sweep: str, key: str, spec: str) -> int | None:
        """Adds a row at the end of a sweep.

        Returns:
            The position of the row; None, with nothing added, if the sweep has that row already.

        Raises:
            StmdeployError: someone has deleted the sweep meanwhile.
        """
        mine = _of(rows, sweep)
        with self._database.writing() as connection:
            self._hold(connection, sweep)
            if connection.execute(select(rows.c.key).where(mine, rows.c.key == key)).first():
                return None
            last = connection.execute(select(func.max(rows.c.position)).where(mine)).scalar_one()
            line = {"sweep": sweep, "position": last + 1, "key": key, "spec": spec}
            connection.execute(rows.insert().values(**line, state=PLANNED))
            return int(last) + 1

    def remove_sweep(self, sweep: str) -> None:
        """Removes a sweep and, by its foreign keys, everything that was measured in it."""
        self._database.write(delete(sweeps).where(sweeps.c.id == sweep))

    def asked(self, sweep: str) -> SweepSpec:
        """The specification that a sweep was started with.

        Raises:
            StmdeployError: it is damaged, or someone has deleted the sweep meanwhile.
        """
        found = self._database.read(select(sweeps.c.spec).where(sweeps.c.id == sweep))
        if not found:
            raise self._no_sweep(repr(sweep))
        return SweepSpec.from_json(found[0].spec, f"sweep {sweep} of {self.name}")

    def sweeps(self) -> tuple[SweepInfo, ...]:
        """Every sweep, the oldest first.

        Raises:
            StmdeployError: an id that stmdeploy does not give; folders are named after it.
        """
        by = (sweeps.c.created_utc, sweeps.c.id, rows.c.state)
        query = select(*by, func.count()).outerjoin_from(sweeps, rows).group_by(*by).order_by(*by)
        found: dict[str, SweepInfo] = {}
        for created, sweep, state, number in self._database.read(query):
            if not _ID.fullmatch(sweep):
                named = f"{self.name} has a sweep named {printable(sweep)[:60]!r}"
                raise StmdeployError(f"{named}; stmdeploy gives no such id", RESTORE)
            info = found.setdefault(sweep, SweepInfo(sweep, created, {}))
            if state is not None:  # else it has no rows
                info.states[state] = number
        return tuple(found.values())

    def find_sweep(self, prefix: str | None, *, unfinished: bool = False) -> SweepInfo:
        """The sweep with an id, or with the only id that begins so; the newest for None.

        Raises:
            StmdeployError: no such sweep, or several ids begin so.
        """
        known = [info for info in self.sweeps() if info.unfinished or not unfinished]
        if prefix is not None:
            fit = [info for info in known if info.id.startswith(prefix)]
            known = [info for info in fit if info.id == prefix] or fit
            if len(known) > 1:
                ids = ", ".join(info.id for info in known)
                raise StmdeployError(f"sweep {prefix!r} is ambiguous", f"give one of: {ids}")
        if not known:
            raise self._no_sweep(repr(prefix) if prefix else "", "unfinished " * unfinished)
        return known[-1]

    def _hold(self, connection: Connection, sweep: str) -> None:
        """On a server, keeps others from changing a sweep until the transaction ends.

        Raises:
            StmdeployError: someone has deleted it meanwhile.
        """
        found = select(sweeps.c.id).where(sweeps.c.id == sweep).with_for_update()
        if connection.execute(found).first() is None:
            raise self._no_sweep(repr(sweep))

    def _no_sweep(self, which: str, kind: str = "") -> StmdeployError:
        what = f"{kind}sweep {which}".rstrip()
        return StmdeployError(f"{self.name} has no {what}", "see `stmdeploy results list`")

    def planned(self, sweep: str, position: int | None = None) -> tuple[PlannedRow, ...]:
        """The rows of a sweep, or the one at a position, in their order."""
        query = select(rows.c.position, rows.c.key, rows.c.spec, rows.c.state)
        found = self._database.read(
            query.where(_of(rows, sweep, position)).order_by(rows.c.position)
        )
        return tuple(PlannedRow(*line) for line in found)

    def plan_failed_again(self, sweep: str) -> None:
        """Marks the failed rows of a sweep as planned again."""
        failed = _of(rows, sweep), rows.c.state == FAILED
        self._database.write(update(rows).where(*failed).values(state=PLANNED))

    def prepared(self, sweep: str) -> dict[int, Prepared]:
        """The prepared models of a sweep, by their position in its specification."""
        query = select(models.c.position, models.c.prepared).where(_of(models, sweep))
        found, where = self._database.read(query), f"a model of sweep {sweep} of {self.name}"
        return {position: parsed(Prepared, document, where) for position, document in found}

    def save_prepared(self, sweep: str, position: int, prepared: Prepared) -> None:
        """Saves a prepared model, in place of an earlier one.

        Raises:
            StmdeployError: someone has deleted the sweep meanwhile.
        """
        line = {"sweep": sweep, "position": position, "prepared": prepared.model_dump_json()}
        with self._database.writing() as connection:
            self._hold(connection, sweep)
            replace_line(connection, models, line)

    def processes(self, sweep: str, position: int) -> tuple[ProcessRun, ...]:
        """The measurements of a row's processes, samples included."""
        query = select(processes.c.process, processes.c.samples).order_by(processes.c.number)
        found = self._database.read(query.where(_of(processes, sweep, position)))
        where = f"a process of row {position} of sweep {sweep} of {self.name}"
        return tuple(unpack(document, samples, where) for document, samples in found)

    def add_processes(self, sweep: str, measured: Sequence[Measured]) -> bool:
        """Saves new processes of rows, and the rows' figures: all or nothing.

        Returns:
            False, with nothing saved, if someone else has saved one of these processes already.

        Raises:
            StmdeployError: someone has deleted the sweep meanwhile.
        """
        lines = [
            {
                "sweep": sweep,
                "position": one.position,
                "number": number,
                "process": document,
                "samples": samples,
            }
            for one in measured
            for number, (document, samples) in enumerate(map(pack, one.processes), one.first)
        ]
        try:
            with self._database.writing() as connection:
                self._hold(connection, sweep)
                if lines:
                    connection.execute(processes.insert(), lines)
                for one in measured:
                    connection.execute(_set_row(sweep, one.position, one.row, one.state))
        except IntegrityError:
            return False
        return True

    def drop_processes(self, sweep: str, position: int | None = None) -> None:
        """Removes the raw samples of a sweep, or of one row; the rows keep their figures."""
        self._database.write(delete(processes).where(_of(processes, sweep, position)))

    def save_row(self, sweep: str, position: int, row: Row, state: str) -> None:
        """Saves the figures of a row, unless someone else has finished it meanwhile."""
        self._database.write(_set_row(sweep, position, row, state))

    def explain_row(self, sweep: str, position: int, row: Row) -> None:
        """Saves what explains a row; its state and the time of its measurement stay."""
        self._database.write(_set_row(sweep, position, row))

    def row_so_far(self, sweep: str, position: int) -> Row | None:
        """The figures of one row so far; None if it was not started."""
        found = self._begun(_of(rows, sweep, position))
        return found[0].row if found else None

    def measured(self, sweep: str) -> dict[int, Row]:
        """The finished rows of a sweep by their position, without failed ones."""
        found = self._begun(_of(rows, sweep), rows.c.state == DONE)
        return {entry.position: entry.row for entry in found}

    def rows(self, sweep: str) -> tuple[Row, ...]:
        """The figures of a sweep's rows so far, without rows that were not started."""
        return self._with_accuracy(self._begun(_of(rows, sweep)))

    def newest_rows(self) -> tuple[Row, ...]:
        """The newest measurement of every row that was ever finished, sweep by sweep."""
        found = newest_measured(self._begun(rows.c.state == DONE))
        return self._with_accuracy(found)

    def history(self) -> list[list[Entry]]:
        """Every finished measurement, those of the same row together, the oldest first."""
        return by_row(self._begun(rows.c.state == DONE))

    def newest_states(self) -> NewestRows:
        """As `newest_rows`, and the rows that failed, those that will be retried included."""
        done = self._begun(rows.c.state == DONE)
        failed = self._begun(rows.c.state.in_((FAILED, PLANNED)))
        found, since = newest_states(done, failed)
        return NewestRows(self._with_accuracy(found), self._with_accuracy(since))

    def _with_accuracy(self, found: Iterable[Entry]) -> tuple[Row, ...]:
        known = self.evaluations(), self.invariances(), self.receptive_fields()
        return with_accuracy(found, *known)

    def _begun(self, *which: ColumnElement[bool]) -> Sequence[Entry]:
        """The figures so far of the rows that were started and meet all conditions."""
        place = (rows.c.sweep, rows.c.position)
        query = select(rows.c.key, *place, rows.c.row).where(rows.c.row.is_not(None), *which)
        return [
            Entry(key, sweep, position, parsed(Row, document, f"a row of {self.name}"))
            for key, sweep, position, document in self._database.read(query.order_by(*place))
        ]

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Saves an evaluation, in place of an earlier one over the same data."""
        line = evaluation.model_dump(include=set(evaluations.columns.keys()))
        line["evaluation"] = evaluation.model_dump_json()
        with self._database.writing(alone=True) as connection:
            replace_line(connection, evaluations, line)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluation, the oldest first."""
        query = select(evaluations.c.evaluation).order_by(evaluations.c.created_utc)
        found, where = self._database.read(query), f"an evaluation of {self.name}"
        return tuple(parsed(Evaluation, document, where) for (document,) in found)

    def add_invariance(self, invariance: Invariance) -> None:
        """Saves an invariance, in place of an earlier one over the same data."""
        columns = set(invariances.columns.keys()) - {"invariance", "transforms"}
        line = invariance.model_dump(include=columns)
        line |= {"transforms": invariance.transforms, "invariance": invariance.model_dump_json()}
        with self._database.writing(alone=True) as connection:
            replace_line(connection, invariances, line)

    def invariances(self) -> tuple[Invariance, ...]:
        """Every invariance, the oldest first."""
        query = select(invariances.c.invariance).order_by(invariances.c.created_utc)
        found, where = self._database.read(query), f"an invariance of {self.name}"
        return tuple(parsed(Invariance, document, where) for (document,) in found)

    def add_receptive_field(self, field: ReceptiveField) -> None:
        """Saves receptive fields, in place of earlier ones of the same network."""
        line = {
            **field.model_dump(include={"weights_sha256", "task", "created_utc"}),
            "image": "{}x{}".format(*field.image_size),
            "field": field.model_dump_json(),
        }
        with self._database.writing(alone=True) as connection:
            replace_line(connection, receptive_fields, line)

    def receptive_fields(self) -> tuple[ReceptiveField, ...]:
        """All receptive fields, the oldest first."""
        query = select(receptive_fields.c.field).order_by(receptive_fields.c.created_utc)
        found, where = self._database.read(query), f"a receptive field of {self.name}"
        return tuple(parsed(ReceptiveField, document, where) for (document,) in found)

    def merge(self, other: Store) -> tuple[int, int]:
        """Copies what is new or newer in another store into this one.

        Returns:
            How many sweeps, and how many processes, were added.

        Raises:
            StmdeployError: either store is damaged.
        """
        theirs, ours = other._database, self._database
        try:
            with theirs.reading() as source, ours.writing(alone=True) as target:
                return take_over(source, target)
        except IntegrityError as error:
            raise StmdeployError(
                f"{other.name} is damaged: it holds rows of sweeps that it does not have", RESTORE
            ) from error


def _of(table: Table, sweep: str, position: int | None = None) -> ColumnElement[bool]:
    """A condition for the lines of a sweep, or of one position in it."""
    mine = table.c.sweep == sweep
    return mine if position is None else mine & (table.c.position == position)


def _set_row(sweep: str, position: int, row: Row, state: str = "") -> Update:
    """A statement that saves a row without what is measured apart, and added when it is read.

    With a state, the row was measured just now, and a row that someone has finished stays as it is.
    """
    document = row.model_dump_json(exclude=set(APART))
    change = update(rows).where(_of(rows, sweep, position)).values(row=document)
    if state:
        change = change.values(state=state, measured_utc=now_utc())
    return change if state in ("", DONE) else change.where(rows.c.state != DONE)
