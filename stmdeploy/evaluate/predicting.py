"""Runs artifacts over images: checked first, shard by shard, resumed, merged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.backbones.images import images_of
from stmdeploy.cluster.planning import ClusterSpec
from stmdeploy.errors import Failure, FailureKind, StmdeployError
from stmdeploy.evaluate.cluster import run_on_cluster
from stmdeploy.files.reading import read_bytes
from stmdeploy.files.writing import write_atomically
from stmdeploy.hardware.nvml import Gpu
from stmdeploy.measure.inputs import batch_of
from stmdeploy.measure.predictions import Predictions, merged
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.plugins.trust import refuse_wishes, wishes_of_artifact, wishes_of_model
from stmdeploy.results.state import now_utc
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.data import DataSpec
from stmdeploy.spec.export import FULL_PRECISION, MIXED
from stmdeploy.spec.limits import positive
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.preparation import Preparation, Prepared
from stmdeploy.spec.run import RunSettings, RunSpec
from stmdeploy.spec.views import ViewSpec
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.predict import Predicted, PredictJob, Shard, shard_name
from stmdeploy.worker.process import WorkerError

if TYPE_CHECKING:
    from stmdeploy.backbones.images import ImageFolder

#: Why a detection backbone is not evaluated, and what to do.
NO_ACCURACY = (
    "a detection backbone gives maps, not classes; its AP takes a detector's trained heads"
)
NO_ACCURACY_HINT = "evaluate the classification backbone, or measure AP in the detector's framework"
#: Of a photograph.
CHANNELS = 3
#: Views of all images of a shard, if they are neither few nor many images: what a killed worker
#: costs, and a node of a cluster gets at a time.
_SHARD_VIEWS, _LEAST_IMAGES, _MOST_IMAGES = 16384, 256, 1024
_SHARD_MIB = 512


@dataclass(frozen=True)
class ImagesSpec:
    """Which artifacts run over which images, and how.

    Attributes:
        artifacts: main files.
        batch, threads: images per inference; threads of one operator, and that read images.
        preparation: how images are resized, cropped and normalised, where not as the artifact's
            manifest says.
        runtime: runs the artifacts; empty for the usual one of each.
        gpu: where they run; None for the CPU.
        cluster: whose nodes run them; None for this machine.
        node: kind of its nodes, as `RunSpec.node`; empty for this machine.
        node_gpu: whether the GPU of those nodes runs them.
        timeout_s: a worker that finishes no batch for so long is ended.
        trust: whether Python code that artifacts name may be run.
    """

    artifacts: tuple[Path, ...]
    data: DataSpec
    batch: int
    threads: int
    preparation: Prepared = field(default_factory=Prepared)
    runtime: str = ""
    settings: RunSettings = field(default_factory=RunSettings)
    gpu: Gpu | None = None
    cluster: ClusterSpec | None = None
    node: str = ""
    node_gpu: bool = False
    timeout_s: float = 600.0
    trust: bool = False

    def __post_init__(self) -> None:
        positive(self.timeout_s, "timeout")


@dataclass(frozen=True)
class Subject:
    """An artifact to be run over images, and its reference in float32, if it has one."""

    artifact: Artifact
    run: RunSpec
    preparation: Preparation
    data: ImageFolder
    reference: Artifact | None = None
    reference_run: RunSpec | None = None

    @property
    def manifest(self) -> Manifest:
        """That of the artifact."""
        return self.artifact.manifest


@dataclass(frozen=True)
class Found:
    """What came of a subject: its predictions, of at least one image, and how they were made."""

    predictions: Predictions
    how: Predicted
    data_sha256: str

    @property
    def waiting_percent(self) -> float:
        """Share of the time for which the runtime waited for images, in per cent."""
        return 100 * self.how.waited_s / self.how.total_s if self.how.total_s else 0.0


def measured_of(subject: Subject, found: Found) -> dict[str, Any]:
    """The fields of an `OverImages`."""
    model, facts = subject.manifest.model, found.how.runtime_facts
    return {
        "artifact_sha256": subject.manifest.files[0].sha256,
        "model": model.name,
        "weights": model.weights.kind,
        "weights_sha256": model.weights.sha256,
        "image_size": model.image_size,
        "precision": subject.manifest.precision,
        "runtime": subject.run.runtime,
        "runtime_version": facts.get("version", ""),
        "provider": facts.get("provider", ""),
        "data": subject.data.folder.resolve().name,
        "data_sha256": found.data_sha256,
        "images": len(found.predictions),
        "skipped": len(found.predictions.skipped),
        "waiting_percent": found.waiting_percent,
        "created_utc": now_utc(),
        "environment": found.how.environment,
    }


def check_subject(
    spec: ImagesSpec, artifact: Artifact, reference: Artifact | None, progress: Progress
) -> Subject:
    """Everything that can be refused before any work; warns of weights that mean nothing.

    Raises:
        StmdeployError: a detection backbone, a target that does not run here, code that nobody
            allowed, or data that does not fit the model.
    """
    manifest = artifact.manifest
    if manifest.model.num_classes is None:
        if manifest.model.weights.kind == "file":
            raise StmdeployError(
                f"{artifact.path} does not map one input to one row of logits per image",
                "give a file that does",
            )
        raise StmdeployError(f"{artifact.path}: {NO_ACCURACY}", NO_ACCURACY_HINT)
    if manifest.model.image_size is None or manifest.inputs[0].shape[1] != CHANNELS:
        raise StmdeployError(
            f"{artifact.path} takes no images N 3 H W", "give a file that does, in float32"
        )
    exporter = exporter_for_target(manifest.target)
    wishes = [] if exporter.target.holds_code else list(wishes_of_model(_model_of(manifest)))
    if not artifact.path.name.endswith(exporter.target.suffix):
        # The command line named a file of another kind than the one that would be run.
        wishes += wishes_of_artifact(artifact.path, exporter)
    refuse_wishes(wishes, str(artifact.path), trust=spec.trust)
    if manifest.model.weights.kind == "synthetic":
        progress.warn(
            f"WARNING: {artifact.path.name} has synthetic weights, which were never trained: "
            "what it says of images means nothing"
        )
    run, beside = run_of(spec, manifest), None
    if reference is not None:
        beside = run_of(replace(spec, runtime="", batch=run.batch), reference.manifest)
        if beside.batch != run.batch:
            raise StmdeployError(
                f"{artifact.path.name} and its reference were built for different batches",
                "name an artifact that runs at any batch as --reference",
            )
    data = images_of(spec.data, manifest.model.num_classes)
    preparation = spec.preparation.over(manifest.model.preparation)
    return Subject(artifact, run, preparation, data, reference, beside)


def _model_of(manifest: Manifest) -> ModelSpec:
    model = manifest.model
    return ModelSpec(model.name, model.pixels, model.num_classes)


def run_of(spec: ImagesSpec, manifest: Manifest) -> RunSpec:
    """How an artifact is run.

    Raises:
        StmdeployError: its target cannot be used here, or has no such runtime.
    """
    exporter = exporter_for_target(manifest.target)
    runtime = spec.runtime or exporter.target.runtimes[0]
    if runtime not in exporter.target.runtimes:
        raise StmdeployError(
            f"an artifact of target {manifest.target} does not run on {runtime}",
            f"choose one of: {', '.join(exporter.target.runtimes)}",
        )
    if spec.cluster is not None and exporter.target.travels != "artifact":
        raise StmdeployError(
            f"an artifact of target {manifest.target} only runs where it was built",
            "leave --cluster out, or evaluate an ONNX file",
        )
    device = ("cuda", spec.gpu.uuid, spec.gpu.name) if spec.gpu else ("cpu", "", "")
    if spec.node_gpu:
        device = ("cuda", "", "")
    batch = batch_of(manifest.inputs) or spec.batch
    if manifest.engine is not None:
        batch = min(max(batch, manifest.engine.batch[0]), manifest.engine.batch[2])
    return RunSpec(
        runtime, batch, spec.threads, *device,
        precision=manifest.precision, settings=spec.settings, node=spec.node,
    )  # fmt: skip


def is_reference(one: Manifest, other: Manifest) -> bool:
    """Whether an artifact is another one's network in float32."""
    same = (one.model.name, one.model.image_size, one.model.weights.sha256)
    others = (other.model.name, other.model.image_size, other.model.weights.sha256)
    return one.precision == FULL_PRECISION and same == others and not one.not_run


