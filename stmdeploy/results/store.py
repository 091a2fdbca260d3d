"""Where rows are kept: a database that several write to, whole after every process.

Every change is one transaction. A kill at any moment loses the process that was being measured
and nothing else.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Connection, delete, func, select, update
from sqlalchemy.exc import IntegrityError

from stmdeploy.errors import StmdeployError
from stmdeploy.reading import parse_document, printable
from stmdeploy.results.database import FILE_NAME, Database, PostgresServer, SqliteFile
from stmdeploy.results.merging import take_over
from stmdeploy.results.newest import Entry, NewestRows, newest_measured, newest_states
from stmdeploy.results.row import Evaluation, Prepared, ProcessRun, Row
from stmdeploy.results.schema import evaluations, models, processes, rows, sweeps
from stmdeploy.sweep import RowSpec, SweepSpec

PLANNED, MEASURING, DONE, FAILED = "planned", "measuring", "done", "failed"
#: New ones come last: older processes end before them.
_SERIES = ("samples_ms", "copies_ms", "warmup_ms", "device_ms")
#: Ten minutes of an inference of 0.1 ms, and a year of one: whatever is beyond is no measurement.
_MOST_SAMPLES, _LONGEST_MS = 6_000_000, 3.2e10
_MEASURE_AGAIN = "measure again"
_ID = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,39}")


@dataclass(frozen=True)
class PlannedRow:
    """A row as planned: where it stands, its spec as JSON, and its state."""

    position: int
    key: str
    spec: str
    state: str

    @property
    def row(self) -> RowSpec:
        """What the row is.

        Raises:
            StmdeployError: its spec is damaged.
        """
        return RowSpec.from_json(self.spec, f"row {self.position} of the sweep")


@dataclass(frozen=True)
class SweepInfo:
    """A sweep in a line: when, and how many of its rows are in which state."""

    id: str
    created_utc: str
    states: dict[str, int]

    @property
    def unfinished(self) -> int:
        """Rows that are still to be measured."""
        return self.states.get(PLANNED, 0) + self.states.get(MEASURING, 0)


def pack(process: ProcessRun) -> bytes:
    """The series of a process as compressed doubles, each behind its length."""
    numbers = array("d")
    for name in _SERIES:
        series = getattr(process, name)
        numbers.append(len(series))
        numbers.extend(series)
    return zlib.compress(numbers.tobytes())


def unpack(document: str, packed: bytes, where: str) -> ProcessRun:
    """A process out of its document and its series.

    Raises:
        StmdeployError: either is damaged; `where` says what they are of.
    """
    process = parse_document(ProcessRun.model_validate_json, document, where, _MEASURE_AGAIN)
    try:
        series = _series(packed)
    except (ValueError, OverflowError, zlib.error) as error:
        raise StmdeployError(f"{where} has damaged samples: {error}", _MEASURE_AGAIN) from error
    return process.model_copy(update=series)


def _series(packed: bytes) -> dict[str, tuple[float, ...]]:
    """What `pack` packed.

    Raises:
        ValueError, OverflowError, zlib.error: it is something else.
    """
    content = zlib.decompressobj().decompress(packed, _MOST_SAMPLES * 8 + 1)
    if len(content) > _MOST_SAMPLES * 8:
        raise ValueError(f"they are more than {_MOST_SAMPLES}")
    numbers = array("d")
    numbers.frombytes(content)
    series, at = {}, 0
    for name in _SERIES:
        if at == len(numbers):
            break
        length = int(numbers[at])
        values = tuple(numbers[at + 1 : at + 1 + length])
        if length != len(values) or not all(0 < value < _LONGEST_MS for value in values):
            raise ValueError("they are cut short, or no durations")
        series[name] = values
        at += 1 + length
    if not series.get("samples_ms"):
        raise ValueError("there are none")
    return series


class Store:
    """The results of this machine, or of several: after a merge, or on a server."""

    def __init__(self, path: Path, *, url: str = "", create: bool = False) -> None:
        """Opens a store.

        Args:
            path: a SQLite file or the folder that it lies in; with a server, the folder for what
                is kept beside the store.
            url: of a PostgreSQL server; empty for the file.
            create: makes the store where there is none.

        Raises:
            StmdeployError: there is none, or it cannot be read or reached.
        """
        if url:
            self.folder = path
            self._database: Database = PostgresServer(url, create=create)
        else:
            file = path if path.suffix == ".db" else path / FILE_NAME
            self.folder = file.parent
            self._database = SqliteFile(file, create=create)
        self.name = self._database.name
        self._writing, self._reading = self._database.writing, self._database.reading

    def is_same_as(self, other: Store) -> bool:
        """Whether both are one database."""
        return self._database.identity == other._database.identity

    def close(self) -> None:
        """Gives the database up; what was written is complete."""
        self._database.close()

    def add_sweep(self, sweep: str, spec: str, planned: Sequence[tuple[str, str]]) -> None:
        """A new sweep and its rows, as (key, spec)."""
        with self._writing() as connection:
            connection.execute(sweeps.insert().values(id=sweep, created_utc=now_utc(), spec=spec))
            connection.execute(
                rows.insert(),
                [
                    {"sweep": sweep, "position": i, "key": key, "spec": spec, "state": PLANNED}
                    for i, (key, spec) in enumerate(planned)
                ],
            )

    def add_row(self, sweep: str, key: str, spec: str) -> int | None:
        """One more row at the end of a sweep; its position, None if it has that row already."""
        with self._writing() as connection:
            mine = rows.c.sweep == sweep
            _hold(connection, sweep)
            if connection.execute(select(rows.c.key).where(mine, rows.c.key == key)).first():
                return None
            last = connection.execute(select(func.max(rows.c.position)).where(mine)).scalar_one()
            connection.execute(
                rows.insert().values(
                    sweep=sweep, position=last + 1, key=key, spec=spec, state=PLANNED
                )
            )
            return int(last) + 1

    def remove(self) -> None:
        """Takes the store itself off the disk, if it is a file."""
        self._database.remove()

    def remove_sweep(self, sweep: str) -> None:
        """Takes a sweep out, with everything measured in it."""
        with self._writing() as connection:
            for table in (processes, rows, models):
                connection.execute(delete(table).where(table.c.sweep == sweep))
            connection.execute(delete(sweeps).where(sweeps.c.id == sweep))

    def sweep_spec(self, sweep: str) -> str:
        """What was asked for, as JSON."""
        with self._reading() as connection:
            query = select(sweeps.c.spec).where(sweeps.c.id == sweep)
            return str(connection.execute(query).scalar_one())

    def asked(self, sweep: str) -> SweepSpec:
        """What was asked for.

        Raises:
            StmdeployError: it is damaged.
        """
        return SweepSpec.from_json(self.sweep_spec(sweep), f"sweep {sweep} of {self.name}")

    def sweeps(self) -> tuple[SweepInfo, ...]:
        """Every sweep, the oldest first."""
        with self._reading() as connection:
            listed = connection.execute(
                select(sweeps.c.id, sweeps.c.created_utc).order_by(
                    sweeps.c.created_utc, sweeps.c.id
                )
            ).all()
            counted = connection.execute(
                select(rows.c.sweep, rows.c.state, func.count()).group_by(
                    rows.c.sweep, rows.c.state
                )
            ).all()
        states: dict[str, dict[str, int]] = {}
        for sweep, state, number in counted:
            states.setdefault(sweep, {})[state] = number
        for sweep, _ in listed:
            self._check_id(sweep)
        return tuple(SweepInfo(i, created, states.get(i, {})) for i, created in listed)

    def _check_id(self, sweep: str) -> None:
        """Raises StmdeployError for an id that is none of ours: folders are named by it."""
        if not _ID.fullmatch(sweep):
            raise StmdeployError(
                f"{self.name} has a sweep named {printable(sweep)[:60]!r}, which is no id of one",
                "restore it, or choose another --out",
            )

    def find_sweep(self, sweep: str | None, *, unfinished: bool = False) -> SweepInfo:
        """A sweep by its id or the beginning of it; the newest for None.

        Raises:
            StmdeployError: no such sweep, or the word fits several.
        """
        known = [info for info in self.sweeps() if info.unfinished or not unfinished]
        if sweep is not None:
            known = [info for info in known if info.id.startswith(sweep)]
            exact = [info for info in known if info.id == sweep]
            if len(exact or known) > 1:
                raise StmdeployError(
                    f"sweep {sweep!r} is not clear", f"one of: {', '.join(s.id for s in known)}"
                )
            known = exact or known
        if not known:
            what = "unfinished sweep" if unfinished else "sweep"
            raise StmdeployError(
                f"{self.name} has no {what}{f' {sweep!r}' if sweep else ''}",
                "see `stmdeploy results list`",
            )
        return known[-1]

    def planned(self, sweep: str) -> tuple[PlannedRow, ...]:
        """The rows of a sweep in their order."""
        with self._reading() as connection:
            query = select(rows.c.position, rows.c.key, rows.c.spec, rows.c.state)
            found = connection.execute(query.where(rows.c.sweep == sweep).order_by("position"))
            return tuple(PlannedRow(*line) for line in found)

    def planned_row(self, sweep: str, position: int) -> PlannedRow:
        """One row of a sweep."""
        with self._reading() as connection:
            query = select(rows.c.position, rows.c.key, rows.c.spec, rows.c.state)
            mine = rows.c.sweep == sweep, rows.c.position == position
            return PlannedRow(*connection.execute(query.where(*mine)).one())

    def row_so_far(self, sweep: str, position: int) -> Row | None:
        """What one row of a sweep comes to; None before it was begun."""
        with self._reading() as connection:
            mine = rows.c.sweep == sweep, rows.c.position == position
            document = connection.execute(select(rows.c.row).where(*mine)).scalar_one()
        return None if document is None else self._read(document)

    def prepared(self, sweep: str) -> dict[int, Prepared]:
        """The models of a sweep that are prepared, by their position in its spec."""
        with self._reading() as connection:
            query = select(models.c.position, models.c.prepared).where(models.c.sweep == sweep)
            found = connection.execute(query).all()
        where = f"a model of sweep {sweep} of {self.name}"
        validate = Prepared.model_validate_json
        return {
            position: parse_document(validate, document, where, _MEASURE_AGAIN)
            for position, document in found
        }

    def save_prepared(self, sweep: str, position: int, prepared: Prepared) -> None:
        """Keeps a prepared model; one that was there is replaced."""
        with self._writing() as connection:
            _hold(connection, sweep)
            place = (models.c.sweep == sweep, models.c.position == position)
            connection.execute(delete(models).where(*place))
            connection.execute(
                models.insert().values(
                    sweep=sweep, position=position, prepared=prepared.model_dump_json()
                )
            )

    def processes(self, sweep: str, position: int) -> tuple[ProcessRun, ...]:
        """What the processes of a row measured, samples included."""
        with self._reading() as connection:
            query = select(processes.c.process, processes.c.samples).where(
                processes.c.sweep == sweep, processes.c.position == position
            )
            found = connection.execute(query.order_by(processes.c.number)).all()
        where = f"a process of row {position} of sweep {sweep} of {self.name}"
        return tuple(unpack(document, packed, where) for document, packed in found)

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
        lines = [
            {
                "sweep": sweep,
                "position": position,
                "number": number,
                "process": process.model_copy(update=dict.fromkeys(_SERIES, ())).model_dump_json(),
                "samples": pack(process),
            }
            for number, process in enumerate(measured, first)
        ]
        try:
            with self._writing() as connection:
                connection.execute(processes.insert(), lines)
                self._set_row(connection, sweep, position, row, state)
        except IntegrityError:
            return False
        return True

    def save_row(self, sweep: str, position: int, row: Row, state: str) -> None:
        """Keeps what a row comes to; one that somebody has finished meanwhile stays so."""
        with self._writing() as connection:
            self._set_row(connection, sweep, position, row, state)

    @staticmethod
    def _set_row(connection: Connection, sweep: str, position: int, row: Row, state: str) -> None:
        place = [rows.c.sweep == sweep, rows.c.position == position]
        if state != DONE:
            place.append(rows.c.state != DONE)
        document = row.model_dump_json(exclude={"accuracy"})
        connection.execute(
            update(rows).where(*place).values(row=document, state=state, measured_utc=now_utc())
        )

    def explain_row(self, sweep: str, position: int, row: Row) -> None:
        """Keeps what explains a row; when it was measured does not change."""
        with self._writing() as connection:
            connection.execute(
                update(rows)
                .where(rows.c.sweep == sweep, rows.c.position == position)
                .values(row=row.model_dump_json(exclude={"accuracy"}))
            )

    def plan_failed_again(self, sweep: str) -> None:
        """Opens the failed rows of a sweep once more; what somebody has finished stays."""
        with self._writing() as connection:
            connection.execute(
                update(rows)
                .where(rows.c.sweep == sweep, rows.c.state == FAILED)
                .values(state=PLANNED)
            )

    def rows(self, sweep: str) -> tuple[Row, ...]:
        """What the rows of a sweep come to so far; those not begun are left out.

        Raises:
            StmdeployError: a row is damaged.
        """
        with self._reading() as connection:
            query = select(rows.c.row).where(rows.c.sweep == sweep, rows.c.row.is_not(None))
            found = connection.execute(query.order_by(rows.c.position)).scalars().all()
        return self._with_accuracy([self._read(document) for document in found])

    def newest_rows(self) -> tuple[Row, ...]:
        """The newest measurement of every row that was ever finished, sweep by sweep.

        The same row on another machine, or of another lowering, is another one.
        """
        found = newest_measured(self._entries(DONE))
        return self._with_accuracy([entry.row for entry in found])

    def newest_states(self) -> NewestRows:
        """As `newest_rows`, with the rows that failed; one that is to be tried again counts as
        failed until then."""
        found, since = newest_states(self._entries(DONE), self._entries(FAILED, PLANNED))
        return NewestRows(
            self._with_accuracy([entry.row for entry in found]),
            self._with_accuracy([entry.row for entry in since]),
        )

    def _entries(self, *states: str) -> list[Entry]:
        """The rows in some states that were begun, of all sweeps."""
        with self._reading() as connection:
            query = select(rows.c.key, rows.c.sweep, rows.c.position, rows.c.row)
            mine = rows.c.state.in_(states), rows.c.row.is_not(None)
            found = connection.execute(query.where(*mine)).all()
        return [
            Entry(key, sweep, position, self._read(document))
            for key, sweep, position, document in found
        ]

    def add_evaluation(self, evaluation: Evaluation) -> None:
        """Keeps an evaluation, in place of an older one over the same data."""
        key = {
            "artifact_sha256": evaluation.artifact_sha256,
            "runtime": evaluation.runtime,
            "provider": evaluation.provider,
            "data_sha256": evaluation.data_sha256,
        }
        with self._writing(alone=True) as connection:
            same = [evaluations.c[name] == value for name, value in key.items()]
            connection.execute(delete(evaluations).where(*same))
            connection.execute(
                evaluations.insert().values(
                    **key,
                    created_utc=evaluation.created_utc,
                    evaluation=evaluation.model_dump_json(),
                )
            )

    def evaluations(self) -> tuple[Evaluation, ...]:
        """Every evaluation, the oldest first."""
        with self._reading() as connection:
            query = select(evaluations.c.evaluation).order_by(evaluations.c.created_utc)
            found = connection.execute(query).scalars().all()
        validate, where = Evaluation.model_validate_json, f"an evaluation of {self.name}"
        return tuple(parse_document(validate, one, where, _MEASURE_AGAIN) for one in found)

    def _with_accuracy(self, found: list[Row]) -> tuple[Row, ...]:
        # A quick look at a few images does not take the place of a whole data set.
        by_size = sorted(self.evaluations(), key=lambda e: (e.images, e.created_utc))
        best = {(e.artifact_sha256, e.runtime, e.provider): e for e in by_size}

        def place(row: Row) -> tuple[str, str, str]:
            facts = row.measurement.runtime_facts if row.measurement else {}
            return str(row.artifact_sha256), row.runtime, facts.get("provider", "")

        return tuple(row.model_copy(update={"accuracy": best.get(place(row))}) for row in found)

    def _read(self, document: str) -> Row:
        return parse_document(
            Row.model_validate_json, document, f"a row of {self.name}", _MEASURE_AGAIN
        )

    def measured(self, sweep: str) -> dict[int, Row]:
        """The finished rows of a sweep by their position; failed ones are left out."""
        with self._reading() as connection:
            query = select(rows.c.position, rows.c.row).where(
                rows.c.sweep == sweep, rows.c.state == DONE
            )
            found = connection.execute(query.order_by(rows.c.position)).all()
        return {position: self._read(document) for position, document in found}

    def forget_processes(self, sweep: str, position: int) -> None:
        """Takes out what was measured of one row."""
        with self._writing() as connection:
            mine = processes.c.sweep == sweep, processes.c.position == position
            connection.execute(delete(processes).where(*mine))

    def drop_samples(self, sweep: str) -> None:
        """Takes the raw samples of a sweep out; its figures stay."""
        with self._writing() as connection:
            connection.execute(delete(processes).where(processes.c.sweep == sweep))

    def reclaim(self) -> None:
        """Gives the space of what was taken out back to the disk."""
        self._database.reclaim()

    def merge(self, other: Store) -> tuple[int, int]:
        """Takes over what another store has and this one has not, or has less of.

        Returns:
            How many sweeps, and how many processes, are new here.
        """
        try:
            with other._reading() as source, self._writing(alone=True) as target:
                return take_over(source, target)
        except IntegrityError as error:
            raise StmdeployError(
                f"{other.name} is damaged: it holds parts of sweeps that are not there",
                "restore it, or merge another",
            ) from error


def _hold(connection: Connection, sweep: str) -> None:
    """On a server, keeps others from changing a sweep until the transaction ends."""
    connection.execute(select(sweeps.c.id).where(sweeps.c.id == sweep).with_for_update())


def now_utc() -> str:
    """The time, sortable."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
