"""A sweep being measured: models prepared, then one process of every row, round by round."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from stmdeploy.artifact import read_artifact
from stmdeploy.contracts import Progress
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.explaining import ProcessorPeaks, parts_of
from stmdeploy.files import DiskFullError
from stmdeploy.hardware import environment, memory_available_mib
from stmdeploy.jobs import Answer, LayersJob, MeasureJob, PrepareJob, run_job, worker_settings
from stmdeploy.measure.process import worker_environment
from stmdeploy.measure.summary import summarize, wants_more
from stmdeploy.registry import exporter_for_runtime
from stmdeploy.results.row import Environment, Prepared, PreparedArtifact, ProcessRun, Row
from stmdeploy.results.store import DONE, FAILED, MEASURING, PlannedRow, Store, now_utc
from stmdeploy.spec import LOOP, ExportSpec, ModelSpec, RunSpec
from stmdeploy.sweep import RowSpec, SweepSpec, shuffled

#: Where a store keeps the artifacts and LoadGen's logs of its sweeps, beside it.
ARTIFACTS, LOGS = "artifacts", "loadgen-logs"
#: Of the memory that is free, what a worker may take.
_MEMORY_SHARE = 0.9
#: How engines and systems say that memory is out.
_OUT_OF_MEMORY = (
    "out of memory", "memoryerror", "bad_alloc", "failed to allocate", "cannot allocate",
    "can't allocate", "defaultcpuallocator",
)  # fmt: skip
_INTERPRETER_TIMEOUT_S = 60


def check_interpreters(pythons: set[str]) -> None:
    """Raises StmdeployError for an interpreter that is not there or has no stmdeploy."""
    for python in pythons - {""}:
        command = [python, "-P", "-c", "import stmdeploy.worker; print(stmdeploy.__version__)"]
        try:
            found = subprocess.run(
                command, capture_output=True, text=True, check=False,
                timeout=_INTERPRETER_TIMEOUT_S, env=worker_environment({}),
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise StmdeployError(
                f"--python {python} cannot be started: {error}", "give the path of a Python"
            ) from error
        mine = version("stmdeploy")
        if found.returncode or found.stdout.strip() != mine:
            raise StmdeployError(
                f"--python {python} has no stmdeploy {mine}",
                f"{python} -m pip install stmdeploy=={mine}",
            )


class SweepRun:
    """One sweep of a store, being prepared and measured by this process."""

    def __init__(
        self, store: Store, sweep: str, progress: Progress, on_row: Callable[[Row], None]
    ) -> None:
        self._store, self._sweep = store, sweep
        self._progress, self._on_row = progress, on_row
        self._spec = SweepSpec.from_json(store.sweep_spec(sweep))
        self._models: dict[ModelSpec, Prepared] = {}
        self._environment: Environment = environment()
        self._checked: set[Path] = set()
        self._peaks = ProcessorPeaks(progress)

    # Preparing

    def prepare(self) -> None:
        """Builds, counts and exports every model that is not yet, each in a worker.

        Raises:
            StmdeployError: a model cannot be built, or the artifacts not be written.
        """
        known = self._store.prepared(self._sweep)
        for position, model in enumerate(self._spec.models):
            ready = known.get(position)
            if ready is None or not _intact(ready):
                ready = self._prepare(model)
                self._store.save_prepared(self._sweep, position, ready)
            self._models[model] = ready

    def _prepare(self, model: ModelSpec) -> Prepared:
        exports = self._exports(model)
        self._progress.expect(2 + 2 * len(exports))
        answer = self._prepare_job(model, exports)
        if answer.prepared is not None:
            return answer.prepared
        if answer.code:
            raise StmdeployError(answer.failure, answer.hint, ExitCode(answer.code))
        # The worker itself died: find out of which export, so that the others have theirs.
        self._progress.expect(2 + 4 * len(exports))
        bare = self._prepare_job(model, ())
        if bare.prepared is None:
            raise StmdeployError(
                f"{model.name} cannot be built: {bare.failure}",
                bare.hint,
                ExitCode(bare.code or ExitCode.WORKER_FAILED),
            )
        single = [(spec, self._prepare_job(model, (spec,))) for spec in exports]
        artifacts = tuple(
            answer.prepared.artifacts[0]
            if answer.prepared is not None
            else PreparedArtifact(
                target=spec.target,
                precision=spec.precision,
                failure=answer.failure,
                code=answer.code or int(ExitCode.WORKER_FAILED),
            )
            for spec, answer in single
        )
        return bare.prepared.model_copy(update={"artifacts": artifacts})

    def _exports(self, model: ModelSpec) -> tuple[ExportSpec, ...]:
        targets = dict.fromkeys(exporter_for_runtime(run.runtime).target for run in self._spec.runs)
        return tuple(
            ExportSpec(
                model,
                target,
                self._store.folder / ARTIFACTS / self._sweep,
                precision,
                self._spec.lowering,
                calibration=self._spec.calibration,
                engine=self._spec.engine,
            )
            for precision in self._spec.precisions
            for target in targets
        )

    def _prepare_job(self, model: ModelSpec, exports: tuple[ExportSpec, ...]) -> Answer:
        job = PrepareJob(model=model, exports=exports)
        return run_job(job, {}, self._spec.export_timeout_s, self._progress)

    # Measuring

    def measure(self) -> None:
        """Measures one process of every row, round by round, until no row wants more."""
        turn_number = 0
        while open_rows := self._open_rows():
            self._progress.expect(len(open_rows))
            self._look_at_peaks(open_rows.values())
            for position in shuffled(sorted(open_rows), self._sweep, turn_number):
                self._measure(open_rows[position])
            turn_number += 1
        if self._spec.explain:
            self._explain()

    def _look_at_peaks(self, planned: Iterable[PlannedRow]) -> None:
        if self._spec.explain:
            self._peaks.measure(RowSpec.from_json(row.spec).run for row in planned)

    def _explain(self) -> None:
        """Where the time of every measured row goes, and its bound by the highest peaks seen."""
        specs = {row.position: row for row in self._store.planned(self._sweep)}
        measured = self._store.measured(self._sweep)
        open_rows = {p: row for p, row in measured.items() if row.parts_ms is None}
        self._progress.expect(len(open_rows))
        for position, row in open_rows.items():
            spec = RowSpec.from_json(specs[position].spec)
            artifact = self.artifact_of(spec)
            self._progress.step(f"looking into {spec.model.label} on {spec.run.runtime}")
            if row.bound is not None:
                self._peaks.know(spec.run, row.bound.peaks)
            found = {
                "parts_ms": parts_of(spec, artifact, self._progress),
                "bound": self._peaks.bound_of(spec.run, artifact.operations),
            }
            self._store.explain_row(self._sweep, position, row.model_copy(update=found))

    def layers(self, repeats: int) -> Iterator[tuple[RowSpec, Answer]]:
        """Where the time of every row goes: so many inferences, operator by operator."""
        planned = self._store.planned(self._sweep)
        self._progress.expect(len(planned))
        for row in planned:
            spec = RowSpec.from_json(row.spec)
            self._progress.step(f"looking into {spec.model.label} on {spec.run.runtime}")
            artifact = self.artifact_of(spec)
            if artifact.path is None:
                yield spec, Answer(failure=f"not exported: {artifact.failure}")
                continue
            job = LayersJob(
                artifact=artifact.path,
                model=replace(spec.model, checkpoint=None),
                run=spec.run,
                repeats=repeats,
            )
            settings = worker_settings(spec.run)
            yield (
                spec,
                run_job(job, settings, self._spec.row_timeout_s, self._progress, spec.run.python),
            )

    def _open_rows(self) -> dict[int, PlannedRow]:
        return {
            row.position: row
            for row in self._store.planned(self._sweep)
            if row.state not in (DONE, FAILED)
        }

    def _measure(self, planned: PlannedRow) -> None:
        """One more process of a row, and what the row comes to with it."""
        spec, position = RowSpec.from_json(planned.spec), planned.position
        before = self._store.processes(self._sweep, position)
        self._progress.step(
            f"measuring {spec.model.label} on {spec.run.runtime}, batch {spec.run.batch}, "
            f"process {len(before) + 1}"
        )
        if before and not wants_more(before, spec.run, self._spec.sampling):
            row = self._row(spec, before, None)  # killed between the last process and this line
            self._store.save_row(self._sweep, position, row, DONE)
            self._on_row(row)
            return
        artifact = self.artifact_of(spec)
        found = self._process(spec, artifact) if not artifact.failure else None
        if found is None or found.process is None:
            failure = found.failure if found else f"not exported: {artifact.failure}"
            self._fail(spec, position, failure)
            return
        processes = (*before, found.process)
        more = wants_more(processes, spec.run, self._spec.sampling)
        row = self._row(spec, processes, None)
        state = MEASURING if more else DONE
        try:
            kept = self._store.add_process(
                self._sweep, position, len(before), found.process, row, state
            )
        except DiskFullError as error:
            # Without its samples a row takes little room; if not even that is left, this raises.
            self._fail(spec, position, error.message)
            return
        if kept and not more:
            self._on_row(row)

    def _fail(self, spec: RowSpec, position: int, failure: str) -> None:
        row = self._row(spec, (), failure)
        self._store.save_row(self._sweep, position, row, FAILED)
        self._on_row(row)
        memory = any(words in failure.lower() for words in _OUT_OF_MEMORY)
        if memory and self._spec.smaller_batch and spec.run.batch > 1:
            smaller = replace(spec, run=replace(spec.run, batch=spec.run.batch // 2))
            self._store.add_row(self._sweep, smaller.key, smaller.to_json())

    def artifact_of(self, spec: RowSpec) -> PreparedArtifact:
        """What was prepared of a row's model for its runtime and precision."""
        target = exporter_for_runtime(spec.run.runtime).target
        return next(
            artifact
            for artifact in self._models[spec.model].artifacts
            if (artifact.target, artifact.precision) == (target, spec.run.precision)
        )

    def _process(self, spec: RowSpec, artifact: PreparedArtifact) -> Answer:
        """One worker's answer; the artifact's hash is checked before its first use."""
        assert artifact.path is not None
        try:
            if artifact.path not in self._checked:
                read_artifact(artifact.path)
                self._checked.add(artifact.path)
        except StmdeployError as error:
            return Answer(failure=error.message)
        run, sampling = spec.run, self._spec.sampling
        logs = self._store.folder / LOGS / self._sweep / spec.key
        job = MeasureJob(
            artifact=artifact.path,
            # The artifact holds the weights; the worker has no use for the checkpoint.
            model=replace(spec.model, checkpoint=None),
            run=run,
            sampling=sampling,
            environment=None if run.python else self._environment,
            memory_limit_mib=self._memory_limit(run),
            logs=logs.resolve() if run.scenario.name != LOOP else None,
        )
        timeout_s = self._spec.row_timeout_s + sampling.process_budget_s + run.scenario.duration_s
        return run_job(job, worker_settings(run), timeout_s, self._progress, run.python)

    def _memory_limit(self, run: RunSpec) -> int | None:
        """On the CPU, most of what is free; a GPU's driver reserves far more than it uses."""
        if run.device != "cpu":
            return self._spec.memory_limit_mib
        available = memory_available_mib()
        free = None if available is None else int(_MEMORY_SHARE * available)
        return self._spec.memory_limit_mib or free

    def _row(self, spec: RowSpec, processes: tuple[ProcessRun, ...], failure: str | None) -> Row:
        prepared, artifact, run = self._models[spec.model], self.artifact_of(spec), spec.run
        machine = processes[0].environment if processes else self._environment
        published = prepared.published if run.precision == "fp32" else None
        info = prepared.model
        return Row(
            model=info.name,
            stm=info.stm,
            scale=info.scale,
            weights=info.weights.kind,
            weights_sha256=info.weights.sha256,
            image_height_px=info.image_size[0],
            image_width_px=info.image_size[1],
            batch=run.batch,
            precision=run.precision,
            lowering=artifact.lowering,
            runtime=run.runtime,
            device=run.device,
            device_name=run.gpu_name or machine.processor,
            threads=run.threads,
            in_flight=run.in_flight,
            scenario=run.scenario.name,
            python=run.python,
            published_top1_percent=published.top1_percent if published else None,
            published_box_ap_percent=published.box_ap_percent if published else None,
            published_mask_ap_percent=published.mask_ap_percent if published else None,
            parameters=prepared.parameters,
            macs=prepared.macs,
            matmul_conv_macs=prepared.matmul_conv_macs,
            activations=prepared.activations,
            uncounted_operators=prepared.uncounted_operators,
            artifact_sha256=artifact.sha256,
            artifact_mib=artifact.mib,
            export_s=artifact.export_s,
            build_s=artifact.build_s,
            relative_l2_error=artifact.relative_l2_error,
            stmdeploy_version=version("stmdeploy"),
            started_utc=now_utc(),
            environment=machine,
            measurement=(summarize(processes, run, self._spec.sampling) if processes else None),
            failure=failure,
            bound=self._peaks.bound_of(run, artifact.operations) if processes else None,
        )


def _intact(prepared: Prepared) -> bool:
    """Whether the artifacts of an earlier run are still what they were."""
    try:
        for artifact in prepared.artifacts:
            if artifact.path is not None:
                read_artifact(artifact.path)
    except StmdeployError:
        return False
    return True
