"""A file from outside, read in a process of its own: what is damaged may end it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.schema.outside import FileFacts
from stmdeploy.spec.model import InputSpec
from stmdeploy.worker.jobs.job import Job, Parent


class LookJob(Job[FileFacts]):
    """Looks what a file is."""

    kind: Literal["look"] = "look"
    path: Path
    inputs: tuple[InputSpec, ...]

    def do(self, parent: Parent) -> FileFacts:
        """What it is.

        Raises:
            StmdeployError: as `facts_of`.
        """
        from stmdeploy.artifacts.outside import facts_of

        parent.step(f"reading {self.path.name}")
        return facts_of(self.path, self.inputs)
