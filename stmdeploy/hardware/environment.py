"""The machine and its software, as every row records them."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stmdeploy.hardware.gpus import installed_gpus
from stmdeploy.hardware.machine import available_threads, load_average, proc_field, processor_name
from stmdeploy.hardware.nvml import driver_version
from stmdeploy.schema.hardware import Environment

#: Packages whose versions are recorded with every row, if they are installed.
_RECORDED_PACKAGES = (
    "stmdeploy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", "triton", "cuda-bindings",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-cublas-cu12", "nvidia-cublas",
    "nvidia-cuda-runtime-cu12", "nvidia-cuda-runtime", "numpy", "mlcommons_loadgen",
)  # fmt: skip
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def environment() -> Environment:
    """Describes this machine and the packages that matter to a measurement."""
    import psutil

    flags = proc_field("cpuinfo", "flags")
    return Environment(
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        threads_available=available_threads(),
        memory_gib=round(psutil.virtual_memory().total / 2**30, 2),
        gpus=tuple(gpu.name for gpu in installed_gpus()),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        virtual_machine="hypervisor" in flags.split() if flags else None,
        governor=_governor(),
        load_average_1min=load_average(),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    versions = {}
    for package in _RECORDED_PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    if driver := driver_version():
        versions["nvidia-driver"] = driver
    return versions


def _governor() -> str | None:
    with suppress(OSError):
        return _GOVERNOR.read_text("utf-8").strip()
    return None
