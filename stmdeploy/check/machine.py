"""The machine that a check runs on: what stored numbers are bound to, and its GPUs."""

from __future__ import annotations

from dataclasses import replace

from stmdeploy.check.bundle import MachineKey
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.hardware.gpus import describe_machine, installed_gpus
from stmdeploy.hardware.machine import available_threads, processor_name
from stmdeploy.hardware.nvml import driver_version, power_limit_w
from stmdeploy.plugins.progress import Progress
from stmdeploy.spec.run import RunSpec


def machine_key(gpu_uuid: str) -> MachineKey:
    """This machine with one of its GPUs; empty for none."""
    name = next((gpu.name for gpu in installed_gpus() if gpu.uuid == gpu_uuid), "")
    return MachineKey(
        processor=processor_name(),
        cores=available_threads(),
        gpu=name,
        driver=driver_version() if gpu_uuid else "",
        power_limit_w=power_limit_w(gpu_uuid) if gpu_uuid else None,
    )


def run_here(run: RunSpec, progress: Progress) -> RunSpec:
    """A baseline's run, fitted to this machine.

    It takes the same GPU, or else one of the same name; on the CPU, no more threads than there are
    processors, of which `progress` is warned.

    Raises:
        StmdeployError: (exit code 3) this machine has no such GPU.
    """
    if run.device == "cpu":
        threads = min(run.threads, available_threads())
        if threads < run.threads:
            progress.warn(
                f"WARNING: the baseline was measured with {run.threads} threads; here both sides "
                f"have {threads}, as this machine has no more processors"
            )
        return replace(run, threads=threads)
    same = [gpu for gpu in installed_gpus() if gpu.name == run.gpu_name and not gpu.sliced]
    if not same:
        raise StmdeployError(
            f"the baseline was measured on {run.gpu_name}; this machine has {describe_machine()}",
            "check on a machine with that GPU, or make a baseline here: stmdeploy baseline create",
            ExitCode.CANNOT_TELL,
        )
    uuid = next((gpu.uuid for gpu in same if gpu.uuid == run.gpu_uuid), same[0].uuid)
    return replace(run, gpu_uuid=uuid)