def fp32_beside(artifact: Artifact, others: Sequence[Artifact]) -> Artifact | None:
    """The artifact in float32 of the same network: one of some others, or one that lies in the same
    folder under a name that differs in the precision alone."""
    if artifact.manifest.precision == FULL_PRECISION:
        return None
    found = [*others, *_beside(artifact)]
    return next((o for o in found if is_reference(o.manifest, artifact.manifest)), None)


def _beside(artifact: Artifact) -> list[Artifact]:
    stem = artifact.path.stem.removesuffix(MIXED).removesuffix(artifact.manifest.precision)
    suffixes = dict.fromkeys([artifact.path.suffix, ".onnx"])
    paths = [artifact.path.with_name(f"{stem}{FULL_PRECISION}{suffix}") for suffix in suffixes]
    found = []
    for path in paths:
        with suppress(StmdeployError):  # one that is damaged or of another schema is no reference
            one = read_artifact(path)
            exporter = exporter_for_target(one.manifest.target)
            # Nobody named it, so it is not run if it is a program.
            refuse_wishes(wishes_of_artifact(path, exporter), str(path), trust=False)
            found.append(one)
    return found


def predictions_of(
    spec: ImagesSpec, subject: Subject, views: ViewSpec, folder: Path, progress: Progress
) -> Found:
    """Runs a subject over all images, going on where an earlier run of the same was ended.

    What it says of every image is kept in ``folder / "predictions"``.

    Raises:
        StmdeployError: an artifact that cannot be run, or changed meanwhile; no image can be read.
    """
    data_sha256 = subject.data.sha256
    job = PredictJob(
        artifact=subject.artifact.path.resolve(),
        model=_model_of(subject.manifest),
        run=subject.run,
        data=replace(
            spec.data,
            folder=spec.data.folder.resolve(),
            class_map=spec.data.class_map.resolve() if spec.data.class_map else None,
        ),
        data_sha256=data_sha256,
        preparation=subject.preparation,
        views=views,
        shards=(),
        folder=folder,
        reference=subject.reference.path.resolve() if subject.reference else None,
        reference_run=subject.reference_run,
    )
    place = folder / "predictions" / _key(job, subject)
    shards = _Shards(job.model_copy(update={"folder": place}), len(subject.data.files))
    with _naming(subject.artifact.path):
        how = shards.run(spec, subject.data, progress)
        for used in (subject.artifact, subject.reference):
            if used is not None:
                used.check()  # a file that has changed meanwhile may not be what was run
        predictions = shards.merged()
        if not len(predictions):
            raise StmdeployError(
                f"{spec.data.folder} holds no image that can be read", "see the warnings above"
            )
    write_atomically(place.with_suffix(".npz"), predictions.to_bytes())
    shutil.rmtree(place, ignore_errors=True)
    return Found(predictions, how, data_sha256)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts an artifact's path before what is said of it."""
    try:
        yield
    except StmdeployError as error:
        raise Failure.of(error).error(f"{path}: ") from error


