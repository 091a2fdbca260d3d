"""A sweep measured on this machine: wave after wave, one process of every row in each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from stmdeploy.errors import DiskFullError, Failure, FailureKind, StmdeployError
from stmdeploy.hardware.clocks import locked_clocks
from stmdeploy.measure.summary import wants_more
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import DONE, FAILED, MEASURING, Measured, PlannedRow
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.sweep import RowSpec, shuffled
from stmdeploy.sweeps.blocks import blocks, free_memory
from stmdeploy.sweeps.comparing import compare, compare_by_reference
from stmdeploy.sweeps.explanation import ProcessorPeaks, bound_by, parts_of
from stmdeploy.sweeps.folder import logs_of
from stmdeploy.sweeps.prepared import PreparedSweep
from stmdeploy.sweeps.process import ProcessLimits, Task, in_turns, one_process

#: The processor's peaks are measured before the first of so many waves, and of the next ones.
_PEAKS_EVERY = 3


@dataclass(frozen=True)
class _Begun:
    """A row of which one more process is measured, and what earlier ones gave."""

    planned: PlannedRow
    spec: RowSpec
    artifact: Path
    before: tuple[ProcessRun, ...]


class SweepRun:
    """A prepared sweep that this process measures, one worker running at a time."""

    def __init__(
        self, prepared: PreparedSweep, progress: Progress, on_row: Callable[[Row], None]
    ) -> None:
        self._prepared, self._progress, self._on_row = prepared, progress, on_row
        self._store, self._sweep, self._spec = prepared.store, prepared.id, prepared.spec
        self._peaks = ProcessorPeaks(progress)
        self._dice = random.Random(self._sweep)
        #: Rows that need no more, but are measured on as the reference of others.
        self._complete: set[int] = set()

    def measure(self) -> None:
        """Measures one process of every row, again and again, until no row needs more; the GPU's
        clock is locked meanwhile, if the sweep says so."""
        on_gpu = next((run for run in self._spec.runs if run.settings.clock_mhz), None)
        uuid, mhz = (on_gpu.gpu_uuid, on_gpu.settings.clock_mhz) if on_gpu else ("", None)
        with locked_clocks(uuid, mhz):
            self._measure_all()

    def _measure_all(self) -> None:
        wave = 1 + max(self._waves(), default=-1)
        begun = False
        rounds = count()
        while open_rows := self._open_rows():
            if self._spec.explain and next(rounds) % _PEAKS_EVERY == 0:
                self._peaks.measure(row.row.run for row in open_rows.values())
            others = [p for p, row in open_rows.items() if not row.row.run.by_turns]
            if not begun:
                begun = True
                alive = len(others) + sum(map(len, self._blocks(open_rows)))
                self._progress.phase("measuring", alive * self._spec.sampling.processes)
            self._progress.expect(len(others))
            for position in shuffled(sorted(others), self._sweep, wave):
                self._measure([open_rows[position]], None)
            for block in self._blocks(open_rows):
                self._progress.expect(len(block))
                self._measure(block, wave)
                wave += 1
        compare(self._store, self._sweep)
        compare_by_reference(self._store, self._sweep)
        if self._spec.explain:
            self._explain()

    def _explain(self) -> None:
        """Finds each row's share of time by model part, and its bound by the highest peaks seen."""
        specs = {row.position: row for row in self._store.planned(self._sweep)}
        measured = self._store.measured(self._sweep)
        open_rows = {p: row for p, row in measured.items() if row.parts_ms is None}
        self._progress.phase("explaining", len(open_rows))
        for position, row in open_rows.items():
            spec = specs[position].row
            artifact = self._prepared.artifact_of(spec)
            self._progress.step(
                f"profiling the operators of {spec.model.label} on {spec.run.runtime}"
            )
            if row.bound is not None:
                self._peaks.add(spec.run, row.bound.peaks)
            found = {
                "parts_ms": parts_of(spec, artifact.path, self._progress),
                "bound": bound_by(self._peaks.of(spec.run), spec.run, artifact.operations),
            }
            self._store.explain_row(self._sweep, position, row.model_copy(update=found))

    def _open_rows(self) -> dict[int, PlannedRow]:
        return {
            row.position: row
            for row in self._store.planned(self._sweep)
            if row.state not in (DONE, FAILED)
        }

    def _waves(self) -> set[int]:
        """The numbers of the waves that are stored, if the sweep was begun earlier."""
        return {
            process.wave
            for planned in self._store.planned(self._sweep)
            for process in self._store.processes(self._sweep, planned.position)
            if process.wave is not None
        }

    def _blocks(self, open_rows: dict[int, PlannedRow]) -> list[list[PlannedRow]]:
        """The open rows that take turns, as waves that fit into memory. Every wave has the
        reference in it, open or not, so that all rows can be compared."""
        planned = {row.position: row for row in self._store.planned(self._sweep)}
        turning = [p for p, row in open_rows.items() if row.row.run.by_turns]
        reference = self._spec.reference_of([row.row for row in planned.values()])
        kept = {p for p, row in planned.items() if row.row == reference and row.state != FAILED}
        gpus = {p: planned[p].row.run.gpu_uuid for p in {*turning, *kept}}
        memory_mib = {p: self._prepared.memory(planned[p].row).by_place(gpus[p]) for p in gpus}
        free_mib = free_memory(gpus.values())
        found = blocks(turning, next(iter(kept), None), memory_mib, free_mib)
        return [[planned[position] for position in block] for block in found]

    def _measure(self, rows: Sequence[PlannedRow], wave: int | None) -> None:
        """Measures one more process of some rows, and saves them with the rows' new figures: all
        of them, or none."""
        self._complete |= {row.position for row in rows if row.state == DONE}
        begun = [one for row in rows if (one := self._begin(row)) is not None]
        if not begun:
            return
        given = self._processes(begun, wave)
        measured = []
        for one in begun:
            try:
                process = given[one.planned.position]
                if isinstance(process, StmdeployError):
                    raise process
                self._prepared.verified(one.spec)
            except StmdeployError as error:
                self._fail(one.planned, Failure.of(error))
            else:
                measured.append(self._measured(one, process))
        self._save(measured)

    def _begin(self, planned: PlannedRow) -> _Begun | None:
        """Checks a row's artifact; None if it failed that, or is complete already."""
        spec = planned.row
        before = self._before(spec, planned.position)
        self._check_machine(before)
        enough = before and not wants_more(before, spec.run, self._spec.sampling)
        if enough and planned.state != DONE:
            row = self._row(spec, before)  # an earlier run was killed right here
            self._store.save_row(self._sweep, planned.position, row, DONE)
            self._on_row(row)
            return None
        try:
            return _Begun(planned, spec, self._prepared.verified(spec), before)
        except StmdeployError as error:
            self._fail(planned, Failure.of(error))
            return None

    def _processes(
        self, begun: Sequence[_Begun], wave: int | None
    ) -> dict[int, ProcessRun | StmdeployError]:
        sweep = self._spec
        limits = ProcessLimits(sweep.sampling, sweep.row_timeout_s, sweep.memory_limit_mib)
        here, logs = self._prepared.environment, logs_of(self._store, self._sweep)
        tasks = {
            one.planned.position: Task(
                one.spec, one.artifact, limits, here, logs / one.spec.key, len(one.before) + 1
            )
            for one in begun
        }
        if wave is not None:
            return in_turns(tasks, wave, self._dice, self._progress)
        ((position, task),) = tasks.items()
        try:
            return {position: one_process(task, self._progress)}
        except StmdeployError as error:
            return {position: error}

    def _measured(self, one: _Begun, process: ProcessRun) -> Measured:
        processes = (*one.before, process)
        more = wants_more(processes, one.spec.run, self._spec.sampling)
        row = self._row(one.spec, processes)
        place = one.planned.position, len(one.before)
        return Measured(*place, (process,), row, MEASURING if more else DONE)

    def _save(self, measured: Sequence[Measured]) -> None:
        try:
            kept = self._store.add_processes(self._sweep, measured)
        except DiskFullError as error:
            if len(measured) > 1:  # those that fit are kept
                for one in measured:
                    self._save([one])
                return
            # A row without samples takes little room; if there is not even that much, this raises.
            (planned,) = self._store.planned(self._sweep, measured[0].position)
            self._fail(planned, Failure(FailureKind.STORAGE, error.message, error.hint))
            return
        for one in measured if kept else ():
            if one.state == DONE and one.position not in self._complete:
                self._on_row(one.row)

    def _before(self, spec: RowSpec, position: int) -> tuple[ProcessRun, ...]:
        """The measurements of a row's earlier processes, thrown away if of another artifact."""
        before = self._store.processes(self._sweep, position)
        row = self._store.row_so_far(self._sweep, position) if before else None
        now = self._prepared.artifact_of(spec).sha256
        if row is None or now is None or row.artifact_sha256 == now:
            return before
        self._progress.warn(
            f"{spec.model.label} on {spec.run.runtime}, batch {spec.run.batch}, is measured again: "
            "its artifact was exported anew"
        )
        self._store.drop_processes(self._sweep, position)
        return ()

    def _check_machine(self, before: tuple[ProcessRun, ...]) -> None:
        """Raises StmdeployError for a row that was started on another machine."""
        here = _machine(self._prepared.environment)
        for process in before[:1]:
            if (there := _machine(process.environment)) != here:
                raise StmdeployError(
                    f"sweep {self._sweep} was started on {there}, this is {here}",
                    "resume it there, or name another with --sweep-id",
                )

    def _fail(self, planned: PlannedRow, failure: Failure) -> None:
        """Saves a failed row; a reference that was complete already stays as it is."""
        if planned.state == DONE:
            self._progress.warn(f"{planned.row.model.label} failed as reference: {failure.message}")
            return
        row = self._prepared.row(planned.row, failure=failure)
        self._store.save_row(self._sweep, planned.position, row, FAILED)
        self._on_row(row)
        self._prepared.add_smaller(planned.row, failure)

    def _row(self, spec: RowSpec, processes: tuple[ProcessRun, ...]) -> Row:
        operations = self._prepared.artifact_of(spec).operations
        bound = bound_by(self._peaks.of(spec.run), spec.run, operations)
        return self._prepared.row(spec, processes, bound=bound)


def _machine(environment: Environment) -> str:
    return ", ".join((environment.processor, *environment.gpus))
