"""Where the time of an artifact goes, operator by operator."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.exporter import OperatorProfiler
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.inputs import random_images
from stmdeploy.worker.jobs.job import Job, Parent, builder


class LayersJob(Job[tuple[tuple[OperatorTime, ...], ...]]):
    """The operators of so many inferences, by the runtime's own profiler."""

    kind: Literal["layers"] = "layers"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    repeats: int

    def do(self, parent: Parent) -> tuple[tuple[OperatorTime, ...], ...]:
        """The operators of every inference, in the order they ran.

        Raises:
            StmdeployError: the runtime does not tell.
        """
        from stmdeploy.plugins.registry import exporter_for_runtime

        exporter = exporter_for_runtime(self.run.runtime)
        if not isinstance(exporter, OperatorProfiler):
            raise StmdeployError(
                f"{self.run.runtime} does not tell where its time goes",
                "choose another runtime: onnxruntime, openvino, torch, tensorrt, tensorrt-rtx",
            )
        images = random_images(self.model, self.run.batch)
        return exporter.operator_times(
            self.artifact, self.run, builder(self.model), images, self.repeats
        )
