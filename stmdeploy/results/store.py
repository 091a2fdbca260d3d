"""Where rows are kept: a database that several write to, whole after every process.

Every change is one transaction. A kill at any moment loses the process that was being measured
and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from stmdeploy.errors import StmdeployError
from stmdeploy.results.database import FILE_NAME, Database, PostgresServer, SqliteFile
from stmdeploy.results.faults import RESTORE, parsed
from stmdeploy.results.merging import take_over
from stmdeploy.results.newest import NewestRows, newest_measured, newest_states, with_accuracy
from stmdeploy.results.samples import pack, unpack
from stmdeploy.results.schema import evaluations, models, processes, replace_line, rows, sweeps
from stmdeploy.results.state import DONE, FAILED, PLANNED, PlannedRow, SweepInfo, now_utc
from stmdeploy.results.sweeps import all_sweeps, begun_rows, named_sweep, of, planned_rows, set_row
from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Prepared, Row
from stmdeploy.spec.sweep import SweepSpec


class Store:
    """The results of this machine, or of several: after a merge, or on a server.

    Whatever reads raises StmdeployError for a document that is damaged.
    """

    def __init__(self, path: Path, *, url: str = "", create: bool = False) -> None:
        """Opens a store.

        Args:
            path: a SQLite file or the folder that it lies in; with a server, the folder for what
                is kept beside the store.
            url: of a PostgreSQL server, as `server_url` reads it; empty for the file.
            create: makes the store where there is none.

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
        """Whether both are one database."""
        return self._database.identity == other._database.identity

    def close(self) -> None:
        """Gives the database up; what was written is complete."""
        self._database.close()

    def remove(self) -> None:
        """Takes the store itself off the disk, if it is a file."""
        self._database.remove()

    def reclaim(self) -> None:
        """Gives the space of what was taken out back to the disk."""
        self._database.reclaim()

    def add_sweep(self, sweep: str, spec: str, planned: Sequence[tuple[str, str]]) -> None:
        """A new sweep and its rows, as (key, spec)."""
        lines = [
            {"sweep": sweep, "position": i, "key": key, "spec": spec, "state": PLANNED}
            for i, (key, spec) in enumerate(planned)
        ]
        with self._database.writing() as connection:
            connection.execute(sweeps.insert().values(id=sweep, created_utc=now_utc(), spec=spec))
            connection.execute(rows.insert(), lines)

    def add_row(self, sweep: str, key: str, spec: str) -> int | None:
        """One more row at the end of a sweep; its position, None if it has that row already."""
        mine = of(rows, sweep)
        with self._database.writing() as connection:
            _hold(connection, sweep)
            if connection.execute(select(rows.c.key).where(mine, rows.c.key == key)).first():
                return None
            last = connection.execute(select(func.max(rows.c.position)).where(mine)).scalar_one()
            line = {"sweep": sweep, "position": last + 1, "key": key, "spec": spec}
            connection.execute(rows.insert().values(**line, state=PLANNED))
            return int(last) + 1

    def remove_sweep(self, sweep: str) -> None:
        """Takes a sweep out, and by its foreign keys everything that was measured in it."""
        self._database.write(delete(sweeps).where(sweeps.c.id == sweep))

    def asked(self, sweep: str) -> SweepSpec:
        """The specification that a sweep was begun with."""
        ((spec,),) = self._database.read(select(sweeps.c.spec).where(sweeps.c.id == sweep))
        return SweepSpec.from_json(spec, f"sweep {sweep} of {self.name}")

    def sweeps(self) -> tuple[SweepInfo, ...]:
        """Every sweep, the oldest first."""
        return all_sweeps(self._database)

    def find_sweep(self, sweep: str | None, *, unfinished: bool = False) -> SweepInfo:
        """A sweep by its id or the beginning of it; the newest for None.

        Raises:
            StmdeployError: no such sweep, or the word fits several.
        """
        return named_sweep(self._database, sweep, unfinished=unfinished)

    def planned(self, sweep: str) -> tuple[PlannedRow, ...]:
        """The rows of a sweep in their order."""
        return planned_rows(self._database, of(rows, sweep))

    def planned_row(self, sweep: str, position: int) -> PlannedRow:
        """One row of a sweep."""
        (found,) = planned_rows(self._database, of(rows, sweep, position))
        return found

    def plan_failed_again(self, sweep: str) -> None:
        """Opens the failed rows of a sweep once more; what somebody has finished stays."""
        failed = of(rows, sweep), rows.c.state == FAILED
        self._database.write(update(rows).where(*failed).values(state=PLANNED))

    def prepared(self, sweep: str) -> dict[int, Prepared]:
        """The models of a sweep that are prepared, by their position in its spec."""
        query = select(models.c.position, models.c.prepared).where(of(models, sweep))
        found, where = self._database.read(query), f"a model of sweep {sweep} of {self.name}"
        return {position: parsed(Prepared, document, where) for position, document in found}

    def save_prepared(self, sweep: str, position: int, prepared: Prepared) -> None:
        """Keeps a prepared model; one that was there is replaced."""
        line = {"sweep": sweep, "position": position, "prepared": prepared.model_dump_json()}
        with self._database.writing() as connection:
            _hold(connection, sweep)
            replace_line(connection, models, line)

    def processes(self, sweep: str, position: int) -> tuple[ProcessRun, ...]:
        """What the processes of a row measured, samples included."""
        query = select(processes.c.process, processes.c.samples).order_by(processes.c.number)
        found = self._database.read(query.where(of(processes, sweep, position)))
        where = f"a process of row {position} of sweep {sweep} of {self.name}"
        return tuple(unpack(document, samples, where) for document, samples in found)

    def add_process(
        self, sweep: str, position: int, number: int, process: ProcessRun, row: Row, state: str
    ) -> bool:
        """Keeps one process and what its row comes to with it, both or neither.

        Returns:
            False, with nothing kept, if somebody else has measured that process already.
        """
        return self.add_processes(sweep, position, [process], row, state, first=number)

    def add_processes(
        self,
        sweep: str,
        position: int,
        measured: Sequence[ProcessRun],
        row: Row,
        state: str,
        *,
        first: int = 0,
    ) -> bool:
        """As `add_process`, with several processes, the first of which has some number."""
        place = {"sweep": sweep, "position": position}
        lines = [
            {**place, "number": number, "process": document, "samples": samples}
            for number, (document, samples) in enumerate(map(pack, measured), first)
        ]
        try:
            with self._database.writing() as connection:
                connection.execute(processes.insert(), lines)
                connection.execute(set_row(sweep, position, row, state))
        except IntegrityError:
            return False
        return True

    def forget_processes(self, sweep: str, position: int) -> None:
        """Takes out what was measured of one row."""
        self._database.write(delete(processes).where(of(processes, sweep, position)))

    def drop_samples(self, sweep: str) -> None:
        """Takes the raw samples of a sweep out; its figures stay."""
        self._database.write(delete(processes).where(of(processes, sweep)))

    def save_row(self, sweep: str, position: int, row: Row, state: str) -> None:
        """Keeps what a row comes to; one that somebody has finished meanwhile stays so."""
        self._database.write(set_row(sweep, position, row, state))

    def explain_row(self, sweep: str, position: int, row: Row) -> None:
        """Keeps what explains a row; when it was measured does not change."""
        self._database.write(set_row(sweep, position, row))

    def row_so_far(self, sweep: str, position: int) -> Row | None:
        """What one row of a sweep comes to; None before it was begun."""
        found = begun_rows(self._database, of(rows, sweep, position))
        return found[0].row if found else None

    def measured(self, sweep: str) -> dict[int, Row]:
        """The finished rows of a sweep by their position; failed ones are left out."""
        found = begun_rows(self._database, of(rows, sweep), rows.c.state == DONE)
        return {entry.position: entry.row for entry in found}

    def rows(self, sweep: str) -> tuple[Row, ...]:
        """What the rows of a sweep come to so far; those not begun are left out."""
        return with_accuracy(begun_rows(self._database, of(rows, sweep)), self.evaluations())

    def newest_rows(self) -> tuple[Row, ...]:
        """Every row that was ever finished, by its newest measurement, sweep by sweep."""
        found = newest_measured(begun_rows(self._database, rows.c.state == DONE))
        return with_accuracy(found, self.evaluations())

    def newest_states(self) -> NewestRows:
        """As `newest_rows`, with the rows that failed; one that is to be tried again counts as
        failed until then."""
        done = begun_rows(self._database, rows.c.state == DONE)
        failed = begun_rows(self._database, rows.c.state.in_((FAILED, PLANNED)))
        found, since = newest_states(done, failed)
        known = self.evaluations()
        return NewestRows(with_accuracy(found, known), with_accuracy(since, known))

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Keeps an evaluation, in place of an older one over the same data."""
        line = evaluation.model_dump(include=set(evaluations.columns.keys()))
        line["evaluation"] = evaluation.model_dump_json()
        with self._database.writing(alone=True) as connection:
            replace_line(connection, evaluations, line)

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluation, the oldest first."""
        query = select(evaluations.c.evaluation).order_by(evaluations.c.created_utc)
        found, where = self._database.read(query), f"an evaluation of {self.name}"
        return tuple(parsed(Evaluation, document, where) for (document,) in found)

    def merge(self, other: Store) -> tuple[int, int]:
        """Takes over what another store has and this one has not, or has less of.

        Returns:
            How many sweeps, and how many processes, are new here.
        """
        theirs, ours = other._database, self._database
        try:
            with theirs.reading() as source, ours.writing(alone=True) as target:
                return take_over(source, target)
        except IntegrityError as error:
            raise StmdeployError(
                f"{other.name} is damaged: it holds parts of sweeps that are not there", RESTORE
            ) from error


def _hold(connection: Connection, sweep: str) -> None:
    """On a server, keeps others from changing a sweep until the transaction ends."""
    connection.execute(select(sweeps.c.id).where(sweeps.c.id == sweep).with_for_update())
