"""The machine that a check runs on, with GPUs that are told."""

from __future__ import annotations

import sys

import pytest

from stmdeploy import StmdeployError
from stmdeploy.check import machine
from stmdeploy.check.machine import machine_key, run_here
from stmdeploy.check.policy import Policy, told_by
from stmdeploy.hardware.nvml import Gpu
from stmdeploy.spec.run import RunSpec
from tests.fakes import RecordedNvml, RecordedProgress

L4 = RunSpec("onnxruntime", 1, 2, "cuda", "GPU-old", "NVIDIA L4")


@pytest.fixture
def two_kinds(monkeypatch: pytest.MonkeyPatch) -> RecordedNvml:
    """A machine of two L4 and an A10, as NVML tells of it."""
    nvml = RecordedNvml(
        ("NVIDIA L4", "GPU-a", None), ("NVIDIA L4", "GPU-b", None), ("NVIDIA A10", "GPU-c", None)
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return nvml


@pytest.mark.usefixtures("two_kinds")
def test_a_gpu_of_the_same_name_stands_for_the_baselines(progress: RecordedProgress) -> None:
    assert run_here(L4, progress).gpu_uuid == "GPU-a"
    same = RunSpec("torch", 1, 2, "cuda", "GPU-b", "NVIDIA L4")
    assert run_here(same, progress).gpu_uuid == "GPU-b"
    assert progress.warnings == []


def test_no_more_threads_than_processors(
    progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_threads", lambda: 4)
    assert run_here(RunSpec("torch", 1, 2), progress) == RunSpec("torch", 1, 2)
    assert progress.warnings == []
    assert run_here(RunSpec("torch", 1, 16), progress).threads == 4
    assert "16 threads; here both sides have 4" in progress.warnings[0]


@pytest.mark.usefixtures("two_kinds")
def test_the_key_names_driver_and_power_limit() -> None:
    key = machine_key("GPU-c")
    assert (key.gpu, key.driver, key.power_limit_w) == ("NVIDIA A10", "570.86.10", 72.0)
    assert machine_key("").gpu == ""


def test_a_driver_that_tells_no_power_limit(two_kinds: RecordedNvml) -> None:
    two_kinds.power_limit_mw = None
    key = machine_key("GPU-c")
    assert (key.driver, key.power_limit_w) == ("570.86.10", None)


@pytest.mark.parametrize("gpus", [(), (Gpu("NVIDIA L4", "GPU-a", sliced=True),)])
def test_another_machine_cannot_tell(
    gpus: tuple[Gpu, ...], progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "installed_gpus", lambda: gpus)
    for word, code in (("exit-3", 3), ("fail", 1), ("pass", 0)):
        with (
            pytest.raises(StmdeployError, match="the baseline was measured on NVIDIA L4") as told,
            told_by(Policy(cannot_tell=word)),
        ):
            run_here(L4, progress)
        assert told.value.code == code
