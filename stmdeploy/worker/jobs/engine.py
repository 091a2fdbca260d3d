"""An engine, built from a source on the machine that runs it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.schema.row import PreparedArtifact
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.job import Job, Parent
from stmdeploy.worker.jobs.prepare import as_prepared


class EngineJob(Job[PreparedArtifact]):
    """Builds the engine of a source for a run's device, unless ``folder`` of engines has it."""

    kind: Literal["engine"] = "engine"
    source: Path
    run: RunSpec
    engine: EngineSpec
    folder: Path

    def do(self, parent: Parent) -> PreparedArtifact:
        """The engine; raises as `built_engine`."""
        from stmdeploy.artifacts.engine import built_engine

        return as_prepared(built_engine(self.source, self.run, self.engine, self.folder, parent))
