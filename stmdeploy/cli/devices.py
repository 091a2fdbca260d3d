"""Where rows run: on this machine's processor or GPU, or on kinds of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.gpus import find_gpu
from stmdeploy.hardware.profiles import CpuProfile, Profile, cpu_profile, find_profiles

#: The compute capability that TensorRT begins with.
_OLDEST_FOR_TENSORRT = 7.5
#: What is measured on a GPU that has no profile.
_USUAL_BATCHES, _USUAL_PRECISIONS = (1, 8, 32), ("fp16", "fp32")


@dataclass(frozen=True)
class Devices:
    """Where rows run, and the batches, precisions and threads measured there by default.

    ``places`` are fields of `RunSpec`; ``threads`` is empty for all of the processor's; ``too_old``
    names a GPU that TensorRT no longer knows.
    """

    places: tuple[dict[str, str], ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    threads: tuple[int, ...] = ()
    too_old: str = ""


def devices_here(gpus: Sequence[str], nodes: Sequence[str]) -> Devices:
    """This machine's processor, or its GPU of that name.

    Raises:
        StmdeployError: as `find_gpu`; or several GPUs, or nodes, which need a cluster.
    """
    if nodes or len(gpus) > 1:
        flag = f"--nodes {','.join(nodes)}" if nodes else f"--gpu {','.join(gpus)}"
        raise StmdeployError(f"{flag} needs a cluster", "add --cluster ADDRESS")
    if not gpus:
        profile = cpu_profile()
        return Devices(({},), profile.batches, profile.precisions)
    gpu, found = find_gpu(gpus[0])
    place = {"device": "cuda", "gpu_uuid": gpu.uuid, "gpu_name": gpu.name}
    if found is None:
        return Devices((place,), _USUAL_BATCHES, _USUAL_PRECISIONS)
    older = float(found.compute_capability) < _OLDEST_FOR_TENSORRT
    too_old = f"{found.title} has {found.compute_capability}" if older else ""
    return Devices((place,), found.batches, found.precisions, too_old=too_old)


def devices_of_cluster(gpus: Sequence[str], nodes: Sequence[str], has_threads: bool) -> Devices:
    """GPUs of nodes by their names, and processors of nodes by the nodes' accelerator types.

    Rows on GPUs get one CPU thread, whichever node drives them. Several kinds are measured at
    every batch of any of them, in the precisions that all of them have.

    Raises:
        StmdeployError: no kind, an unknown one, or processors without ``--threads``: their
            number is not known here.
    """
    if not gpus and not nodes:
        raise StmdeployError(
            "--cluster needs to know which nodes",
            "give --gpu, as in --gpu a100,h100, or --nodes ACCELERATOR_TYPE for processors",
        )
    if nodes and not has_threads:
        raise StmdeployError(
            "--nodes needs --threads: how many those processors have is not known here",
            "add --threads, as in --threads 8",
        )
    profiles = [profile for name in gpus for profile in find_profiles(name)]
    known: list[Profile | CpuProfile] = [*profiles, *([cpu_profile()] if nodes else [])]
    batches = sorted({batch for profile in known for batch in profile.batches})
    common = [p for p in known[0].precisions if all(p in other.precisions for other in known)]
    places = [{"device": "cuda", "node": name.strip().lower()} for name in gpus]
    places += [{"device": "cpu", "node": name} for name in nodes]
    return Devices(tuple(places), tuple(batches), tuple(common) or ("fp32",), (1,))
