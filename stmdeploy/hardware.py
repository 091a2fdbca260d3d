"""The machine: its processor and GPUs, and the profiles of processors that are known."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stmdeploy.errors import StmdeployError, nearest
from stmdeploy.results.row import Environment
from stmdeploy.spec import available_threads

#: Packages whose versions are recorded with every row, where they are installed.
_RECORDED_PACKAGES = (
    "stmdeploy", "torch", "onnx", "onnxscript", "onnxruntime", "onnxruntime-gpu", "openvino",
    "tensorrt", "tensorrt-rtx-cu12", "numpy",
)  # fmt: skip
_KIB_PER_GIB = 1 << 20


@dataclass(frozen=True)
class GpuProfile:
    """A processor as its datasheet describes it (``profiles/*.toml``).

    Attributes:
        name: what ``--gpu`` takes.
        title: the full name.
        match: words of the name that the driver reports, any of which identifies it.
        compute_capability: such as ``8.0``.
        memory_gb, bandwidth_gb_s, fp32_tflops, fp16_tensor_tflops: datasheet figures of the
            variant in `title`, dense, without sparsity.
        source: the datasheet.
    """

    name: str
    title: str
    match: tuple[str, ...]
    compute_capability: str
    memory_gb: float
    bandwidth_gb_s: float
    fp32_tflops: float
    fp16_tensor_tflops: float
    source: str


@cache
def gpu_profiles() -> dict[str, GpuProfile]:
    """Every known GPU by the name that ``--gpu`` takes."""
    profiles = {}
    folder = resources.files("stmdeploy.profiles")
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".toml"):
            table = tomllib.loads(file.read_text("utf-8"))
            name = file.name.removesuffix(".toml")
            profiles[name] = GpuProfile(**{**table, "name": name, "match": tuple(table["match"])})
    return profiles


@dataclass(frozen=True)
class Gpu:
    """A GPU of this machine, as the driver calls it."""

    name: str
    uuid: str


def installed_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that this process may use; empty without a driver.

    Those that ``CUDA_VISIBLE_DEVICES`` leaves out belong to somebody else.
    """
    command = ["nvidia-smi", "--query-gpu=index,uuid,name", "--format=csv,noheader"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return visible_gpus(result.stdout, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(listing: str, visible: str | None) -> tuple[Gpu, ...]:
    """Those of nvidia-smi's lines (index, uuid, name) that an environment variable allows."""
    gpus = []
    allowed = None if visible is None else [word.strip() for word in visible.split(",")]
    for line in listing.splitlines():
        index, _, rest = line.partition(",")
        uuid, _, name = rest.partition(",")
        gpu = Gpu(name.strip(), uuid.strip())
        if gpu.name and (
            allowed is None
            or any(
                word == index.strip() or (word and gpu.uuid.startswith(word)) for word in allowed
            )
        ):
            gpus.append(gpu)
    return tuple(gpus)


def find_gpu(name: str) -> Gpu:
    """A GPU that must be in this machine.

    Raises:
        StmdeployError: unknown name, or no such GPU here; says what is here.
    """
    key = name.strip().lower()
    if key not in gpu_profiles():
        raise StmdeployError(f"unknown GPU {name!r}", nearest(key, gpu_profiles()))
    profile = gpu_profiles()[key]
    for gpu in installed_gpus():
        if any(_has_words(gpu.name, words) for words in profile.match):
            return gpu
    raise StmdeployError(
        f"this machine has no {profile.title}: it has {describe_machine()}",
        "run on a machine with that GPU, or leave --gpu out to measure the CPU",
    )


def _has_words(name: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", name) is not None


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
