"""The GPUs of this machine, and the one that ``--gpu`` means."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.machine import available_threads, processor_name
from stmdeploy.hardware.nvml import EXCLUSIVE, PROHIBITED, Gpu, all_gpus, binding
from stmdeploy.hardware.profiles import Profile, find_profiles, profile_of


def installed_gpus() -> tuple[Gpu, ...]:
    """The NVIDIA GPUs that ``CUDA_VISIBLE_DEVICES`` lets this process use; empty without a driver
    or NVML."""
    return visible_gpus(all_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible_gpus(gpus: Sequence[Gpu], visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names, by index or by the beginning of a UUID.

    NVML counts in the order of the bus; CUDA counts the fastest first, unless CUDA_DEVICE_ORDER is
    PCI_BUS_ID. So where indices are given and the GPUs differ, CUDA itself is asked for UUIDs.
    """
    if visible is None:
        return tuple(gpus)
    words = [word.strip() for word in visible.split(",")]
    by_index = any(word.isdecimal() for word in words)
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if by_index and not by_bus and len({gpu.name for gpu in gpus}) > 1:
        from stmdeploy.hardware.cuda import visible_uuids

        if uuids := visible_uuids():
            return tuple(gpu for uuid in uuids for gpu in gpus if gpu.uuid == uuid)
    return tuple(
        gpu
        for index, gpu in enumerate(gpus)
        if any(word == str(index) or (word and gpu.uuid.startswith(word)) for word in words)
    )


def find_gpu(name: str) -> tuple[Gpu, Profile | None]:
    """Finds a GPU of this machine, and its profile, by the name of the profile or of a family; or
    one without a profile, such as an H100 PCIe, by words of the driver's name. Of several, one that
    nobody uses comes first.

    Raises:
        StmdeployError: the name is unknown; there is no such GPU here, or there are two kinds of
            the family; or the GPU is divided by MIG, prohibited, or held in exclusive mode.
    """
    here: list[tuple[Gpu, Profile | None]]
    try:
        wanted = find_profiles(name)
    except StmdeployError:
        here = [(gpu, None) for gpu in installed_gpus() if _is_called(gpu, name)]
        if not here:
            raise
        wanted = ()
    else:
        here = [
            (gpu, profile)
            for gpu in installed_gpus()
            for profile in wanted
            if profile.fits(gpu.name)
        ] or [(gpu, None) for gpu in installed_gpus() if _is_called(gpu, name)]
    if not here:
        titles = " or ".join(profile.title for profile in wanted)
        raise StmdeployError(
            f"this machine has no {titles}: it has {describe_machine()}{why_no_gpus()}",
            "run on a machine with that GPU, or leave --gpu out to measure the CPU",
        )
    kinds = list(dict.fromkeys(profile.name if profile else gpu.name for gpu, profile in here))
    if len(kinds) > 1:
        raise StmdeployError(
            f"--gpu {name} is {' and '.join(kinds)} here", f"say which, as in --gpu {kinds[0]}"
        )
    usable = [(gpu, profile) for gpu, profile in here if not _why_not(gpu)]
    if not usable:
        raise StmdeployError(
            f"{here[0][0].name} {_why_not(here[0][0])}",
            "free it: see `nvidia-smi -q -d COMPUTE` and `nvidia-smi mig`",
        )
    return min(usable, key=lambda one: one[0].users)


def _is_called(gpu: Gpu, name: str) -> bool:
    """Whether a GPU that has no profile has all words of a name in the driver's name of it."""
    words = name.lower().replace("-", " ").split()
    own = gpu.name.lower().replace("-", " ").split()
    return profile_of(gpu.name) is None and bool(words) and set(words) <= set(own)


def _why_not(gpu: Gpu) -> str:
    """Why a GPU cannot be measured as a whole one; empty if it can."""
    if gpu.sliced:
        return "is divided by MIG, but its profile describes a whole GPU"
    if gpu.mode == PROHIBITED:
        return "is in compute mode prohibited"
    if gpu.mode == EXCLUSIVE and gpu.users:
        return "is in exclusive-process mode, and another process has it"
    return ""


def why_no_gpus() -> str:
    """What to install if there is a driver but no Python binding to NVML; else empty."""
    if binding() is None and shutil.which("nvidia-smi"):
        return " (NVML cannot be asked: pip install 'stmdeploy[gpu]')"
    return ""


def describe_machine() -> str:
    """Processor and GPUs in a few words."""
    gpus = ", ".join(gpu.name for gpu in installed_gpus()) or "no NVIDIA GPU"
    return f"{processor_name()} ({available_threads()} threads) and {gpus}"
