"""The stages in order: build -> count -> export -> verify -> measure -> store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version

from stmdeploy.artifact import Artifact, read_artifact
from stmdeploy.backbones.catalog import Published
from stmdeploy.backbones.source import BuiltModel, build_model
from stmdeploy.complexity import Complexity, count
from stmdeploy.contracts import Exporter, Progress
from stmdeploy.errors import StmdeployError
from stmdeploy.exporting import EXPORT_STEPS, FULL_PRECISION, check_precision, export_built
from stmdeploy.files import DestinationError, writable
from stmdeploy.hardware import environment
from stmdeploy.measure.process import run_worker
from stmdeploy.registry import exporter_for_runtime, exporter_for_target
from stmdeploy.results.frame import FORMATS, write_frame
from stmdeploy.results.row import Environment, Measurement, Row
from stmdeploy.results.store import ResultsFolder
from stmdeploy.spec import ExportSpec, ModelSpec, ProfileSpec, RunSpec
from stmdeploy.worker import Answer, Job

#: Steps that `progress` is told of: building and counting.
COUNT_STEPS = 2
#: Where a profile keeps its artifacts, inside its folder.
ARTIFACTS = "artifacts"
#: What the published accuracies were measured with.
_PUBLISHED_SIZE, _PUBLISHED_CLASSES = (224, 224), 1000
_BYTES_PER_MIB = 2**20


@dataclass(frozen=True)
class CountedModel:
    """A built model and what it costs."""

    built: BuiltModel
    complexity: Complexity


def count_model(spec: ModelSpec, progress: Progress) -> CountedModel:
    """Builds a model and counts its parameters and MACs at batch 1.

    Raises:
        StmdeployError: the model cannot be built or traced.
    """
    built = build_model(spec, progress)
    progress.step(f"counting {spec.name}")
    return CountedModel(built, count(built.module, spec.image_size))


def check_export(spec: ExportSpec) -> None:
    """Raises StmdeployError for a target or precision that cannot be, before any work."""
    check_precision(exporter_for_target(spec.target), spec.precision)


def export_model(spec: ExportSpec, progress: Progress) -> Artifact:
    """Builds, exports and verifies one artifact; it appears whole or not at all.

    Raises:
        StmdeployError: bad input (2), or outputs that differ from PyTorch (4).
    """
    exporter = exporter_for_target(spec.target)
    progress.expect(1 + EXPORT_STEPS)
    with writable(spec.folder):
        return export_built(build_model(spec.model, progress), exporter, spec, progress)


def profile(
    spec: ProfileSpec, progress: Progress, on_row: Callable[[Row], None]
) -> tuple[Row, ...]:
    """Measures every model with every run, each row in a worker of its own.

    Rows are stored as they finish, so an interrupt keeps them; a row that fails is stored
    with its reason and the others go on.

    Raises:
        StmdeployError: bad input, before anything is measured.
    """
    exporters = {run.runtime: exporter_for_runtime(run.runtime) for run in spec.runs}
    for exporter in exporters.values():
        for precision in spec.precisions:
            check_precision(exporter, precision)
    with writable(spec.folder):
        store = ResultsFolder(spec.folder)
        with _kept(store):
            machine = environment()
            _try_inputs(spec.models, progress)
            targets = len({exporter.target for exporter in exporters.values()})
            per_precision = EXPORT_STEPS * targets + len(spec.runs)
            per_model = COUNT_STEPS + per_precision * len(spec.precisions)
            progress.expect(per_model * len(spec.models))
            for model in spec.models:
                counted = count_model(model, progress)
                for row in _rows(counted, model, exporters, spec, machine, progress):
                    store.append(row)
                    on_row(row)
    return store.results.rows


def _try_inputs(models: tuple[ModelSpec, ...], progress: Progress) -> None:
    """Tries what a user brought, models and checkpoints, before the first row is measured."""
    if len(models) == 1:
        return  # its turn comes first anyway
    for model in models:
        if model.is_custom:
            progress.expect(COUNT_STEPS)
            count_model(model, progress)
        elif model.checkpoint:
            progress.expect(1)
            build_model(model, progress)


@contextmanager
def _kept(store: ResultsFolder) -> Iterator[None]:
    """Writes the rows there are as CSV and Parquet, however the body ends; gives up the claim
    on the folder if there are none."""
    try:
        yield
    finally:
        rows, folder = store.results.rows, store.path.parent
        for form in FORMATS if rows else ():
            write_frame(rows, folder / f"results.{form}", form)
        if not rows:
            store.path.unlink(missing_ok=True)


def _rows(
    counted: CountedModel,
    model: ModelSpec,
    exporters: dict[str, Exporter],
    spec: ProfileSpec,
    machine: Environment,
    progress: Progress,
) -> Iterator[Row]:
    """The rows of one model: each target exported once a precision, then each run measured."""
    for precision in spec.precisions:
        artifacts: dict[str, Artifact | StmdeployError] = {}
        for run in spec.runs:
            exporter = exporters[run.runtime]
            if exporter.target not in artifacts:
                artifacts[exporter.target] = _artifact(
                    counted.built,
                    exporter,
                    _export_spec(spec, model, exporter, precision),
                    progress,
                )
            progress.step(f"measuring {model.name} on {run.runtime}, batch {run.batch}")
            yield _row(
                counted, model, artifacts[exporter.target], replace(run, precision=precision),
                spec, machine,
            )  # fmt: skip


def _export_spec(
    spec: ProfileSpec, model: ModelSpec, exporter: Exporter, precision: str
) -> ExportSpec:
    return ExportSpec(
        model,
        exporter.target,
        spec.folder / ARTIFACTS,
        precision,
        spec.lowering,
        calibration=spec.calibration,
        engine=spec.engine,
    )


def _artifact(
    built: BuiltModel, exporter: Exporter, spec: ExportSpec, progress: Progress
) -> Artifact | StmdeployError:
    """The artifact, or why there is none: a failed export costs its rows, not the others'."""
    try:
        return export_built(built, exporter, spec, progress)
    except DestinationError:
        raise
    except StmdeployError as error:
        return error


