"""Which rows are alive at once: as many as fit into memory, and always the reference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.hardware.machine import memory_available_mib
from stmdeploy.hardware.nvml import memory_free_mib
from stmdeploy.spec.run import RunSpec

#: Rows that are alive at once, at most: every one holds a process.
_MOST_ALIVE = 24
#: Share of the free memory that all of them may take.
_MEMORY_SHARE = 0.6
#: Estimated memory of a process: this on the host and on a GPU, so many times the size of its
#: artifact, and so many bytes for every element that products write; runtimes use most of them
#: again and again.
_PROCESS_MIB, _GPU_PROCESS_MIB, _ARTIFACT_TIMES, _BYTES_PER_ACTIVATION = 200.0, 800.0, 4.0, 8
#: The host's memory, where a GPU's has its UUID.
HOST = ""


@dataclass(frozen=True)
class Memory:
    """What a process takes in MiB, estimated: of the host, and of the GPU that it runs on."""

    host_mib: float
    gpu_mib: float = 0.0

    def by_place(self, gpu_uuid: str) -> dict[str, float]:
        """The same by `HOST` and the UUID of its GPU, if it has one."""
        return {HOST: self.host_mib, **({gpu_uuid: self.gpu_mib} if gpu_uuid else {})}


def estimated(run: RunSpec, artifact_mib: float, activations: int) -> Memory:
    """How much memory a process takes.

    Args:
        artifact_mib: size of its artifact.
        activations: elements that products write for one image.
    """
    written_mib = _BYTES_PER_ACTIVATION * activations * run.batch / BYTES_PER_MIB
    held_mib = _ARTIFACT_TIMES * artifact_mib
    if run.device == "cpu":
        return Memory(_PROCESS_MIB + held_mib + written_mib)
    host_mib = _PROCESS_MIB + _GPU_PROCESS_MIB + held_mib
    return Memory(host_mib, _GPU_PROCESS_MIB + held_mib + written_mib)


def free_memory(gpu_uuids: Iterable[str]) -> dict[str, float]:
    """MiB that are free, by `HOST` and the UUIDs of GPUs; of those that do not tell nothing."""
    told = {uuid: memory_free_mib(uuid) for uuid in set(gpu_uuids) - {HOST}}
    known = {uuid: free for uuid, free in told.items() if free is not None}
    return {HOST: memory_available_mib(), **known}


def blocks(
    rows: Sequence[int],
    reference: int | None,
    memory_mib: Mapping[int, Mapping[str, float]],
    free_mib: Mapping[str, float],
) -> list[list[int]]:
    """Cuts rows into blocks that fit into memory; every block has the reference in it.

    Args:
        rows: what is to be measured.
        reference: the row that all others are compared with, measured or not; None for none.
        memory_mib: of every row, estimated, by place as `free_mib`.
        free_mib: what is free, by place.

    Returns:
        Blocks of at least one of `rows` each.
    """
    shared = [] if reference is None else [reference]
    others = [row for row in rows if row != reference]
    found: list[list[int]] = []
    for row in others:
        block = found[-1] if found else None
        if (
            block is None
            or len(block) >= _MOST_ALIVE
            or not _fit([memory_mib[one] for one in (*block, row)], free_mib)
        ):
            found.append([*shared, row])
        else:
            block.append(row)
    return found or [[row] for row in rows]


def _fit(needed_mib: Sequence[Mapping[str, float]], free_mib: Mapping[str, float]) -> bool:
    return all(
        sum(one.get(place, 0.0) for one in needed_mib) <= _MEMORY_SHARE * free
        for place, free in free_mib.items()
    )
