"""The messages between a driver and the nodes of its cluster."""

from __future__ import annotations

from pydantic import Field

from stmdeploy.errors import Failure
from stmdeploy.schema.document import Document, PlainPath
from stmdeploy.schema.hardware import Environment, Peaks
from stmdeploy.schema.manifest import FileInfo
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import SamplingSpec
from stmdeploy.spec.sweep import RowSpec


class NodeGpu(Document):
    """A GPU of a node: its name, as the driver calls it, and whether MIG divides it."""

    name: str
    sliced: bool


class NodeFacts(Document):
    """What a node is; ``unavailable`` says why it cannot run a runtime, or LoadGen."""

    environment: Environment
    gpus: tuple[NodeGpu, ...]
    unavailable: dict[str, str]


class Shipped(Document):
    """An artifact sent to a node: the text of its manifest, and the files listed there."""

    manifest: str
    files: tuple[FileInfo, ...]


class RowTask(Document):
    """A row for a node to measure, with all its processes.

    Attributes:
        is_source: whether the artifact is a source that the node builds an engine from.
        profile: hardware profile of the GPU that must measure it; empty for any.
        versions: versions that packages of the node must have, by name.
    """

    row: RowSpec
    artifact: Shipped
    is_source: bool
    engine: EngineSpec
    sampling: SamplingSpec
    row_timeout_s: float
    export_timeout_s: float
    memory_limit_mib: int | None
    explain: bool
    profile: str
    versions: dict[str, str]


class RowAnswer(Document):
    """The result of a task.

    Attributes:
        node: name and id of the node.
        device: name of the CPU or GPU that measured.
        built: the engine that the node built; None without one.
        logs: LoadGen's logs, by their paths.
        misplaced: why this node cannot take the row, which another one then gets; usually empty.
    """

    node_id: str
    node: str
    started_utc: str
    ended_utc: str
    environment: Environment
    device: str = ""
    processes: tuple[ProcessRun, ...] = ()
    built: PreparedArtifact | None = None
    peaks: Peaks | None = None
    parts_ms: dict[str, float] | None = None
    logs: dict[PlainPath, str] = Field(default_factory=dict)
    failure: Failure | None = None
    misplaced: str = ""
