"""NVIDIA's management library, NVML; no other module calls it.

Without its Python binding, a driver or an answer, every result here is empty or None.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import BYTES_PER_MIB

T = TypeVar("T")

_MILLI = 1e-3
EXCLUSIVE, PROHIBITED = "exclusive process", "prohibited"
#: NVML's compute modes, and what they are called here.
COMPUTE_MODES = {
    "NVML_COMPUTEMODE_DEFAULT": "default",
    "NVML_COMPUTEMODE_EXCLUSIVE_PROCESS": EXCLUSIVE,
    "NVML_COMPUTEMODE_PROHIBITED": PROHIBITED,
}
#: NVML's counters of the time that a GPU was held back, and the ends of their names.
_COUNTER = "NVML_FI_DEV_CLOCKS_EVENT_REASON_"
_HELD_BACK_BY = (
    "SW_POWER_CAP", "SW_THERM_SLOWDOWN", "HW_THERM_SLOWDOWN", "HW_POWER_BRAKE_SLOWDOWN",
    "SYNC_BOOST",
)  # fmt: skip
#: Reasons for low clocks that do not disturb a measurement.
_HARMLESS = {"None", "All", "GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks"}


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, as the driver reports it.

    Attributes:
        name, uuid: the driver's name and identifier of it.
        sliced: whether MIG divides it.
        mode: who may compute on it, a value of `COMPUTE_MODES`.
        users: how many processes compute on it now.
    """

    name: str
    uuid: str
    sliced: bool = False
    mode: str = "default"
    users: int = 0


def binding() -> Any:
    """The module pynvml; None where it is not installed."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _asked(question: Callable[[Any], T]) -> T | None:
    """Calls `question` with the binding, between init and shutdown; None without a binding or a
    driver."""
    pynvml = binding()
    if pynvml is None:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return question(pynvml)
    finally:
        pynvml.nvmlShutdown()


def all_gpus() -> list[Gpu]:
    """Every GPU that NVML reports, by index, even those that this process may not use."""
    found = _asked(lambda nvml: [_gpu(nvml, i) for i in range(nvml.nvmlDeviceGetCount())])
    return [gpu for gpu in found or () if gpu is not None]


def _gpu(nvml: Any, index: int) -> Gpu | None:
    """A GPU by its index; None for one that is lost, or that this user may not see."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)
    except nvml.NVMLError:
        return None
    sliced, mode, users = False, "default", 0  # for GPUs that have no such thing
    with suppress(nvml.NVMLError):
        sliced = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    with suppress(nvml.NVMLError):
        modes = {getattr(nvml, constant): word for constant, word in COMPUTE_MODES.items()}
        mode = modes.get(nvml.nvmlDeviceGetComputeMode(handle), mode)
    with suppress(nvml.NVMLError):
        users = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    return Gpu(_as_text(name), _as_text(uuid), bool(sliced), mode, users)


def _as_text(value: str | bytes) -> str:
    """Text; older bindings answer in bytes."""
    return value.decode() if isinstance(value, bytes) else value


def driver_version() -> str:
    """The version of NVIDIA's driver; empty without one."""
    return _asked(lambda nvml: _as_text(nvml.nvmlSystemGetDriverVersion())) or ""


def power_limit_w(uuid: str) -> float | None:
    """The power limit of a GPU, in watts."""
    read = _answers(uuid, lambda nvml, gpu: {
        "watts": lambda: nvml.nvmlDeviceGetPowerManagementLimit(gpu) * _MILLI,
    })  # fmt: skip
    return read.get("watts")


def memory_free_mib(uuid: str) -> float | None:
    """How much memory of a GPU is free, in MiB."""
    read = _answers(uuid, lambda nvml, gpu: {
        "mib": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).free / BYTES_PER_MIB,
    })  # fmt: skip
    return read.get("mib")