def _key(job: PredictJob, subject: Subject) -> str:
    """What predictions depend on, as one word."""
    reference = subject.reference
    parts = (
        job.model_dump_json(exclude={"artifact", "reference", "folder", "shards"}),
        subject.manifest.seal,
        reference.manifest.seal if reference else "",
        version("stmdeploy"),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


class _Shards:
    """The shards of a job, in its folder."""

    def __init__(self, job: PredictJob, images: int) -> None:
        self._job, self._images = job, images
        self._views = len(job.views.views)
        wanted = min(max(_SHARD_VIEWS // self._views, _LEAST_IMAGES), _MOST_IMAGES)
        step = max(1, round(wanted / job.run.batch)) * job.run.batch
        self._all = [(i, min(i + step, images)) for i in range(0, images, step)]

    def run(self, spec: ImagesSpec, data: ImageFolder, progress: Progress) -> Predicted:
        """Runs what is not done yet; a worker that dies is followed by another, as long as each
        gets on.

        Raises:
            StmdeployError: what the job raises; the same shard has ended two workers.
        """
        left = self._left()
        done = self._images - sum(end - begin for begin, end in left)
        if done:
            progress.warn(f"{done} of {self._images} images were done before: going on")
        if spec.cluster is not None and left:
            return run_on_cluster(spec.cluster, self._job, left, data, spec.timeout_s, progress)
        while True:
            try:
                # With none left, for the facts alone.
                job = self._job.model_copy(update={"shards": tuple(left)})
                settings = worker_settings(job.run)
                return run_job(job, settings, spec.timeout_s, progress, while_silent=True)
            except WorkerError as error:
                before, left = left, self._left()
                if left == before or error.kind is FailureKind.OUT_OF_MEMORY:
                    raise
                progress.warn(f"{error.message}: another one goes on")

    def _left(self) -> list[Shard]:
        return [shard for shard in self._all if self._read(shard) is None]

    def _read(self, shard: Shard) -> Predictions | None:
        """A shard's predictions; None if they are not there, or damaged."""
        try:
            path = self._job.folder / shard_name(shard)
            found = Predictions.from_bytes(read_bytes(path, "", "", _SHARD_MIB), self._views)
        except (StmdeployError, ValueError):
            return None
        return found if found.covers(*shard) else None

    def merged(self) -> Predictions:
        """All of them; raises StmdeployError if any is missing."""
        parts = [self._read(shard) for shard in self._all]
        whole = [part for part in parts if part is not None]
        if len(whole) != len(parts):
            raise StmdeployError("some of its predictions are gone", "start again")
        return merged(whole, self._views)
