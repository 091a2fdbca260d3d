"""A sweep measured on this machine: one process of every row, round by round."""

from __future__ import annotations

from collections.abc import Callable

from stmdeploy.errors import DiskFullError, Failure, FailureKind, StmdeployError
from stmdeploy.measure.summary import wants_more
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.state import DONE, FAILED, MEASURING, PlannedRow
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.sweep import RowSpec, shuffled
from stmdeploy.sweeps.explanation import ProcessorPeaks, bound_by, parts_of
from stmdeploy.sweeps.folder import logs_of
from stmdeploy.sweeps.prepared import PreparedSweep
from stmdeploy.sweeps.process import ProcessLimits, one_process


class SweepRun:
    """A prepared sweep that this process measures, one worker at a time."""

    def __init__(
        self, prepared: PreparedSweep, progress: Progress, on_row: Callable[[Row], None]
    ) -> None:
        self._prepared, self._progress, self._on_row = prepared, progress, on_row
        self._store, self._sweep, self._spec = prepared.store, prepared.id, prepared.spec
        self._peaks = ProcessorPeaks(progress)

    def measure(self) -> None:
        """Measures one process of every row, round by round, until no row needs more."""
        turn_number = 0
        while open_rows := self._open_rows():
            self._progress.expect(len(open_rows))
            if self._spec.explain:
                self._peaks.measure(row.row.run for row in open_rows.values())
            for position in shuffled(sorted(open_rows), self._sweep, turn_number):
                self._measure(open_rows[position])
            turn_number += 1
        if self._spec.explain:
            self._explain()

    def _explain(self) -> None:
        """Finds each row's share of time by model part, and its bound by the highest peaks seen."""
        specs = {row.position: row for row in self._store.planned(self._sweep)}
        measured = self._store.measured(self._sweep)
        open_rows = {p: row for p, row in measured.items() if row.parts_ms is None}
        self._progress.expect(len(open_rows))
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

    def _measure(self, planned: PlannedRow) -> None:
        """Measures one more process of a row, and saves it with the row's new figures."""
        spec, position = planned.row, planned.position
        before = self._before(spec, position)
        self._check_machine(before)
        self._progress.step(
            f"measuring {spec.model.label} on {spec.run.runtime}, batch {spec.run.batch}, "
            f"process {len(before) + 1}"
        )
        if before and not wants_more(before, spec.run, self._spec.sampling):
            row = self._row(spec, before)  # an earlier run was killed right here
            self._store.save_row(self._sweep, position, row, DONE)
            self._on_row(row)
            return
        try:
            process = self._process(spec)
        except StmdeployError as error:
            self._fail(spec, position, Failure.of(error))
            return
        processes = (*before, process)
        more = wants_more(processes, spec.run, self._spec.sampling)
        row = self._row(spec, processes)
        state = MEASURING if more else DONE
        try:
            kept = self._store.add_processes(
                self._sweep, position, len(before), [process], row, state
            )
        except DiskFullError as error:
            # A row without samples takes little room; if there is not even that much, this raises.
            self._fail(spec, position, Failure(FailureKind.STORAGE, error.message, error.hint))
            return
        if kept and not more:
            self._on_row(row)

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

    def _fail(self, spec: RowSpec, position: int, failure: Failure) -> None:
        row = self._prepared.row(spec, failure=failure)
        self._store.save_row(self._sweep, position, row, FAILED)
        self._on_row(row)
        self._prepared.add_smaller(spec, failure)

    def _process(self, spec: RowSpec) -> ProcessRun:
        """Measures one process, and checks the artifact before and after it.

        Raises:
            StmdeployError: the worker failed, or the artifact was changed.
        """
        limits = ProcessLimits(
            self._spec.sampling, self._spec.row_timeout_s, self._spec.memory_limit_mib
        )
        logs = logs_of(self._store, self._sweep) / spec.key
        path = self._prepared.verified(spec)
        here = self._prepared.environment
        process = one_process(spec, path, limits, here, logs, self._progress)
        self._prepared.verified(spec)
        return process

    def _row(self, spec: RowSpec, processes: tuple[ProcessRun, ...]) -> Row:
        operations = self._prepared.artifact_of(spec).operations
        bound = bound_by(self._peaks.of(spec.run), spec.run, operations)
        return self._prepared.row(spec, processes, bound=bound)


def _machine(environment: Environment) -> str:
    return ", ".join((environment.processor, *environment.gpus))
