"""Where the time of an artifact goes, operator by operator."""

from __future__ import annotations

from typing import Literal

from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.exporter import OperatorProfiler
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.worker.jobs.job import ArtifactJob, Parent


class LayersJob(ArtifactJob[tuple[tuple[OperatorTime, ...], ...]]):
    """Times the operators of ``repeats`` inferences with the runtime's own profiler."""

    kind: Literal["layers"] = "layers"
    repeats: int

    def do(self, parent: Parent) -> tuple[tuple[OperatorTime, ...], ...]:
        """The operators of every inference, in the order they ran.

        Raises:
            StmdeployError: the runtime has no profiler.
        """
        exporter = self.exporter
        if not isinstance(exporter, OperatorProfiler):
            raise StmdeployError(
                f"{self.run.runtime} does not tell where its time goes",
                "choose another --runtime: onnxruntime, openvino, torch, tensorrt, tensorrt-rtx",
            )
        inputs = self.random_inputs()
        return exporter.operator_times(self.artifact, self.run, self.build, inputs, self.repeats)
