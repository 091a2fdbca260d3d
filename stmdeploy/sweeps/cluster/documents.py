"""What a driver and the nodes of its cluster tell each other."""

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
    """A GPU of a node, as the driver calls it."""

    name: str
    sliced: bool


class NodeFacts(Document):
    """What a node says of itself; ``unavailable`` holds the reasons by runtime, LoadGen's too."""

    environment: Environment
    gpus: tuple[NodeGpu, ...]
    unavailable: dict[str, str]


class Shipped(Document):
    """An artifact on its way: its manifest, as it is written, and the files it names."""

    manifest: str
    files: tuple[FileInfo, ...]


class RowTask(Document):
    """A row to measure on a node, whole: all its processes.

    ``profile`` is that of the GPU it must be measured on, ``versions`` the node's packages by
    name; empty where they may be any.
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
    """What came of a task.

    ``node`` is the node's name and id; ``device`` the processor or GPU that measured. ``built``
    is the engine that was made there. ``misplaced`` says why that node cannot take the row, which
    is then nobody's failure. ``logs`` are LoadGen's, by name.
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
