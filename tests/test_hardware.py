"""The machine, and GPUs by name."""

from __future__ import annotations

import os

import pytest

from stmdeploy import StmdeployError, hardware
from stmdeploy.hardware import Gpu, visible_gpus


def test_environment_describes_this_machine() -> None:
    machine = hardware.environment()
    assert machine.processor
    assert machine.cores == os.cpu_count()
    assert machine.memory_gib > 0.5
    assert machine.versions["torch"]
    assert machine.versions["stmdeploy"]


def test_every_profile_is_complete() -> None:
    profiles = hardware.gpu_profiles()
    assert {"a100", "h100", "l4", "t4"} <= profiles.keys()
    for profile in profiles.values():
        assert profile.match
        assert profile.source
        assert profile.fp16_tensor_tflops > profile.fp32_tflops
        major, _, minor = profile.compute_capability.partition(".")
        assert major.isdecimal()
        assert minor.isdecimal()


def test_unknown_gpu() -> None:
    with pytest.raises(StmdeployError, match="unknown GPU 'a1000'; did you mean 'a100'"):
        hardware.find_gpu("a1000")


def test_a_gpu_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "installed_gpus", lambda: (Gpu("NVIDIA L4", "GPU-1"),))
    with pytest.raises(StmdeployError, match=r"has no NVIDIA A100.*it has .* and NVIDIA L4"):
        hardware.find_gpu("a100")


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA A10", "a10"),
        ("Tesla T4", "t4"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("Tesla V100-SXM2-32GB", "v100"),
        ("NVIDIA L4", "l4"),
    ],
)
def test_what_drivers_report(monkeypatch: pytest.MonkeyPatch, reported: str, name: str) -> None:
    mine = Gpu(reported, "GPU-1")
    monkeypatch.setattr(hardware, "installed_gpus", lambda: (Gpu("Quadro", "GPU-0"), mine))
    assert hardware.find_gpu(name.upper()) == mine
    for other in hardware.gpu_profiles().keys() - {name}:
        with pytest.raises(StmdeployError, match="this machine has no"):
            hardware.find_gpu(other)


@pytest.mark.parametrize(
    ("visible", "uuids"),
    [
        (None, ["GPU-aa11", "GPU-bb22"]),
        ("1", ["GPU-bb22"]),
        ("GPU-aa", ["GPU-aa11"]),
        ("", []),
        ("-1", []),
    ],
)
def test_gpus_of_other_jobs_are_left_alone(visible: str | None, uuids: list[str]) -> None:
    listing = "0, GPU-aa11, NVIDIA A100-SXM4-80GB\n1, GPU-bb22, NVIDIA L4\n\n"
    assert [gpu.uuid for gpu in visible_gpus(listing, visible)] == uuids
