"""Measures one process of a row, in a worker on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stmdeploy.hardware.machine import memory_available_mib
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.spec.run import LOOP, RunSpec, SamplingSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.job import without_checkpoint
from stmdeploy.worker.jobs.measure import MeasureJob

#: Share of the free memory that a worker may allocate.
_MEMORY_SHARE = 0.9


@dataclass(frozen=True)
class ProcessLimits:
    """Limits of every process of a sweep, as in `SweepSpec`."""

    sampling: SamplingSpec
    row_timeout_s: float
    memory_limit_mib: int | None


def one_process(
    row: RowSpec,
    artifact: Path,
    limits: ProcessLimits,
    environment: Environment,
    logs: Path,
    progress: Progress,
) -> ProcessRun:
    """Measures one process of a row.

    Args:
        artifact: main file of the row's artifact, whose hash was checked.
        environment: this machine and interpreter.
        logs: folder for LoadGen's logs, used only for its scenarios.

    Raises:
        StmdeployError: the worker failed.
    """
    run, sampling = row.run, limits.sampling
    job = MeasureJob(
        artifact=artifact,
        model=without_checkpoint(row.model),
        run=run,
        sampling=sampling,
        environment=None if run.python else environment,
        memory_limit_mib=_memory_limit(run, limits),
        logs=logs.resolve() if run.scenario.name != LOOP else None,
    )
    timeout_s = limits.row_timeout_s + sampling.process_budget_s + run.scenario.duration_s
    return run_job(job, worker_settings(run), timeout_s, progress, run.python)


def _memory_limit(run: RunSpec, limits: ProcessLimits) -> int | None:
    """In MiB. None on a GPU without a limit, whose driver reserves far more than it uses."""
    if limits.memory_limit_mib or run.device != "cpu":
        return limits.memory_limit_mib
    return int(_MEMORY_SHARE * memory_available_mib())
