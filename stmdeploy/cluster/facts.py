"""What a node of a cluster is, and what it can run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.gpus import find_gpu
from stmdeploy.hardware.nvml import all_gpus
from stmdeploy.measure.loadgen import why_no_loadgen
from stmdeploy.plugins.registry import exporter_of, exporters
from stmdeploy.schema.document import Document
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.run import RunSpec

#: Name of LoadGen among the runtimes of a node.
LOADGEN = "loadgen"


class NodeGpu(Document):
    """A GPU of a node: its name, as the driver calls it, and whether MIG divides it."""

    name: str
    sliced: bool


class NodeFacts(Document):
    """What a node is; ``unavailable`` says why it cannot run a runtime, or LoadGen."""

    environment: Environment
    gpus: tuple[NodeGpu, ...]
    unavailable: dict[str, str]


def run_here(run: RunSpec, profile: str, versions: Mapping[str, str]) -> RunSpec:
    """A run as this node does it: with its GPU filled in.

    Args:
        profile: hardware profile of the GPU that must do it; empty for any.
        versions: versions that packages must have, by name.

    Raises:
        StmdeployError: as `find_gpu`; another version of a package; a runtime is not installed.
    """
    mine = environment().versions
    for package, wanted in versions.items():
        if mine.get(package, wanted) != wanted:
            raise StmdeployError(f"it has {package} {mine[package]}, the others {wanted}")
    if reason := exporter_of(run.runtime).unavailable():
        raise StmdeployError(f"it cannot run {run.runtime}: {reason}")
    if run.device == "cpu":
        return run
    gpu, _ = find_gpu(profile)
    return replace(run, gpu_uuid=gpu.uuid, gpu_name=gpu.name)


def facts_here() -> NodeFacts:
    """What this node is and can run; all its GPUs are listed, also those that Ray hides."""
    unavailable = {
        runtime: reason
        for exporter in exporters().values()
        if (reason := exporter.unavailable())
        for runtime in exporter.target.runtimes
    }
    if hint := why_no_loadgen():
        unavailable[LOADGEN] = hint
    return NodeFacts(
        environment=environment(),
        gpus=tuple(NodeGpu(name=gpu.name, sliced=gpu.sliced) for gpu in all_gpus()),
        unavailable=unavailable,
    )
