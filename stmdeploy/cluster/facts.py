"""What a node of a cluster is, and what it can run."""

from __future__ import annotations

from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.nvml import all_gpus
from stmdeploy.measure.loadgen import why_no_loadgen
from stmdeploy.plugins.registry import exporters
from stmdeploy.schema.document import Document
from stmdeploy.schema.hardware import Environment

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
