"""What the machine is doing around a measurement: clocks, temperatures, throttling, energy.

Read before and after sampling, never during. What cannot be read is None, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stmdeploy.hardware.nvml import gpu_conditions
from stmdeploy.schema.hardware import Conditions

_CPU = Path("/sys/devices/system/cpu")
_MICRO = 1e-6
#: Names of the temperature sensors of Intel's, AMD's and ARM's processors.
_CPU_SENSORS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "x86_pkg_temp", "cpu-thermal")


def read_conditions(gpu_uuid: str = "") -> Conditions:
    """Reads the present state of the processor and, if a GPU is named, of that GPU."""
    return Conditions(
        cpu_mhz=_cpu_mhz(),
        cpu_temperature_c=_cpu_temperature(),
        cpu_throttle_events=_throttle_events(),
        package_energy_j=_package_energy(),
        **(gpu_conditions(gpu_uuid) if gpu_uuid else {}),
    )


def energy_j(before: Conditions, after: Conditions) -> tuple[float | None, str]:
    """Joules spent between two readings, and by which meter: ``nvml`` of a GPU, else ``rapl``.

    None and "" if no meter can be read, or its counter started again in between.
    """
    for name, source in (("gpu_energy_j", "nvml"), ("package_energy_j", "rapl")):
        start, end = getattr(before, name), getattr(after, name)
        if start is not None and end is not None and end > start:
            return end - start, source
    return None, ""


def _sum_of(paths: Iterable[Path]) -> float | None:
    """The sum of the numbers in files; None if no file holds one."""
    values = []
    for path in paths:
        with suppress(OSError, ValueError):
            values.append(float(path.read_text("ascii")))
    return sum(values) if values else None


def _throttle_events() -> int | None:
    events = _sum_of(_CPU.glob("cpu*/thermal_throttle/core_throttle_count"))
    return None if events is None else int(events)


def _cpu_mhz() -> float | None:
    """The mean clock of all processors."""
    import psutil

    found = psutil.cpu_freq()
    return round(found.current, 1) if found else None


def _cpu_temperature() -> float | None:
    """The hottest of the processor's sensors, in degrees Celsius."""
    import psutil

    read = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    hottest = [one.current for name in _CPU_SENSORS for one in read.get(name, ())]
    return round(max(hottest), 1) if hottest else None


def _package_energy() -> float | None:
    """Joules of all CPU packages since some moment (RAPL); often only root may read them."""
    energy_uj = _sum_of(Path("/sys/class/powercap").glob("intel-rapl:[0-9]/energy_uj"))
    return None if energy_uj is None else energy_uj * _MICRO
