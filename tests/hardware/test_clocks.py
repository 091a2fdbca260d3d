"""A GPU's clock is locked while it is measured, and given back whatever happens."""

from __future__ import annotations

import sys

import pytest

from stmdeploy import StmdeployError
from stmdeploy.errors import FailureKind
from stmdeploy.hardware.clocks import locked_clocks
from stmdeploy.hardware.nvml import throttled_ns
from stmdeploy.worker.process import WorkerError
from tests.fakes import RecordedNvml


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> RecordedNvml:
    library = RecordedNvml(("NVIDIA L4", "GPU-0", None), ("NVIDIA L4", "GPU-1", None))
    monkeypatch.setitem(sys.modules, "pynvml", library)
    return library


def test_lock_measure_restore(nvml: RecordedNvml) -> None:
    with locked_clocks("GPU-1", 1200):
        nvml.told.append("measure")
    assert nvml.told == ["lock GPU-1 1200 1200", "measure", "unlock GPU-1"]
    assert nvml.open == 0


@pytest.mark.parametrize(
    "end", [WorkerError("killed", FailureKind.ERROR), KeyboardInterrupt(), SystemExit(143)]
)
def test_restored_however_it_ends(nvml: RecordedNvml, end: BaseException) -> None:
    """A worker that is killed is an exception of the parent, which holds the lock."""
    with pytest.raises(type(end)), locked_clocks("GPU-0", 900):
        raise end
    assert nvml.told == ["lock GPU-0 900 900", "unlock GPU-0"]


def test_not_asked_for(nvml: RecordedNvml) -> None:
    with locked_clocks("GPU-0", None):
        pass
    assert nvml.told == []


def test_refused(nvml: RecordedNvml) -> None:
    nvml.locks_refused = True
    with (
        pytest.raises(StmdeployError, match="cannot be set: Insufficient Permissions") as error,
        locked_clocks("GPU-0", 900),
    ):
        raise AssertionError("measured")
    assert "run as root" in error.value.hint
    assert nvml.told == []


def test_without_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(StmdeployError, match="NVML is not there"), locked_clocks("GPU-0", 900):
        raise AssertionError("measured")
    assert throttled_ns("GPU-0") == {}


def test_counters_by_reason(nvml: RecordedNvml) -> None:
    """Those that this driver has; in nanoseconds."""
    nvml.held_back_ns = {269: 5_000_000}
    assert throttled_ns("GPU-0") == {"sw_power_cap": 5_000_000}
