"""One process of a row, in a worker, on the machine that this is."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from stmdeploy.contracts import Progress
from stmdeploy.errors import StmdeployError
from stmdeploy.hardware import memory_available_mib
from stmdeploy.jobs import Answer, MeasureJob, run_job, worker_settings
from stmdeploy.measure.process import worker_environment
from stmdeploy.results.row import Environment
from stmdeploy.spec import LOOP, RunSpec, SamplingSpec
from stmdeploy.sweep import RowSpec

#: Of the memory that is free, what a worker may take.
_MEMORY_SHARE = 0.9
_INTERPRETER_TIMEOUT_S = 60


@dataclass(frozen=True)
class ProcessLimits:
    """What every process of a sweep is held to; as of `SweepSpec`."""

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
) -> Answer:
    """One process of a row; whatever goes wrong in it is the answer's failure.

    Args:
        artifact: its main file, whose hash was checked.
        environment: of this machine and interpreter.
        logs: where LoadGen writes, if it is the one that measures.
    """
    run, sampling = row.run, limits.sampling
    job = MeasureJob(
        artifact=artifact,
        # The artifact holds the weights; the worker has no use for the checkpoint.
        model=replace(row.model, checkpoint=None),
        run=run,
        sampling=sampling,
        environment=None if run.python else environment,
        memory_limit_mib=_memory_limit(run, limits),
        logs=logs.resolve() if run.scenario.name != LOOP else None,
    )
    timeout_s = limits.row_timeout_s + sampling.process_budget_s + run.scenario.duration_s
    return run_job(job, worker_settings(run), timeout_s, progress, run.python)


def _memory_limit(run: RunSpec, limits: ProcessLimits) -> int | None:
    """On the CPU, most of what is free; a GPU's driver reserves far more than it uses."""
    if run.device != "cpu":
        return limits.memory_limit_mib
    available = memory_available_mib()
    free = None if available is None else int(_MEMORY_SHARE * available)
    return limits.memory_limit_mib or free


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
