"""An artifact's accuracy: checked, run over images in a worker, and stored."""

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


@dataclass(frozen=True)
class EvaluationSpec:
    """What is evaluated, and over what.

    Attributes:
        artifacts: main files; one of them in float32 is the reference of the others.
        data: a folder with one for each class.
        class_map: JSON file that gives every folder its class; None for their order.
        limit: so many images at most, spread over all.
        batch, threads: images at a time; threads of an operator, and that read images.
        runtime: of the artifacts; empty for the usual one of each.
        gpu: where it runs; None for the CPU.
        reference: an artifact in float32; None to look for one beside the artifact.
        timeout_s: a worker that is through with no batch for so long is ended.
        trust: whether Python code that artifacts name is run.
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
        folder: of the store, which is made if there is none.
        store_url: of a server that keeps the rows instead.

    Raises:
        StmdeployError: bad input before any work; or an artifact that cannot be run.
    """
    artifacts = [read_artifact(path) for path in spec.artifacts]
    references = [_reference(spec, artifact, artifacts) for artifact in artifacts]
    jobs = [
        _job(spec, artifact, reference, progress)
        for artifact, reference in zip(artifacts, references, strict=True)
    ]
    for artifact in artifacts:
        image_folder(spec.data, artifact.manifest.model.num_classes, spec.class_map)
    done = []
    with writable(folder):
        store = Store(folder, url=store_url, create=True)
        progress.expect(len(jobs))
        for artifact, reference, job in zip(artifacts, references, jobs, strict=True):
            progress.step(f"evaluating {artifact.path.name} on {job.run.runtime}")
            scored = _scored(job, artifact, spec.timeout_s, progress)
            for used in (artifact, reference):
                if used is not None:
                    used.check()  # a file that was exchanged meanwhile is not what was scored
            done.append(_evaluation(artifact, job, scored))
            store.add_evaluation(done[-1])
        store.close()
    return tuple(done)


def _scored(job: EvaluateJob, artifact: Artifact, timeout_s: float, progress: Progress) -> Scored:
    """What a worker counts.

    Raises:
        StmdeployError: it failed; names the artifact.
    """
    settings = worker_settings(job.run)
    try:
        return run_job(job, settings, timeout_s, progress, while_silent=True)
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
    if not artifact.path.name.endswith(
        exporter.target.suffix
    ):  # the command line named something else
        wishes += wishes_of_artifact(artifact.path, exporter)
    refuse_wishes(wishes, str(artifact.path), trust=spec.trust)
    if model.weights.kind == "synthetic":
        progress.warn(
            f"WARNING: {artifact.path.name} has synthetic weights, which were never trained: "
            "its accuracy means nothing"
        )
    if reference is None and manifest.precision != FULL_PRECISION:
        progress.warn(
            f"{artifact.path.name}: no artifact of these weights in fp32 lies beside it, so "
            "agreement cannot be told; name one with --reference"
        )
    run = _run(spec, manifest)
    beside = (
        _run(replace(spec, runtime="", batch=run.batch), reference.manifest) if reference else None
    )
    if beside is not None and beside.batch != run.batch:
        raise StmdeployError(
            f"{artifact.path.name} and its reference were built for other batches",
            "name an artifact with a free batch as --reference",
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
        StmdeployError: its target is not available, or has no such runtime.
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
    """The artifact in float32 that this one is compared with.

    Raises:
        StmdeployError: the one that is named has other weights, or another precision.
    """
    if spec.reference is not None:
        named = read_artifact(spec.reference)
        if not _is_reference(named.manifest, artifact.manifest):
            raise StmdeployError(
                f"--reference {spec.reference} is not {artifact.path.name} in fp32",
                "name an artifact of the same model, image size and weights",
            )
        return named if named.path.resolve() != artifact.path.resolve() else None
    if artifact.manifest.precision == FULL_PRECISION:
        return None
    found = [*others, *_beside(artifact)]
    return next((o for o in found if _is_reference(o.manifest, artifact.manifest)), None)


def _beside(artifact: Artifact) -> list[Artifact]:
    """Artifacts whose names differ in their precision alone."""
    stem = artifact.path.stem.removesuffix(artifact.manifest.precision)
    suffixes = dict.fromkeys([artifact.path.suffix, ".onnx"])
    paths = [artifact.path.with_name(f"{stem}{FULL_PRECISION}{suffix}") for suffix in suffixes]
    found = []
    for path in paths:
        with suppress(StmdeployError):  # of another schema, or damaged: not a reference
            one = read_artifact(path)
            exporter = exporter_for_target(one.manifest.target)
            # Nobody named it: what is a program is not run.
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
