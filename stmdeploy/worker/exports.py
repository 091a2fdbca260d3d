"""The one way to export: a model is built, counted, exported and verified in its own worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stmdeploy.errors import Failure
from stmdeploy.plugins.progress import Progress
from stmdeploy.schema.row import Prepared, PreparedArtifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.worker.client import run_job
from stmdeploy.worker.jobs.prepare import PrepareJob, failed_export
from stmdeploy.worker.process import WorkerError


def export_steps(exports: Sequence[ExportSpec]) -> int:
    """Steps that it takes to build a model, to count it, and to export and verify each."""
    return 2 + 2 * len(exports)


def export_alone(spec: ExportSpec, timeout_s: float, progress: Progress) -> Path:
    """The main file of one artifact; raises as `export_model`, or what its export failed with."""
    (made,) = export_model(spec.model, [spec], timeout_s, progress).artifacts
    if made.failure is not None or made.path is None:
        assert made.failure is not None
        raise made.failure.error()
    return made.path


def export_model(
    model: ModelSpec,
    exports: Sequence[ExportSpec],
    timeout_s: float,
    progress: Progress,
    gpu_uuid: str = "",
) -> Prepared:
    """Builds, counts and exports a model; an export that crashes its worker costs one artifact.

    Args:
        exports: what to export, all of this model.
        timeout_s: a worker that runs for longer is ended.
        gpu_uuid: the GPU that builds engines; empty for any that is visible.

    Returns:
        What the model is, and an artifact or a failure for every export, in their order.

    Raises:
        StmdeployError: the model cannot be built, or the artifacts cannot be written.
    """
    # An engine runs on the GPU that built it.
    settings = {"CUDA_VISIBLE_DEVICES": gpu_uuid} if gpu_uuid else {}

    def prepared(*some: ExportSpec) -> Prepared:
        job = PrepareJob(model=model, exports=some)
        return run_job(job, settings, timeout_s, progress)

    progress.expect(export_steps(exports))
    try:
        return prepared(*exports)
    except WorkerError:
        pass  # the worker itself died: find out which export did it, so that the others succeed
    progress.expect(2 + 4 * len(exports))
    try:
        bare = prepared()
    except WorkerError as error:
        raise Failure.of(error).error(f"{model.name} cannot be built: ") from error
    artifacts: list[PreparedArtifact] = []
    for spec in exports:
        try:
            artifacts += prepared(spec).artifacts
        except WorkerError as error:
            artifacts.append(failed_export(spec, Failure.of(error)))
    return bare.model_copy(update={"artifacts": tuple(artifacts)})
