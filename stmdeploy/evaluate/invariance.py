"""The invariance of artifacts to what a classifier should not mind, measured and stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.evaluate.predicting import (
    Found,
    ImagesSpec,
    Subject,
    check_subject,
    is_reference,
    measured_of,
    predictions_of,
)
from stmdeploy.files.writing import writable
from stmdeploy.measure.predictions import Predictions
from stmdeploy.measure.score import Scores
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.schema.invariance import Invariance
from stmdeploy.spec.export import FULL_PRECISION
from stmdeploy.spec.views import TRANSFORMS, ViewSpec


@dataclass(frozen=True)
class InvarianceSpec(ImagesSpec):
    """Which artifacts, and in which views images are looked at."""

    views: ViewSpec = field(default_factory=lambda: ViewSpec(tuple(TRANSFORMS)))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.views.transforms:
            raise StmdeployError("no transform is named", f"name some of: {', '.join(TRANSFORMS)}")


def measure_invariance(
    spec: InvarianceSpec, folder: Path, progress: Progress, store_url: str = ""
) -> tuple[Invariance, ...]:
    """Runs all views of all images through artifacts, each in a worker; stores what comes of it.

    An artifact in float32 among them is what those of the same weights are compared with, image by
    image.

    Args:
        folder: the store's folder, which is made if there is none.
        store_url: address of a database server that keeps the figures instead.

    Raises:
        StmdeployError: bad input, before any work; or an artifact that cannot be run.
    """
    artifacts = [read_artifact(path) for path in spec.artifacts]
    subjects = [check_subject(spec, artifact, None, progress) for artifact in artifacts]
    done: dict[int, Invariance] = {}
    seen: list[tuple[Subject, Predictions]] = []
    with writable(folder):
        store = Store(folder, url=store_url, create=True)
        progress.expect(len(subjects))
        # Those in float32 first: others are compared with them.
        order = sorted(
            range(len(subjects)), key=lambda i: subjects[i].manifest.precision != FULL_PRECISION
        )
        for i in order:
            subject = subjects[i]
            progress.step(f"looking through {subject.artifact.path.name}")
            found = predictions_of(spec, subject, spec.views, folder, progress)
            done[i] = _invariance(spec, subject, found, _beside(subject, seen))
            seen.append((subject, found.predictions))
            store.add_invariance(done[i])
        store.close()
    return tuple(done[i] for i in range(len(subjects)))


def _beside(subject: Subject, seen: list[tuple[Subject, Predictions]]) -> Predictions | None:
    """What the same network in float32 says of the images, prepared alike; None if it was not
    asked."""
    if subject.manifest.precision == FULL_PRECISION:
        return None
    for other, predictions in seen:
        if other.preparation == subject.preparation and is_reference(
            other.manifest, subject.manifest
        ):
            return predictions
    return None


def _invariance(
    spec: InvarianceSpec, subject: Subject, found: Found, beside: Predictions | None
) -> Invariance:
    model, predictions, views = subject.manifest.model, found.predictions, spec.views
    if beside is not None:  # an image may have vanished in between
        beside = beside.of(predictions.places) if _covers(beside, predictions) else None
    scores = Scores(predictions, views, beside)
    consistency = scores.area("consistency", *views.transforms)
    assert consistency is not None
    return Invariance(
        **measured_of(subject, found),
        stm=model.stm,
        scale=model.scale,
        protocol=views.protocol,
        seed=views.seed,
        consistency=consistency,
        consistency_more_than_fp32=scores.area("more", *views.transforms),
        curves=scores.curves,
    )


def _covers(one: Predictions, other: Predictions) -> bool:
    return set(other.places.tolist()) <= set(one.places.tolist())
