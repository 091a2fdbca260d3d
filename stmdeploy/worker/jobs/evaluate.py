"""The accuracy of an artifact over labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from stmdeploy.errors import StmdeployError
from stmdeploy.measure.score import Score
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.document import Document
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.job import ArtifactJob, Parent

#: Unreadable images that an evaluation names at most; it counts all of them.
_NAMED_FILES = 100


class Scored(Document):
    """The counts of an evaluation; see `schema.evaluation.Evaluation`."""

    images: int
    top1: int
    top5: int
    agreed: int | None
    reference_top1: int | None
    skipped: int
    skipped_files: tuple[str, ...]
    data_sha256: str
    runtime_facts: dict[str, str]
    environment: Environment


class EvaluateJob(ArtifactJob[Scored]):
    """Runs labelled images, ``run.batch`` at a time, through an artifact, and through a reference
    in float32 if there is one; the fields are those of `EvaluationSpec`."""

    kind: Literal["evaluate"] = "evaluate"
    data: Path
    class_map: Path | None = None
    limit: int | None = None
    reference: Path | None = None
    reference_run: RunSpec | None = None

    def do(self, parent: Parent) -> Scored:
        """How many images were classified rightly.

        Raises:
            StmdeployError: as `image_folder` and `score`, or no image could be read.
        """
        from stmdeploy.backbones.images import batches_of, image_folder
        from stmdeploy.hardware.environment import environment
        from stmdeploy.measure.score import score

        def skip(path: Path, reason: str) -> None:
            skipped.append(path.relative_to(self.data).as_posix())
            parent.warn(f"skipped {path}: {reason}")

        def tell(so_far: Score) -> None:
            parent.detail(
                f"{so_far.images} of {len(data.files)} images, top-1 "
                f"{100 * so_far.top1 / so_far.images:.1f} %"
            )

        data = image_folder(self.data, self.model.head_classes, self.class_map).limited(self.limit)
        skipped: list[str] = []
        data_sha256 = data.sha256  # before any is read: a file that vanishes later is skipped
        runner = self._load(self.artifact, self.run)
        beside = None
        if self.reference and self.reference_run:
            beside = self._load(self.reference, self.reference_run)
        batches = batches_of(data, self.run.batch, self.model.image_size, self.run.threads, skip)
        counted = score(runner, beside, batches, self.run.batch, tell)
        if not counted.images:
            raise StmdeployError(
                f"{self.data} holds no image that can be read",
                "see the warnings above",
            )
        return Scored(
            **vars(counted),
            skipped=len(skipped),
            skipped_files=tuple(skipped[:_NAMED_FILES]),
            data_sha256=data_sha256,
            runtime_facts=runner.facts(),
            environment=environment(),
        )

    def _load(self, path: Path, run: RunSpec) -> Runner:
        from stmdeploy.plugins.registry import exporter_for_runtime

        return exporter_for_runtime(run.runtime).load(path, run, self.build)
