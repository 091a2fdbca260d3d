"""What an artifact says of images, in one view or many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.runner import Runner
from stmdeploy.schema.document import Document
from stmdeploy.schema.hardware import Environment
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.preparation import Preparation
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.views import ViewSpec
from stmdeploy.worker.jobs.job import ArtifactJob, Parent

if TYPE_CHECKING:
    from stmdeploy.backbones.batches import LabelledFile
    from stmdeploy.measure.predictions import Predictions

#: Places of images in the data: from the first to before the last.
Shard = tuple[int, int]


class Predicted(Document):
    """How predictions were made; they themselves are in the shards' files."""

    runtime_facts: dict[str, str]
    environment: Environment
    total_s: float
    waited_s: float


class PredictJob(ArtifactJob[Predicted]):
    """Runs images, ``run.batch`` at a time, through an artifact, and through a reference in float32
    if there is one. Every shard that is done becomes a file in `folder`.

    Attributes:
        data: the images; they must have the hash `data_sha256`.
        shards: each but the last holds whole batches.
        places: of all the images that there are, in the whole of which they are one shard; empty
            for a whole, which is counted from 0.
    """

    kind: Literal["predict"] = "predict"
    data: DataSpec
    data_sha256: str
    preparation: Preparation
    views: ViewSpec
    shards: tuple[Shard, ...]
    folder: Path
    places: tuple[int, ...] = ()
    reference: Path | None = None
    reference_run: RunSpec | None = None

    def do(self, parent: Parent) -> Predicted:
        """Writes the predictions.

        Raises:
            StmdeployError: as `images_of` and `predict`; the images are others by now.
        """
        from stmdeploy.backbones.batches import LabelledFile, Reading
        from stmdeploy.backbones.images import images_of
        from stmdeploy.files.writing import write_atomically
        from stmdeploy.hardware.environment import environment
        from stmdeploy.measure.predictions import Timing, predict

        def skip(file: LabelledFile, reason: str) -> None:
            skipped.append(file.place)
            parent.warn(f"skipped {file.path}: {reason}")

        data = images_of(self.data, self.model.head_classes)
        if data.sha256 != self.data_sha256:
            raise StmdeployError(f"{self.data.folder} has changed meanwhile", "start again")
        whole = [place for shard in self.shards for place in range(*shard)]
        files = [LabelledFile(*data.files[place], place) for place in whole if not self.places]
        files += [
            LabelledFile(*file, place) for file, place in zip(data.files, self.places, strict=False)
        ]
        runner, beside = self._load(self.artifact, self.run), None
        if self.reference and self.reference_run:
            beside = self._load(self.reference, self.reference_run)
        reading = Reading(
            self.run.batch, self.model.image_size, self.run.threads, self.preparation, self.views
        )
        skipped: list[int] = []
        timing, views = Timing(), len(self.views.views)
        told = _Told(parent, len(data.files), len(data.files) - len(files))
        batches = reading.batches(files, skip)
        parts = predict(runner, beside, batches, self.run.batch, views, timing, told.batch)
        for (begin, end), found in _by_shard(self.shards, map(told.part, parts), skipped, views):
            write_atomically(self.folder / shard_name((begin, end)), found.to_bytes())
        return Predicted(
            runtime_facts=runner.facts(),
            environment=environment(),
            total_s=timing.total_s,
            waited_s=timing.waited_s,
        )

    def _load(self, path: Path, run: RunSpec) -> Runner:
        from stmdeploy.plugins.registry import exporter_for_runtime

        return exporter_for_runtime(run.runtime).load(path, run, self.build)


def shard_name(shard: Shard) -> str:
    """The name of a shard's file."""
    return f"{shard[0]:09}-{shard[1]:09}.npz"


class _Told:
    """Tells the parent how far it is, and that it is alive."""

    def __init__(self, parent: Parent, images: int, done: int) -> None:
        self._parent, self._images, self._done = parent, images, done
        self._batches = self._scored = self._right = 0

    def batch(self) -> None:
        """Another batch is through."""
        self._batches += 1
        top1 = f", top-1 {100 * self._right / self._scored:.1f} %" if self._right else ""
        self._parent.detail(f"{self._done} of {self._images} images, {self._batches} batches{top1}")

    def part(self, found: Predictions) -> Predictions:
        """Some images are through, in all views."""
        self._done += len(found)
        self._scored += len(found)
        self._right += int(found.right[0].sum())
        return found


def _by_shard(
    shards: Sequence[Shard], parts: Iterable[Predictions], skipped: list[int], views: int
) -> Iterator[tuple[Shard, Predictions]]:
    """The predictions of every shard, as soon as one of the next begins, or all are through.

    Args:
        parts: in the order of the shards.
        skipped: places that could not be read so far.
    """
    import numpy as np

    from stmdeploy.measure.predictions import merged

    held: list[Predictions] = []
    left = list(shards)

    def whole() -> tuple[Shard, Predictions]:
        shard = left.pop(0)
        mine = [place for place in skipped if shard[0] <= place < shard[1]]
        found = merged(held, views)
        held.clear()
        return shard, replace(found, skipped=np.array(sorted(mine), np.int64))

    for part in parts:
        while not left[0][0] <= part.places[0] < left[0][1]:
            yield whole()
        held.append(part)
    while left:
        yield whole()
