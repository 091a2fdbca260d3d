"""The accuracy of artifacts: each is checked, run over images in a worker, and stored."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from stmdeploy.backbones.images import image_folder
from stmdeploy.errors import Failure, StmdeployError
from stmdeploy.files.writing import writable
from stmdeploy.hardware.nvml import Gpu
from stmdeploy.measure.score import share95
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.plugins.trust import refuse_wishes, wishes_of_artifact, wishes_of_model
from stmdeploy.results.state import now_utc
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.schema.evaluation import Evaluation, Share95
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.export import FULL_PRECISION
from stmdeploy.spec.limits import at_least, positive
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSettings, RunSpec
from stmdeploy.worker.client import run_job, worker_settings
from stmdeploy.worker.jobs.evaluate import EvaluateJob, Scored

#: Why a detection backbone is not evaluated, and what to do.
NO_ACCURACY = (
    "a detection backbone gives maps, not classes; its AP takes a detector's trained heads"
)
NO_ACCURACY_HINT = "evaluate the classification backbone, or measure AP in the detector's framework"


@dataclass(frozen=True)
class EvaluationSpec:
    """What is evaluated, and over which images.

    Attributes:
        artifacts: main files; one of them in float32 is the reference of the others.
        data: a folder that holds a folder of images for each class.
        class_map: JSON file that gives every folder its class; None takes the order of their names.
        limit: number of images at most, spread over all classes; None for all.
        batch, threads: images per inference; threads of one operator, and that read images.
        runtime: runs the artifacts; empty for the usual one of each.
        gpu: where they run; None for the CPU.
        reference: an artifact in float32; None looks for one beside each artifact.
        timeout_s: a worker that finishes no batch for so long is ended.
        trust: whether Python code that artifacts name may be run.
    """

    artifacts: tuple[Path, ...]
    data: Path
    batch: int
    threads: int
    class_map: Path | None = None
    limit: int | None = None
    runtime: str = ""
    settings: RunSettings = field(default_factory=RunSettings)
    gpu: Gpu | None = None
    reference: Path | None = None
    timeout_s: float = 600.0
    trust: bool = False

    def __post_init__(self) -> None:
        positive(self.timeout_s, "timeout")
        if self.limit is not None:
            at_least(1, self.limit, "number of images")


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
    classes = [_classes(artifact) for artifact in artifacts]
    references = [_reference(spec, artifact, artifacts) for artifact in artifacts]
    jobs = [
        _job(spec, artifact, reference, progress)
        for artifact, reference in zip(artifacts, references, strict=True)
    ]
    for count in classes:
        image_folder(spec.data, count, spec.class_map)
    done = []
    with writable(folder):
        store = Store(folder, url=store_url, create=True)
        progress.expect(len(jobs))
        for artifact, reference, job in zip(artifacts, references, jobs, strict=True):
            progress.step(f"evaluating {artifact.path.name} on {job.run.runtime}")
            scored = _scored(job, artifact, spec.timeout_s, progress)
            for used in (artifact, reference):
                if used is not None:
                    used.check()  # a file that has changed meanwhile may not be what was scored
            done.append(_evaluation(artifact, job, scored))
            store.add_evaluation(done[-1])
        store.close()
    return tuple(done)


def _classes(artifact: Artifact) -> int:
    """How many classes an artifact tells apart; raises StmdeployError for a detection backbone."""
    classes = artifact.manifest.model.num_classes
    if classes is None:
        raise StmdeployError(f"{artifact.path}: {NO_ACCURACY}", NO_ACCURACY_HINT)
    return classes


def _scored(job: EvaluateJob, artifact: Artifact, timeout_s: float, progress: Progress) -> Scored:
    """What a worker counts; raises StmdeployError, with the artifact's path, if it fails."""
    try:
        return run_job(job, worker_settings(job.run), timeout_s, progress, while_silent=True)
    except StmdeployError as error:
        raise Failure.of(error).error(f"{artifact.path}: ") from error


