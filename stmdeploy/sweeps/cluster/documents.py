"""The messages between a driver and the nodes of its cluster."""

from __future__ import annotations

from pydantic import Field

from stmdeploy.cluster.shipping import Shipped
from stmdeploy.errors import Failure
from stmdeploy.schema.document import Document, PlainPath
from stmdeploy.schema.hardware import Environment, Peaks
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import SamplingSpec
from stmdeploy.spec.sweep import RowSpec
from stmdeploy.sweeps.blocks import Memory


class RowTask(Document):
    """A row for a node to measure.

    Attributes:
        is_source: whether the artifact is a source that the node builds an engine from.
    """

    row: RowSpec
    artifact: Shipped
    is_source: bool
    memory: Memory


class BlockTask(Document):
    """Rows for a node to measure by turns, with all their processes.

    Attributes:
        reference: place among the rows of the one that rows of other blocks are compared with, too;
            None if there is none.
        profile: hardware profile of the GPU that must measure them; empty for any.
        versions: versions that packages of the node must have, by name.
    """

    rows: tuple[RowTask, ...] = Field(min_length=1)
    reference: int | None
    engine: EngineSpec
    sampling: SamplingSpec
    row_timeout_s: float
    export_timeout_s: float
    memory_limit_mib: int | None
    explain: bool
    profile: str
    versions: dict[str, str]


class RowAnswer(Document):
    """What a node measured of a row.

    Attributes:
        device: name of the CPU or GPU that measured.
        built: the engine that the node built; None without one.
        logs: LoadGen's logs, by their paths.
    """

    device: str = ""
    processes: tuple[ProcessRun, ...] = ()
    built: PreparedArtifact | None = None
    peaks: Peaks | None = None
    parts_ms: dict[str, float] | None = None
    logs: dict[PlainPath, str] = Field(default_factory=dict)
    failure: Failure | None = None


class BlockAnswer(Document):
    """The result of a task.

    Attributes:
        node: name and id of the node.
        rows: in the order of the task.
        misplaced: why this node cannot take the rows, which another one then gets; usually empty.
    """

    node_id: str
    node: str
    started_utc: str
    ended_utc: str
    environment: Environment
    rows: tuple[RowAnswer, ...] = ()
    misplaced: str = ""
