"""Explains a row: its roofline bound, and where its time goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stmdeploy.errors import Failure, StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.hardware.profiles import peaks_of, profile_of
from stmdeploy.hardware.roofline import bound
from stmdeploy.measure.peaks import merged
from stmdeploy.plugins.progress import Progress
from stmdeploy.report.layers import mean_ms
from stmdeploy.schema.hardware import Bound, Peaks
from stmdeploy.schema.manifest import Operation
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.spec.limits import positive
from stmdeploy.spec.run import LOOP, RunSpec
from stmdeploy.spec.sweep import RowSpec, SweepSpec
from stmdeploy.sweeps.exports import export_rows, path_of
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.job import without_checkpoint
from stmdeploy.worker.jobs.layers import LayersJob
from stmdeploy.worker.jobs.peaks import PeaksJob

#: Profiled inferences whose mean gives the time of each model part.
_REPEATS = 5
#: How long a worker that measures peaks or profiles operators may take.
TIMEOUT_S = 120.0


class ProcessorPeaks:
    """The peaks of the processors of a sweep, as far as they are known by now.

    A GPU's are those of its profile. The CPU's are measured: first with every library, later again
    with the fastest ones, because a shared machine is not always at its best.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._measured: dict[int, Peaks] = {}

    def measure(self, runs: Iterable[RunSpec]) -> None:
        """Measures the CPU once more, for the thread counts and precisions of some runs."""
        precisions: dict[int, set[str]] = {}
        for run in runs:
            if run.device == "cpu":
                wanted = precisions.setdefault(run.threads, {"fp32"})
                wanted.add("int8" if run.precision == "int8-dynamic" else run.precision)
        for threads, wanted in sorted(precisions.items()):
            self._progress.detail(f"measuring the peaks of the processor, {threads} threads")
            before = self._measured.get(threads)
            libraries = tuple({rate.by for rate in before.rates}) if before else ()
            found = measured_peaks(threads, tuple(sorted(wanted)), self._progress, libraries)
            if found is not None:
                self._measured[threads] = merged(before, found) if before else found

    def add(self, run: RunSpec, peaks: Peaks) -> None:
        """Adds peaks that an earlier process measured for a run."""
        if run.device == "cpu":
            mine = self._measured.get(run.threads)
            self._measured[run.threads] = merged(mine, peaks) if mine else peaks

    def of(self, run: RunSpec) -> Peaks | None:
        """The peaks of the processor of a run; None if they are not known."""
        if run.device == "cpu":
            return self._measured.get(run.threads)
        return gpu_peaks(run.gpu_name)


def gpu_peaks(name: str) -> Peaks | None:
    """The datasheet peaks of a GPU; None if it has no profile."""
    profile = profile_of(name)
    return peaks_of(profile) if profile is not None else None


def bound_by(peaks: Peaks | None, run: RunSpec, operations: tuple[Operation, ...]) -> Bound | None:
    """The roofline bound of a run; None without operations, peaks, or a rate of its precision."""
    if peaks is None or not operations:
        return None
    try:
        return bound(operations, run.batch, run.precision, peaks)
    except StmdeployError:
        return None


def measured_peaks(
    threads: int,
    precisions: tuple[str, ...],
    progress: Progress,
    libraries: tuple[str, ...] = (),
    timeout_s: float = TIMEOUT_S,
) -> Peaks | None:
    """Measures the peaks of this machine's CPU in a worker; warns and gives None if that fails.

    Args:
        libraries: those to measure with; empty for all.
    """
    positive(timeout_s, "timeout")
    job = PeaksJob(threads=threads, precisions=precisions, libraries=libraries)
    try:
        return run_job(job, worker_settings(RunSpec("", 1, threads)), timeout_s, progress)
    except StmdeployError as error:
        progress.warn(f"the peaks of the processor cannot be measured: {error.message}")
        return None


def operator_times(
    spec: RowSpec, artifact: Path, repeats: int, timeout_s: float, progress: Progress
) -> tuple[tuple[OperatorTime, ...], ...]:
    """Profiles the operators of a row, in `repeats` inferences in a worker.

    Raises:
        StmdeployError: the runtime has no profiler, or the worker failed.
    """
    model, run = without_checkpoint(spec.model), spec.run
    job = LayersJob(artifact=artifact, model=model, run=run, repeats=repeats)
    return run_job(job, worker_settings(run), timeout_s, progress, run.python)


def parts_of(spec: RowSpec, artifact: Path | None, progress: Progress) -> dict[str, float]:
    """Time of every model part in one inference, in ms; empty if the runtime cannot tell."""
    if artifact is None or spec.run.scenario.name != LOOP or spec.run.in_flight != 1:
        return {}
    try:
        return mean_ms(operator_times(spec, artifact, _REPEATS, TIMEOUT_S, progress), "part")
    except StmdeployError:
        return {}


@dataclass(frozen=True)
class LayerTimes:
    """The operators of a row, for each profiled inference."""

    row: RowSpec
    inferences: tuple[tuple[OperatorTime, ...], ...]


def layers_of(spec: SweepSpec, progress: Progress, repeats: int = 10) -> list[LayerTimes]:
    """Exports every row of a sweep and profiles its operators, in `repeats` inferences.

    Raises:
        StmdeployError: bad input, or a row that failed.
    """
    found = []
    with scratch_folder("layers") as folder:
        artifacts = export_rows(spec, folder, progress)
        progress.expect(len(artifacts))
        for row, artifact in artifacts.items():
            progress.step(f"profiling the operators of {row.model.label} on {row.run.runtime}")
            path = path_of(artifact)
            try:
                times = operator_times(row, path, repeats, spec.row_timeout_s, progress)
            except StmdeployError as error:
                where = f"{row.model.label} on {row.run.runtime}: "
                raise Failure.of(error).error(where) from error
            found.append(LayerTimes(row, times))
    return found
