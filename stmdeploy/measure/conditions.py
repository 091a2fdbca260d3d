"""What the machine is doing around a measurement: clocks, temperatures, throttling, energy.

Read before and after sampling, never during. What cannot be read is None, never zero.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import fmean
from typing import Any

from stmdeploy.results.row import Conditions

_CPU = Path("/sys/devices/system/cpu")
_KHZ_PER_MHZ, _MILLI, _MICRO = 1000, 1e-3, 1e-6


def read_conditions(gpu_uuid: str = "") -> Conditions:
    """The present state of the processor and, where one is named, of a GPU."""
    gpu = _gpu(gpu_uuid) if gpu_uuid else {}
    return Conditions(
        cpu_mhz=_cpu_mhz(),
        cpu_temperature_c=_cpu_temperature(),
        cpu_throttle_events=_sum_of(_CPU.glob("cpu*/thermal_throttle/core_throttle_count")),
        package_energy_j=_package_energy(),
        **gpu,
    )


def energy_j(before: Conditions, after: Conditions) -> tuple[float | None, str]:
    """What was spent between two readings, and by which meter: the GPU's own, else the package's.

    Joules; None where no meter can be read, or a counter started again in between.
    """
    for name, source in (("gpu_energy_j", "nvml"), ("package_energy_j", "rapl")):
        start, end = getattr(before, name), getattr(after, name)
        if start is not None and end is not None and end > start:
            return end - start, source
    return None, ""


def _number(path: Path) -> float | None:
    try:
        return float(path.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _numbers(paths: Any) -> list[float]:
    return [value for path in paths if (value := _number(path)) is not None]


def _sum_of(paths: Any) -> int | None:
    values = _numbers(paths)
    return int(sum(values)) if values else None


def _cpu_mhz() -> float | None:
    if frequencies := _numbers(_CPU.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        return round(fmean(frequencies) / _KHZ_PER_MHZ, 1)
    with suppress(OSError, ValueError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        told = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return round(fmean(told), 1) if told else None
    return None


def _cpu_temperature() -> float | None:
    zones = sorted(Path("/sys/class/thermal").glob("thermal_zone*"))
    hottest: list[float] = []
    for zone in zones:
        with suppress(OSError):
            kind = (zone / "type").read_text("ascii").strip()
            if kind in ("x86_pkg_temp", "cpu-thermal", "k10temp", "CPU-therm"):
                hottest += _numbers([zone / "temp"])
    return round(max(hottest) * _MILLI, 1) if hottest else None


def _package_energy() -> float | None:
    """Joules since some moment, of all packages (RAPL); mostly root alone may read it."""
    packages = Path("/sys/class/powercap").glob("intel-rapl:[0-9]")
    values = _numbers(package / "energy_uj" for package in packages)
    return sum(values) * _MICRO if values else None


def _gpu(uuid: str) -> dict[str, Any]:
    """What NVML tells of a GPU; empty without NVML."""
    try:
        import pynvml
    except ImportError:
        return {}
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except pynvml.NVMLError:
        return {}
    asked: dict[str, Callable[[], Any]] = {
        "gpu_sm_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "gpu_memory_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "gpu_temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(
            handle, pynvml.NVML_TEMPERATURE_GPU
        ),
        "gpu_power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) * _MILLI,
        "gpu_energy_j": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) * _MILLI,
        "gpu_throttle_reasons": lambda: _throttle(pynvml, handle),
        "gpu_memory_used_mib": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / 2**20,
        "gpu_processes": lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)),
    }
    read: dict[str, Any] = {}
    for name, ask in asked.items():
        with suppress(pynvml.NVMLError):
            read[name] = ask()
    pynvml.nvmlShutdown()
    return read


def _throttle(nvml: Any, handle: Any) -> tuple[str, ...]:
    """The reasons that hold the clocks down now; being idle is none."""
    mask = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
    prefix = "nvmlClocksThrottleReason"
    harmless = {"None", "All", "GpuIdle", "ApplicationsClocksSetting", "UserDefinedClocks"}
    return tuple(
        name.removeprefix(prefix)
        for name in sorted(vars(nvml))
        if name.startswith(prefix)
        and name.removeprefix(prefix) not in harmless
        and isinstance(getattr(nvml, name), int)
        and mask & getattr(nvml, name)
    )
