"""What explains a row: the bound that it could reach, and where its time goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from stmdeploy.artifact import Operation
from stmdeploy.bound import bound
from stmdeploy.contracts import Progress
from stmdeploy.errors import StmdeployError
from stmdeploy.jobs import LayersJob, PeaksJob, run_job, worker_settings
from stmdeploy.measure.peaks import merged
from stmdeploy.processors import peaks_of, profile_of
from stmdeploy.report.layers import mean_ms
from stmdeploy.results.row import Bound, Peaks, PreparedArtifact
from stmdeploy.spec import LOOP, RunSpec, positive
from stmdeploy.sweep import RowSpec

#: Inferences that a row's share of time is the mean of.
_REPEATS = 5
#: A worker that explains is ended after it.
TIMEOUT_S = 120.0


class ProcessorPeaks:
    """What the processors of a sweep can do at most, as far as is known by now.

    A GPU is known from its profile. The CPU is measured: with every library once, later again
    with those that were the fastest, because a shared machine is not always at its best.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._measured: dict[int, Peaks] = {}

    def measure(self, runs: Iterable[RunSpec]) -> None:
        """Looks once more, at the thread counts and precisions that some runs have."""
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

    def know(self, run: RunSpec, peaks: Peaks) -> None:
        """Peaks that were measured before, and stored."""
        if run.device == "cpu":
            mine = self._measured.get(run.threads)
            self._measured[run.threads] = merged(mine, peaks) if mine else peaks

    def of(self, run: RunSpec) -> Peaks | None:
        """The peaks of what a run runs on; None where nothing is known of it."""
        if run.device == "cpu":
            return self._measured.get(run.threads)
        return gpu_peaks(run.gpu_name)

    def bound_of(self, run: RunSpec, operations: tuple[Operation, ...]) -> Bound | None:
        """A row's bound; None without a graph, peaks, or a rate of its precision."""
        return bound_by(self.of(run), run, operations)


def gpu_peaks(name: str) -> Peaks | None:
    """What the datasheet says of a GPU; None where there is no profile of it."""
    profile = profile_of(name)
    return peaks_of(profile) if profile is not None else None


def bound_by(peaks: Peaks | None, run: RunSpec, operations: tuple[Operation, ...]) -> Bound | None:
    """A row's bound by some peaks; None without a graph, peaks, or a rate of its precision."""
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
    """What this machine's processor can do, measured in a worker; None, and `progress` told,
    if that fails."""
    positive(timeout_s, "timeout")
    job = PeaksJob(threads=threads, precisions=precisions, libraries=libraries)
    answer = run_job(job, worker_settings(RunSpec("", 1, threads)), timeout_s, progress)
    if answer.peaks is None:
        progress.warn(f"the peaks of the processor cannot be measured: {answer.failure}")
    return answer.peaks


def parts_of(spec: RowSpec, artifact: PreparedArtifact, progress: Progress) -> dict[str, float]:
    """Milliseconds of every part in one inference, by the runtime's profiler; empty where it
    does not tell."""
    run = spec.run
    if artifact.path is None or run.scenario.name != LOOP or run.in_flight != 1:
        return {}
    job = LayersJob(
        artifact=artifact.path,
        model=replace(spec.model, checkpoint=None),
        run=run,
        repeats=_REPEATS,
    )
    answer = run_job(job, worker_settings(run), TIMEOUT_S, progress, run.python)
    return mean_ms(answer.layers, "part") if answer.layers else {}
