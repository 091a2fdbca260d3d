"""Runs a job in a worker of its own, while nothing else is measured."""

from __future__ import annotations

from typing import TypeVar

from stmdeploy.errors import FailureKind
from stmdeploy.plugins.exporter import EngineBuilder
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.job import Job
from stmdeploy.worker.lock import machine_lock
from stmdeploy.worker.process import WorkerError, run_worker

#: The module that every worker runs.
WORKER = "stmdeploy.worker"
T = TypeVar("T")


def run_job(
    job: Job[T],
    settings: dict[str, str],
    timeout_s: float,
    progress: Progress,
    python: str = "",
    *,
    while_silent: bool = False,
) -> T:
    """Does a job in a worker, and gives its result.

    Args:
        settings: environment variables of the worker; see `worker_settings`.
        timeout_s, python, while_silent: as for `run_worker`.
        progress: told what the worker reports.

    Raises:
        WorkerError: the worker itself died, or took too long.
        StmdeployError: what the job raised there.
    """

    def tell(line: str) -> None:
        word, _, text = line.partition(" ")
        told = {"step": progress.step, "detail": progress.detail}
        told.get(word, progress.warn)(text)

    with machine_lock(progress):
        sent = job.model_dump_json()
        line = run_worker(
            WORKER, sent, settings, timeout_s, python=python, tell=tell, while_silent=while_silent
        )
    try:
        return job.answer(line)
    except ValueError:
        told = f"the worker's answer cannot be read: {line[:100]!r}"
        raise WorkerError(told, FailureKind.ERROR) from None


def worker_settings(run: RunSpec) -> dict[str, str]:
    """Environment variables of a worker for a run; it sees one GPU at most, as its device 0."""
    settings = {"OMP_NUM_THREADS": str(run.threads), "MKL_NUM_THREADS": str(run.threads)}
    if run.device == "cuda":
        settings["CUDA_VISIBLE_DEVICES"] = run.gpu_uuid
        if not isinstance(exporter_of(run.runtime), EngineBuilder):
            # For libraries without a switch of their own: float32 is not to mean TensorFloat-32.
            # An engine's builder has one, and an engine runs under the environment it was built in.
            settings["NVIDIA_TF32_OVERRIDE"] = "0"
    return settings
