"""What rows run on: this machine's processor or GPU, or kinds of a cluster's nodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.gpus import find_gpu
from stmdeploy.hardware.profiles import CpuProfile, Profile, cpu_profile, find_profiles


@dataclass(frozen=True)
class Devices:
    """Where rows run, and what is measured there where nothing else is asked for.

    ``places`` are fields of `RunSpec`; ``threads`` is empty for all that there are.
    """

    places: tuple[dict[str, str], ...]
    batches: tuple[int, ...]
    precisions: tuple[str, ...]
    threads: tuple[int, ...] = ()


def devices_here(gpus: Sequence[str], nodes: Sequence[str], _: bool = False) -> Devices:
    """This machine's processor, or its GPU of a name.

    Raises:
        StmdeployError: as `find_gpu`; several kinds, which no one machine is measured as.
    """
    if nodes or len(gpus) > 1:
        flag = f"--nodes {','.join(nodes)}" if nodes else f"--gpu {','.join(gpus)}"
        raise StmdeployError(f"{flag} is of several machines", "give --cluster ADDRESS too")
    if not gpus:
        profile = cpu_profile()
        return Devices(({},), profile.batches, profile.precisions)
    gpu, found = find_gpu(gpus[0])
    place = {"device": "cuda", "gpu_uuid": gpu.uuid, "gpu_name": gpu.name}
    return Devices((place,), found.batches, found.precisions)


def devices_of_cluster(gpus: Sequence[str], nodes: Sequence[str], has_threads: bool) -> Devices:
    """GPUs of nodes by their names, and processors of nodes by the nodes' accelerator types.

    GPUs get one thread of the processor, the same whatever machine drives. Of several kinds the
    batches are those of all, the precisions those that all have.

    Raises:
        StmdeployError: no kind, an unknown one, or processors without ``--threads``: nobody
            knows here how many those have.
    """
    if not gpus and not nodes:
        raise StmdeployError(
            "--cluster needs to know which nodes",
            "give --gpu a100,h100, or --nodes ACCELERATOR_TYPE for their processors",
        )
    if nodes and not has_threads:
        raise StmdeployError(
            "--nodes needs --threads: nobody knows here how many those processors have",
            "give --threads",
        )
    profiles = [profile for name in gpus for profile in find_profiles(name)]
    known: list[Profile | CpuProfile] = [*profiles, *([cpu_profile()] if nodes else [])]
    batches = sorted({batch for profile in known for batch in profile.batches})
    common = [p for p in known[0].precisions if all(p in other.precisions for other in known)]
    places = [{"device": "cuda", "node": name.strip().lower()} for name in gpus]
    places += [{"device": "cpu", "node": name} for name in nodes]
    return Devices(tuple(places), tuple(batches), tuple(common) or ("fp32",), (1,))