def _job(
    spec: EvaluationSpec, artifact: Artifact, reference: Artifact | None, progress: Progress
) -> EvaluateJob:
    manifest = artifact.manifest
    model = manifest.model
    asked = ModelSpec(model.name, model.image_size, model.num_classes)
    exporter = exporter_for_target(manifest.target)
    wishes = [] if exporter.target.holds_code else list(wishes_of_model(asked))
    if not artifact.path.name.endswith(exporter.target.suffix):
        # The command line named a file of another kind than the one that would be run.
        wishes += wishes_of_artifact(artifact.path, exporter)
    refuse_wishes(wishes, str(artifact.path), trust=spec.trust)
    if model.weights.kind == "synthetic":
        progress.warn(
            f"WARNING: {artifact.path.name} has synthetic weights, which were never trained: "
            "its accuracy means nothing"
        )
    if reference is None and manifest.precision != FULL_PRECISION:
        progress.warn(
            f"{artifact.path.name}: no fp32 artifact of the same weights lies beside it, so its "
            "agreement with fp32 is unknown; name one with --reference"
        )
    run, beside = _run(spec, manifest), None
    if reference is not None:
        beside = _run(replace(spec, runtime="", batch=run.batch), reference.manifest)
        if beside.batch != run.batch:
            raise StmdeployError(
                f"{artifact.path.name} and its reference were built for different batches",
                "name an artifact that runs at any batch as --reference",
            )
    return EvaluateJob(
        artifact=artifact.path.resolve(),
        model=asked,
        run=run,
        data=spec.data.resolve(),
        class_map=spec.class_map.resolve() if spec.class_map else None,
        limit=spec.limit,
        reference=reference.path.resolve() if reference else None,
        reference_run=beside,
    )


def _run(spec: EvaluationSpec, manifest: Manifest) -> RunSpec:
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
    device = ("cuda", spec.gpu.uuid, spec.gpu.name) if spec.gpu else ("cpu", "", "")
    batch = spec.batch
    if manifest.engine is not None:
        batch = min(max(batch, manifest.engine.batch[0]), manifest.engine.batch[2])
    return RunSpec(
        runtime, batch, spec.threads, *device,
        precision=manifest.precision, settings=spec.settings,
    )  # fmt: skip


def _reference(
    spec: EvaluationSpec, artifact: Artifact, others: Sequence[Artifact]
) -> Artifact | None:
    """The artifact in float32 that this one is compared with; None without one.

    Raises:
        StmdeployError: the one named by --reference has other weights or another precision.
    """
    if spec.reference is not None:
        named = read_artifact(spec.reference)
        if not _is_reference(named.manifest, artifact.manifest):
            raise StmdeployError(
                f"--reference {spec.reference} is not {artifact.path.name} in fp32",
                "name an fp32 artifact of the same model, image size and weights",
            )
        return named if named.path.resolve() != artifact.path.resolve() else None
    if artifact.manifest.precision == FULL_PRECISION:
        return None
    found = [*others, *_beside(artifact)]
    return next((o for o in found if _is_reference(o.manifest, artifact.manifest)), None)


def _beside(artifact: Artifact) -> list[Artifact]:
    """Artifacts in the same folder whose names differ in their precision alone."""
    stem = artifact.path.stem.removesuffix(artifact.manifest.precision)
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


def _is_reference(one: Manifest, other: Manifest) -> bool:
    same = (one.model.name, one.model.image_size, one.model.weights.sha256)
    others = (other.model.name, other.model.image_size, other.model.weights.sha256)
    return one.precision == FULL_PRECISION and same == others and not one.not_run


def _evaluation(artifact: Artifact, job: EvaluateJob, scored: Scored) -> Evaluation:
    model = artifact.manifest.model

    def share(part: int | None) -> Share95 | None:
        return None if part is None else share95(part, scored.images)

    return Evaluation(
        artifact_sha256=artifact.manifest.files[0].sha256,
        model=model.name,
        weights=model.weights.kind,
        weights_sha256=model.weights.sha256,
        image_size=model.image_size,
        precision=artifact.manifest.precision,
        runtime=job.run.runtime,
        runtime_version=scored.runtime_facts.get("version", ""),
        provider=scored.runtime_facts.get("provider", ""),
        data=job.data.name,
        data_sha256=scored.data_sha256,
        images=scored.images,
        skipped=scored.skipped,
        skipped_files=scored.skipped_files,
        top1=share95(scored.top1, scored.images),
        top5=share95(scored.top5, scored.images),
        reference=job.reference.name if job.reference else None,
        agreement=share(scored.agreed),
        reference_top1=share(scored.reference_top1),
        created_utc=now_utc(),
        environment=scored.environment,
    )
