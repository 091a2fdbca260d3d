"""The machine as a check sees it: what stored numbers are bound to."""

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
    """This machine, with the GPU that is named; empty for none."""
    name = next((gpu.name for gpu in installed_gpus() if gpu.uuid == gpu_uuid), "")
    return MachineKey(
        processor=processor_name(),
        cores=available_threads(),
        gpu=name,
        driver=driver_version() if gpu_uuid else "",
        power_limit_w=power_limit_w(gpu_uuid) if gpu_uuid else None,
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
            "check on a machine with that GPU, or make a new one: stmdeploy baseline create",
            ExitCode.CANNOT_TELL,
        )
    uuid = next((gpu.uuid for gpu in same if gpu.uuid == run.gpu_uuid), same[0].uuid)
    return replace(run, gpu_uuid=uuid)
