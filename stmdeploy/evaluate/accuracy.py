"""The accuracy of artifacts over labelled images, measured and stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.evaluate.predicting import (
    Found,
    ImagesSpec,
    Subject,
    check_subject,
    fp32_beside,
    is_reference,
    measured_of,
    predictions_of,
)
from stmdeploy.files.writing import writable
from stmdeploy.measure.score import share95
from stmdeploy.plugins.progress import Progress
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.evaluation import Evaluation
from stmdeploy.spec.export import FULL_PRECISION
from stmdeploy.spec.views import ViewSpec

#: Unreadable images that an evaluation names at most; it counts all of them.
_NAMED_FILES = 100


@dataclass(frozen=True)
class EvaluationSpec(ImagesSpec):
    """What is evaluated; one of the artifacts in float32 is the reference of the others.

    Attributes:
        reference: an artifact in float32; None looks for one beside each artifact.
    """

    reference: Path | None = None


def evaluate(
    spec: EvaluationSpec, folder: Path, progress: Progress, store_url: str = ""
) -> tuple[Evaluation, ...]:
    """Measures the accuracy of artifacts, each in a worker, and stores it.

    Args:
        folder: the store's folder, which is made if there is none.
        store_url: address of a database server that keeps the rows instead.

    Raises:
        StmdeployError: bad input, before any work; or an artifact that cannot be run.
    """
    artifacts = [read_artifact(path) for path in spec.artifacts]
    subjects = [
        check_subject(spec, artifact, _reference(spec, artifact, artifacts), progress)
        for artifact in artifacts
    ]
    for subject in subjects:
        if subject.reference is None and subject.manifest.precision != FULL_PRECISION:
            progress.warn(
                f"{subject.artifact.path.name}: no fp32 artifact of the same weights lies beside "
                "it, so its agreement with fp32 is unknown; name one with --reference"
            )
    done = []
    with writable(folder):
        store = Store(folder, url=store_url, create=True)
        progress.expect(len(subjects))
        for subject in subjects:
            progress.step(f"evaluating {subject.artifact.path.name} on {subject.run.runtime}")
            found = predictions_of(spec, subject, ViewSpec(), folder, progress)
            done.append(_evaluation(subject, found))
            store.add_evaluation(done[-1])
        store.close()
    return tuple(done)


def _reference(
    spec: EvaluationSpec, artifact: Artifact, others: Sequence[Artifact]
) -> Artifact | None:
    """The artifact in float32 that this one is compared with; None without one.

    Raises:
        StmdeployError: the one named by --reference has other weights or another precision.
    """
    if spec.reference is None:
        return fp32_beside(artifact, others)
    named = read_artifact(spec.reference)
    if not is_reference(named.manifest, artifact.manifest):
        raise StmdeployError(
            f"--reference {spec.reference} is not {artifact.path.name} in fp32",
            "name an fp32 artifact of the same model, image size and weights",
        )
    return named if named.path.resolve() != artifact.path.resolve() else None


def _evaluation(subject: Subject, found: Found) -> Evaluation:
    predictions, data = found.predictions, subject.data
    images, right = len(predictions), predictions.right[0]
    agreement = reference_top1 = None
    if subject.reference is not None:
        theirs = predictions.reference_top1
        agreement = share95(int((theirs == predictions.top1[0]).sum()), images)
        reference_top1 = share95(int((theirs == predictions.labels).sum()), images)
    skipped = [data.files[place][0] for place in predictions.skipped[:_NAMED_FILES]]
    names = [path.relative_to(data.folder).as_posix() for path in skipped]
    return Evaluation(
        **measured_of(subject, found),
        skipped_files=tuple(names),
        top1=share95(int(right.sum()), images),
        top5=share95(int(predictions.in_top5[0].sum()), images),
        reference=subject.reference.path.name if subject.reference else None,
        agreement=agreement,
        reference_top1=reference_top1,
    )
