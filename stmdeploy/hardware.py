"""The machine: its processor and its GPUs."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from stmdeploy.errors import StmdeployError
from stmdeploy.processors import Profile, find_profiles
from stmdeploy.results.row import Environment
from stmdeploy.spec import available_threads

#: Packages whose versions are recorded with every row, where they are installed.
_RECORDED_PACKAGES = (
    "stmdeploy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-rtx-cu12", "numpy", "mlcommons_loadgen",
)  # fmt: skip
_KIB_PER_GIB = 1 << 20
_EXCLUSIVE, _PROHIBITED = "exclusive process", "prohibited"
#: NVML's constants, and what they mean.
COMPUTE_MODES = {
    "NVML_COMPUTEMODE_DEFAULT": "default",
    "NVML_COMPUTEMODE_EXCLUSIVE_PROCESS": _EXCLUSIVE,
    "NVML_COMPUTEMODE_PROHIBITED": _PROHIBITED,
}


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, as the driver calls it.

    Attributes:
        name, uuid: what the driver reports.
        sliced: whether MIG divides it.
        mode: who may compute on it, one of `COMPUTE_MODES`.
        users: processes that compute on it now.
    """

    name: str
    uuid: str
    sliced: bool = False
    mode: str = "default"
    users: int = 0


def installed_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process may use; empty without a driver, or without NVML.

    Those that ``CUDA_VISIBLE_DEVICES`` leaves out belong to somebody else.
    """
    return visible_gpus(all_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def all_gpus() -> list[Gpu]:
    """Those of others too, as NVML tells, in the order of their indices."""
    pynvml = _nvml()
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []  # no driver, or no library of it
    try:
        found = (_gpu(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount()))
        return [gpu for gpu in found if gpu is not None]
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, index: int) -> Gpu | None:
    """A GPU by its number; None for one that is lost, or that this user may not see."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        return Gpu(
            _as_text(nvml.nvmlDeviceGetName(handle)),
            _as_text(nvml.nvmlDeviceGetUUID(handle)),
            _is_sliced(nvml, handle),
            _compute_mode(nvml, handle),
            _users(nvml, handle),
        )
    except nvml.NVMLError:
        return None


def driver_version() -> str:
    """Of NVIDIA's driver; empty without one."""
    pynvml = _nvml()
    if pynvml is None:
        return ""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ""
    try:
        return _as_text(pynvml.nvmlSystemGetDriverVersion())
    finally:
        pynvml.nvmlShutdown()


def _nvml() -> Any:
    """NVML's Python binding; None without it."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _as_text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _is_sliced(nvml: Any, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False  # a GPU that cannot be divided
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _compute_mode(nvml: Any, handle: Any) -> str:
    """Who may compute on a GPU: one of `COMPUTE_MODES`."""
    names = {getattr(nvml, constant): name for constant, name in COMPUTE_MODES.items()}
    try:
        return names.get(nvml.nvmlDeviceGetComputeMode(handle), "default")
    except nvml.NVMLError:
        return "default"  # a GPU that has no modes


def _users(nvml: Any, handle: Any) -> int:
    try:
        return len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    except nvml.NVMLError:
        return 0


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """Those GPUs that ``CUDA_VISIBLE_DEVICES`` allows, by index or by how a UUID begins."""
    if visible is None:
        return tuple(gpus)
    words = [word.strip() for word in visible.split(",")]
    return tuple(
        gpu
        for index, gpu in enumerate(gpus)
        if any(word == str(index) or (word and gpu.uuid.startswith(word)) for word in words)
    )


def find_gpu(name: str) -> tuple[Gpu, Profile]:
    """A GPU that must be in this machine, by the name of its profile or of a family.

    Raises:
        StmdeployError: unknown name; no such GPU here, which says what is here; two kinds of
            the family; or one that is divided by MIG, or that somebody has for himself.
    """
    wanted = find_profiles(name)
    here = [
        (gpu, profile) for gpu in installed_gpus() for profile in wanted if profile.fits(gpu.name)
    ]
    if not here:
        titles = " or ".join(profile.title for profile in wanted)
        raise StmdeployError(
            f"this machine has no {titles}: it has {describe_machine()}{why_no_gpus()}",
            "run on a machine with that GPU, or leave --gpu out to measure the CPU",
        )
    kinds = list(dict.fromkeys(profile.name for _, profile in here))
    if len(kinds) > 1:
        raise StmdeployError(
            f"--gpu {name} is {' and '.join(kinds)} here", f"say which: --gpu {kinds[0]}"
        )
    usable = [(gpu, profile) for gpu, profile in here if not _why_not(gpu)]
    if not usable:
        raise StmdeployError(
            f"{here[0][0].name} {_why_not(here[0][0])}",
            "see `nvidia-smi -q -d COMPUTE` and `nvidia-smi mig`, and set it free",
        )
    return usable[0]


def _why_not(gpu: Gpu) -> str:
    """Why a GPU cannot be measured as a whole one; empty if it can."""
    if gpu.sliced:
        return "is divided by MIG, and the profile is of a whole one"
    if gpu.mode == _PROHIBITED:
        return "is in compute mode prohibited"
    if gpu.mode == _EXCLUSIVE and gpu.users:
        return "is in exclusive-process mode, and another process has it"
    return ""


def why_no_gpus() -> str:
    """Said where the driver is there and its Python binding is not; empty otherwise."""
    if _nvml() is None and shutil.which("nvidia-smi"):
        return " (NVML cannot be asked: pip install 'stmdeploy[gpu]')"
    return ""


def describe_machine() -> str:
    """Processor and GPUs in a few words."""
    gpus = ", ".join(gpu.name for gpu in installed_gpus()) or "no NVIDIA GPU"
    return f"{processor_name()} ({available_threads()} threads) and {gpus}"


def _first_field(path: str, key: str, separator: str = ":") -> str | None:
    try:
        lines: Iterable[str] = Path(path).read_text("utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        field, found, value = line.partition(separator)
        if found and field.strip() == key:
            return value.strip()
    return None


def processor_name() -> str:
    """The processor's marketing name, or its architecture where it is not told."""
    return _first_field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()


def _memory_gib() -> float:
    total = _first_field("/proc/meminfo", "MemTotal")
    if total:
        return int(total.split()[0]) / _KIB_PER_GIB
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def memory_available_mib() -> float | None:
    """What programs can still take without swapping, where the system tells."""
    free = _first_field("/proc/meminfo", "MemAvailable")
    return int(free.split()[0]) / 1024 if free else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text("utf-8").strip()
    except OSError:
        return None


def load_average() -> float | None:
    """Runnable processes over the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def environment() -> Environment:
    """Describes this machine and the packages that matter to a measurement."""
    versions = {}
    for package in _RECORDED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    if driver := driver_version():
        versions["nvidia-driver"] = driver
    flags = _first_field("/proc/cpuinfo", "flags")
    return Environment(
        processor=processor_name(),
        cores=os.cpu_count() or 1,
        threads_available=available_threads(),
        memory_gib=round(_memory_gib(), 2),
        gpus=tuple(gpu.name for gpu in installed_gpus()),
        os=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        virtual_machine="hypervisor" in flags.split() if flags else None,
        governor=_read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        load_average_1min=load_average(),
        versions=versions,
    )
