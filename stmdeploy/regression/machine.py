"""The machine as a check sees it: what stored numbers are bound to."""

from __future__ import annotations

import subprocess

from stmdeploy.hardware import installed_gpus, processor_name
from stmdeploy.regression.bundle import MachineKey
from stmdeploy.spec import available_threads

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