def gpu_conditions(uuid: str) -> dict[str, Any]:
    """The present state of a GPU: those fields of `schema.hardware.Conditions` that NVML knows."""
    return _answers(uuid, lambda nvml, gpu: {
        "gpu_sm_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "gpu_memory_mhz": lambda: nvml.nvmlDeviceGetClockInfo(gpu, nvml.NVML_CLOCK_MEM),
        "gpu_temperature_c": lambda: nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU),
        "gpu_power_w": lambda: nvml.nvmlDeviceGetPowerUsage(gpu) * _MILLI,
        "gpu_energy_j": lambda: nvml.nvmlDeviceGetTotalEnergyConsumption(gpu) * _MILLI,
        "gpu_throttle_reasons": lambda: _throttle(nvml, gpu),
        "gpu_memory_used_mib": lambda: nvml.nvmlDeviceGetMemoryInfo(gpu).used / BYTES_PER_MIB,
        "gpu_process_memory_mib": lambda: _memory_of_this_process(nvml, gpu),
        "gpu_max_sm_mhz": lambda: nvml.nvmlDeviceGetMaxClockInfo(gpu, nvml.NVML_CLOCK_SM),
        "gpu_power_limit_w": lambda: nvml.nvmlDeviceGetPowerManagementLimit(gpu) * _MILLI,
        "gpu_ecc": lambda: bool(nvml.nvmlDeviceGetEccMode(gpu)[0]),
        "gpu_persistence": lambda: bool(nvml.nvmlDeviceGetPersistenceMode(gpu)),
        "gpu_processes": lambda: len(nvml.nvmlDeviceGetComputeRunningProcesses(gpu)),
    })  # fmt: skip


def throttled_ns(uuid: str) -> dict[str, int]:
    """For how many nanoseconds a GPU has been held back so far, by reason; empty if its driver does
    not say."""
    read = _answers(uuid, lambda nvml, gpu: {"counted": lambda: _counters(nvml, gpu)})
    counted: dict[str, int] = read.get("counted", {})
    return counted


def _counters(nvml: Any, handle: Any) -> dict[str, int]:
    fields = {name: getattr(nvml, f"{_COUNTER}{name}", None) for name in _HELD_BACK_BY}
    known = {name: field for name, field in fields.items() if field is not None}
    values = nvml.nvmlDeviceGetFieldValues(handle, list(known.values()))
    return {
        name.lower(): int(value.value.ullVal)
        for name, value in zip(known, values, strict=True)
        if value.nvmlReturn == nvml.NVML_SUCCESS
    }


def _memory_of_this_process(nvml: Any, handle: Any) -> float | None:
    """MiB that this process holds on a GPU; None where NVML does not see it, as in a container."""
    own = [
        process.usedGpuMemory
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        if process.pid == os.getpid() and process.usedGpuMemory is not None
    ]
    return sum(own) / BYTES_PER_MIB if own else None


def lock_clocks(uuid: str, mhz: int) -> None:
    """Locks the clock of a GPU's processors; it stays locked until `unlock_clocks`.

    Raises:
        StmdeployError: there is no NVML, or it refuses, for which it mostly wants root.
    """
    _set(uuid, lambda nvml, gpu: nvml.nvmlDeviceSetGpuLockedClocks(gpu, mhz, mhz))


def unlock_clocks(uuid: str) -> None:
    """Gives the clock of a GPU's processors back to its driver; raises as `lock_clocks`."""
    _set(uuid, lambda nvml, gpu: nvml.nvmlDeviceResetGpuLockedClocks(gpu))


def _set(uuid: str, change: Callable[[Any, Any], object]) -> None:
    def work(nvml: Any) -> str:
        try:
            change(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid))
        except nvml.NVMLError as error:
            return str(error)
        return ""

    refused = _asked(work)
    if refused is None or refused:
        raise StmdeployError(
            f"the clock of the GPU cannot be set: {refused or 'NVML is not there'}",
            "run as root, or leave --lock-clocks out",
        )


def _answers(
    uuid: str, questions: Callable[[Any, Any], dict[str, Callable[[], Any]]]
) -> dict[str, Any]:
    """What NVML answers about a GPU; questions that it cannot answer are left out."""

    def ask_all(nvml: Any) -> dict[str, Any]:
        read = {}
        with suppress(nvml.NVMLError):
            for name, ask in questions(nvml, nvml.nvmlDeviceGetHandleByUUID(uuid)).items():
                with suppress(nvml.NVMLError):
                    if (answer := ask()) is not None:
                        read[name] = answer
        return read

    return _asked(ask_all) or {}


def _throttle(nvml: Any, handle: Any) -> tuple[str, ...]:
    """The reasons why clocks are low now; being idle does not count."""
    mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    prefix = "nvmlClocksThrottleReason"
    named = {
        name.removeprefix(prefix): value
        for name, value in sorted(vars(nvml).items())
        if name.startswith(prefix) and isinstance(value, int)
    }
    return tuple(name for name, bit in named.items() if name not in _HARMLESS and mask & bit)
