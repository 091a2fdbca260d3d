"""The machine that a check runs on, with GPUs that are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.hardware import Gpu
from stmdeploy.regression import machine
from stmdeploy.regression.machine import machine_key, run_here
from stmdeploy.regression.policy import Policy, told_by
from stmdeploy.spec import RunSpec
from tests.fakes import RecordedProgress

L4 = RunSpec("onnxruntime", 1, 2, "cuda", "GPU-old", "NVIDIA L4")


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which answers as the real one does, and the GPUs beside it."""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '570.86.10, 72.00'\n")
    names = {"GPU-a": "NVIDIA L4", "GPU-b": "NVIDIA L4", "GPU-c": "NVIDIA A10"}
    gpus = tuple(Gpu(name, uuid) for uuid, name in names.items())
    monkeypatch.setattr(machine, "installed_gpus", lambda: gpus)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return program


@pytest.mark.usefixtures("nvidia_smi")
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


@pytest.mark.usefixtures("nvidia_smi")
def test_the_key_names_driver_and_power_limit() -> None:
    key = machine_key("GPU-c")
    assert (key.gpu, key.driver, key.power_limit_w) == ("NVIDIA A10", "570.86.10", 72.0)
    assert machine_key("").gpu == ""


def test_a_driver_that_tells_no_power_limit(nvidia_smi: Path) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho '570.86.10, [N/A]'\n")
    key = machine_key("GPU-c")
    assert (key.driver, key.power_limit_w) == ("570.86.10", None)
    nvidia_smi.write_text("#!/bin/sh\nexit 9\n")
    assert machine_key("GPU-c").driver == ""


@pytest.mark.parametrize("gpus", [(), (Gpu("NVIDIA L4", "GPU-a", sliced=True),)])
def test_another_machine_cannot_tell(
    gpus: tuple[Gpu, ...], progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "installed_gpus", lambda: gpus)
    for word, code in (("exit-3", 3), ("fail", 1), ("pass", 0)):
        with (
            pytest.raises(StmdeployError, match="the baseline is of NVIDIA L4") as told,
            told_by(Policy(cannot_tell=word)),
        ):
            run_here(L4, progress)
        assert told.value.code == code
