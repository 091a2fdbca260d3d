"""The machine as a check sees it: what stored numbers are bound to."""

from __future__ import annotations

import subprocess
from dataclasses import replace

from stmdeploy.contracts import Progress
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.hardware import describe_machine, installed_gpus, processor_name
from stmdeploy.regression.bundle import MachineKey
from stmdeploy.spec import RunSpec, available_threads

_TIMEOUT_S = 20


def machine_key(gpu_uuid: str) -> MachineKey:
    """This machine, with the GPU that is named; empty for none."""
    name = next((gpu.name for gpu in installed_gpus() if gpu.uuid == gpu_uuid), "")
    driver, power = _driver_and_power(gpu_uuid) if gpu_uuid else ("", None)
    return MachineKey(
        processor=processor_name(),
        cores=available_threads(),
        gpu=name,
        driver=driver,
        power_limit_w=power,
    )


def run_here(run: RunSpec, progress: Progress) -> RunSpec:
    """A run of a baseline on this machine: on a GPU of the same name, the same one if it is here;
    on the CPU with no more threads than there are processors, which `progress` is told.

    Raises:
        StmdeployError: with the exit code of a check that cannot tell: there is no such GPU.
    """
    if run.device == "cpu":
        threads = min(run.threads, available_threads())
        if threads < run.threads:
            progress.warn(
                f"WARNING: the baseline was measured with {run.threads} threads; here both sides "
                f"have {threads}"
            )
        return replace(run, threads=threads)
    same = [gpu for gpu in installed_gpus() if gpu.name == run.gpu_name and not gpu.sliced]
    if not same:
        raise StmdeployError(
            f"the baseline is of {run.gpu_name}, this machine has {describe_machine()}",
            "check on a machine with that GPU, or make a baseline here",
            ExitCode.CANNOT_TELL,
        )
    uuid = next((gpu.uuid for gpu in same if gpu.uuid == run.gpu_uuid), same[0].uuid)
    return replace(run, gpu_uuid=uuid)


def _driver_and_power(gpu_uuid: str) -> tuple[str, float | None]:
    """Driver version and power limit in watts, by nvidia-smi; what it does not tell is absent."""
    command = [
        "nvidia-smi", f"--id={gpu_uuid}", "--query-gpu=driver_version,power.limit",
        "--format=csv,noheader,nounits",
    ]  # fmt: skip
    try:
        told = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return "", None
    driver, _, limit = told.strip().partition(",")
    try:
        return driver.strip(), float(limit)
    except ValueError:
        return driver.strip(), None
