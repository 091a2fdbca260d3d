"""How much of a model an artifact keeps, over images that had no part in making it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stmdeploy.errors import StmdeployError
from stmdeploy.schema.document import Document
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.preparation import Preparation
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.job import ArtifactJob, Parent

if TYPE_CHECKING:
    from stmdeploy.plugins.runner import Array

#: Noise that no export has seen.
_SEED = 10_000


class Fidelities(Document):
    """An `Outcome` as a table."""

    outcome: dict[str, Any]


class FidelityJob(ArtifactJob[Fidelities]):
    """Runs images through an artifact and through the same model in float32.

    Attributes:
        reference, reference_run: the model in float32.
        data: photographs; None for noise.
        used: how many of the photographs, spread evenly, were used to make artifacts.
        images: how many others are run, at most.
        seed: by which they are drawn.
    """

    kind: Literal["fidelity"] = "fidelity"
    reference: Path
    reference_run: RunSpec
    data: DataSpec | None
    preparation: Preparation
    used: int
    images: int
    seed: int

    def do(self, parent: Parent) -> Fidelities:
        """What was found, image by image.

        Raises:
            StmdeployError: no such images, or not two of them are left.
        """
        import numpy as np

        from stmdeploy.measure.fidelity import outcome

        images, labels = self._images(parent)
        found = outcome(
            self._logits(self.artifact, self.run, images, parent),
            self._logits(self.reference, self.reference_run, images, parent),
            None if labels is None else np.array(labels, np.int64),
        )
        return Fidelities(outcome=found.as_table())

    def _images(self, parent: Parent) -> tuple[Array, list[int] | None]:
        """The images, and their classes if they have any."""
        import numpy as np

        from stmdeploy.backbones.images import (
            NO_LABEL,
            UNREADABLE,
            evenly,
            images_of,
            load_image,
        )
        from stmdeploy.files.reading import one_line

        if self.data is None:
            dice = np.random.default_rng((_SEED, self.seed))
            shape = (self.images, 3, *self.model.image_size)
            return dice.standard_normal(shape, dtype=np.float32), None
        used = set(evenly(self.data.folder, self.used)) if self.used else set()
        files = images_of(self.data, self.model.head_classes).files
        fresh = [one for one in files if one[0] not in used]
        read, labels = [], []
        for place in np.random.default_rng(self.seed).permutation(len(fresh)):
            path, label = fresh[place]
            try:
                read.append(load_image(path, self.model.image_size, self.preparation))
            except UNREADABLE as error:
                parent.warn(f"skipped {path}: {one_line(str(error))}")
                continue
            labels.append(label)
            if len(read) == self.images:
                break
        if len(read) < 2:
            raise StmdeployError(
                f"{self.data.folder} has too few images: {self.used} are used to make artifacts, "
                f"{len(read)} are left to test them",
                "give more images, or --calibration-images fewer",
            )
        return np.stack(read), None if NO_LABEL in labels else labels

    def _logits(self, path: Path, run: RunSpec, images: Array, parent: Parent) -> Array:
        import numpy as np

        from stmdeploy.plugins.registry import exporter_for_runtime

        runner, parts = exporter_for_runtime(run.runtime).load(path, run, self.build), []
        for start in range(0, len(images), run.batch):
            some = images[start : start + run.batch]
            missing = np.repeat(some[-1:], run.batch - len(some), axis=0)
            runner.prepare(np.concatenate((some, missing)))
            runner.run()
            parts.append(runner.outputs()[0][: len(some)])
            parent.detail(f"{start + len(some)} of {len(images)} images by {run.runtime}")
        found: Array = np.concatenate(parts)
        return found
