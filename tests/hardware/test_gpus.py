"""The machine, and GPUs by name."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.hardware import cuda
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.gpus import find_gpu, installed_gpus, visible_gpus
from stmdeploy.hardware.nvml import Gpu
from stmdeploy.hardware.profiles import profiles
from tests.fakes import RecordedNvml


def test_environment_describes_this_machine() -> None:
    machine = environment()
    assert machine.processor
    assert machine.cores == os.cpu_count()
    assert machine.memory_gib > 0.5
    assert machine.versions["torch"]
    assert machine.versions["stmdeploy"]


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RecordedNvml]:
    """Makes a machine whose NVML answers so."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def install(*gpus: tuple[str | bytes, str, int | None]) -> RecordedNvml:
        library = RecordedNvml(*gpus)
        monkeypatch.setitem(sys.modules, "pynvml", library)
        return library

    return install


Install = Callable[..., RecordedNvml]


def test_unknown_gpu() -> None:
    with pytest.raises(StmdeployError, match="unknown GPU 'a1000'; did you mean 'a100'"):
        find_gpu("a1000")


def test_a_gpu_that_is_not_here(nvml: Install) -> None:
    library = nvml(("NVIDIA L4", "GPU-1", None))
    with pytest.raises(
        StmdeployError, match=r"has no NVIDIA A100 40GB SXM or NVIDIA A100 80GB SXM.*and NVIDIA L4"
    ):
        find_gpu("a100")
    assert library.open == 0, "what is opened is closed again"


@pytest.mark.parametrize(
    ("reported", "name", "profile"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100", "a100-80gb"),
        ("NVIDIA A100-PCIE-40GB", "A100", "a100-40gb"),
        ("NVIDIA A10", "a10", "a10"),
        ("Tesla T4", "t4", "t4"),
        ("NVIDIA H100 80GB HBM3", "h100", "h100"),
        ("NVIDIA H200", "h200", "h200"),
        ("NVIDIA B200", "b200", "b200"),
        ("NVIDIA GeForce RTX 4090", "rtx4090", "rtx-4090"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090", "rtx-5090"),
        ("Tesla V100-SXM2-32GB", "v100", "v100"),
        ("NVIDIA L4", "l4", "l4"),
        ("NVIDIA L40S", "l40s", "l40s"),
        (b"NVIDIA L4", "l4", "l4"),
    ],
)
def test_what_drivers_report(nvml: Install, reported: str | bytes, name: str, profile: str) -> None:
    nvml(("Quadro P400", "GPU-0", None), (reported, "GPU-1", 0))
    gpu, found = find_gpu(name)
    assert found is not None
    assert (gpu.uuid, found.name) == ("GPU-1", profile)
    for other in profiles().keys() - {profile}:
        with pytest.raises(StmdeployError, match="this machine has no"):
            find_gpu(other)


def test_two_kinds_of_a_family_are_asked_about(nvml: Install) -> None:
    nvml(("NVIDIA A100-SXM4-80GB", "GPU-0", 0), ("NVIDIA A100-PCIE-40GB", "GPU-1", 0))
    with pytest.raises(StmdeployError, match="a100 is a100-80gb and a100-40gb here; say which"):
        find_gpu("a100")
    assert find_gpu("a100-40gb")[0].uuid == "GPU-1"


def test_the_first_of_several_equal_ones(nvml: Install) -> None:
    nvml(("NVIDIA L4", "GPU-0", None), ("NVIDIA L4", "GPU-1", None))
    assert find_gpu("l4")[0].uuid == "GPU-0"


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA H100 PCIe", "h100"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx 6000"),
    ],
)
def test_gpus_without_a_profile(nvml: Install, reported: str, name: str) -> None:
    """They are measured by the driver's name, without a bound; others are not taken for them."""
    nvml(("NVIDIA L4", "GPU-0", None), (reported, "GPU-1", None))
    gpu, profile = find_gpu(name)
    assert (gpu.uuid, profile) == ("GPU-1", None)
    with pytest.raises(StmdeployError, match="this machine has no NVIDIA A10: "):
        find_gpu("a10")


def test_jetson_as_its_driver_names_it(nvml: Install) -> None:
    nvml(("Orin (nvgpu)", "GPU-0", None))
    assert find_gpu("jetson-orin")[0].uuid == "GPU-0"


def test_indices_are_those_of_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA counts the fastest first; NVML by the bus. Where the GPUs are alike, both agree."""
    slow, fast = Gpu("NVIDIA T4", "GPU-a"), Gpu("NVIDIA H200", "GPU-b")
    monkeypatch.setattr(cuda, "visible_uuids", lambda: ("GPU-b",))
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    assert visible_gpus([slow, fast], "0") == (fast,)
    assert visible_gpus([slow, fast], "GPU-a") == (slow,)
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert visible_gpus([slow, fast], "0") == (slow,)
    monkeypatch.delenv("CUDA_DEVICE_ORDER")
    assert visible_gpus([slow, slow], "0") == (slow,)


def test_a_gpu_that_mig_divides(nvml: Install) -> None:
    nvml(("NVIDIA H100 80GB HBM3", "GPU-0", 1))
    with pytest.raises(StmdeployError, match="is divided by MIG"):
        find_gpu("h100")
    nvml(("NVIDIA H100 80GB HBM3", "GPU-0", 1), ("NVIDIA H100 80GB HBM3", "GPU-1", 0))
    assert find_gpu("h100")[0].uuid == "GPU-1"


def test_a_gpu_that_somebody_has_for_himself(nvml: Install) -> None:
    library = nvml(("NVIDIA L4", "GPU-0", None))
    library.users = (4711,)
    assert find_gpu("l4")[0].users == 1, "shared: measured, and said to be unsteady"
    library.mode = library.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS
    with pytest.raises(StmdeployError, match="exclusive-process mode, and another process has it"):
        find_gpu("l4")
    library.users = ()
    assert find_gpu("l4")[0].mode == "exclusive process"
    library.mode = library.NVML_COMPUTEMODE_PROHIBITED
    with pytest.raises(StmdeployError, match="compute mode prohibited"):
        find_gpu("l4")


def test_no_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert installed_gpus() == ()
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(StmdeployError, match=r"NVML cannot be asked: pip install 'stmdeploy\[gpu"):
        find_gpu("l4")


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
    gpus = [Gpu("NVIDIA A100-SXM4-80GB", "GPU-aa11"), Gpu("NVIDIA L4", "GPU-bb22")]
    assert [gpu.uuid for gpu in visible_gpus(gpus, visible)] == uuids
