"""What the machine tells of itself, and what is absent stays absent."""

from __future__ import annotations

import sys

import pytest

from stmdeploy.hardware.conditions import energy_j, read_conditions
from stmdeploy.schema.hardware import Conditions


def test_what_this_machine_tells() -> None:
    told = read_conditions()
    assert told.cpu_mhz is None or 100 < told.cpu_mhz < 10_000
    assert told.package_energy_j is None or told.package_energy_j > 0
    assert told.gpu_temperature_c is None


def test_energy_is_the_meters_difference() -> None:
    before = Conditions(package_energy_j=10.0, gpu_energy_j=5.0)
    assert energy_j(before, Conditions(package_energy_j=14.0, gpu_energy_j=8.0)) == (3.0, "nvml")
    assert energy_j(before, Conditions(package_energy_j=14.0)) == (4.0, "rapl")


@pytest.mark.parametrize("after", [Conditions(), Conditions(package_energy_j=9.0)])
def test_energy_that_cannot_be_read_is_absent(after: Conditions) -> None:
    """Never zero: not without a meter, and not when its counter started again."""
    assert energy_j(Conditions(package_energy_j=10.0), after) == (None, "")


def test_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert read_conditions("GPU-1").gpu_power_w is None


def test_the_names_asked_of_nvml_exist() -> None:
    pynvml = pytest.importorskip("pynvml")
    for name in (
        "nvmlInit", "nvmlShutdown", "nvmlDeviceGetHandleByUUID", "nvmlDeviceGetClockInfo",
        "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetMemoryInfo",
        "nvmlDeviceGetTotalEnergyConsumption", "nvmlDeviceGetComputeRunningProcesses",
        "nvmlDeviceGetCurrentClocksThrottleReasons", "NVML_CLOCK_SM", "NVML_CLOCK_MEM",
        "NVML_TEMPERATURE_GPU", "NVMLError", "nvmlClocksThrottleReasonSwThermalSlowdown",
    ):  # fmt: skip
        assert hasattr(pynvml, name), name