def _row(
    counted: CountedModel,
    model: ModelSpec,
    artifact: Artifact | StmdeployError,
    run: RunSpec,
    spec: ProfileSpec,
    machine: Environment,
) -> Row:
    started = _now_utc()
    measurement, failure = None, None
    if isinstance(artifact, StmdeployError):
        failure = f"not exported: {artifact.message}"
    else:
        measurement, failure = _measure(artifact, model, run, spec)
    made = artifact if isinstance(artifact, Artifact) else None
    info, complexity = counted.built.info, counted.complexity
    published = _published(counted.built) if run.precision == FULL_PRECISION else None
    return Row(
        model=info.name,
        stm=info.stm,
        scale=info.scale,
        weights=info.weights.kind,
        weights_sha256=info.weights.sha256,
        image_height_px=info.image_size[0],
        image_width_px=info.image_size[1],
        batch=run.batch,
        precision=run.precision,
        lowering=made.manifest.lowering if made else None,
        runtime=run.runtime,
        device=run.device,
        device_name=run.gpu_name or machine.processor,
        threads=run.threads,
        published_top1_percent=published.top1_percent if published else None,
        published_box_ap_percent=published.box_ap_percent if published else None,
        published_mask_ap_percent=published.mask_ap_percent if published else None,
        parameters=complexity.parameters,
        macs=complexity.macs,
        matmul_conv_macs=complexity.matmul_conv_macs,
        uncounted_operators=complexity.uncounted,
        artifact_sha256=made.manifest.files[0].sha256 if made else None,
        artifact_mib=made.size_bytes / _BYTES_PER_MIB if made else None,
        export_s=made.manifest.export_s if made else None,
        relative_l2_error=made.manifest.verification.relative_l2_error if made else None,
        stmdeploy_version=version("stmdeploy"),
        started_utc=started,
        environment=machine,
        measurement=measurement,
        failure=failure,
    )


def _published(built: BuiltModel) -> Published | None:
    """The authors' accuracy, if this is the model they published it of."""
    info, config = built.info, built.config
    size = (info.image_size, info.num_classes)
    if config is None or size != (_PUBLISHED_SIZE, _PUBLISHED_CLASSES):
        return None
    return config.published if built.official or info.weights.kind == "synthetic" else None


def _measure(
    artifact: Artifact, model: ModelSpec, run: RunSpec, spec: ProfileSpec
) -> tuple[Measurement | None, str | None]:
    """One row in a worker: its measurement, or why there is none."""
    checked = read_artifact(artifact.path)
    # The artifact holds the weights; the worker has no use for the checkpoint.
    job = Job(
        artifact=checked.path.resolve(),
        model=replace(model, checkpoint=None),
        run=run,
        sampling=spec.sampling,
    )
    reply = run_worker(
        "stmdeploy.worker",
        job.model_dump_json(),
        _worker_settings(run),
        spec.row_timeout_s + spec.sampling.budget_s,
    )
    if reply.failure:
        return None, reply.failure
    answer = Answer.model_validate_json(reply.answer)
    return answer.measurement, answer.failure or None


def _worker_settings(run: RunSpec) -> dict[str, str]:
    """Environment variables of a worker; the one GPU it sees is its device 0."""
    settings = {"OMP_NUM_THREADS": str(run.threads), "MKL_NUM_THREADS": str(run.threads)}
    if run.device == "cuda":
        settings["CUDA_VISIBLE_DEVICES"] = run.gpu_uuid
        # For what has no switch of its own: float32 means float32, not TensorFloat-32.
        settings["NVIDIA_TF32_OVERRIDE"] = "0"
    return settings


def _now_utc() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
