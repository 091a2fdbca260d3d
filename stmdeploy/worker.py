"""The worker process: reads a job from stdin, exports or measures, answers on stdout."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pydantic import TypeAdapter

from stmdeploy.artifact import Artifact, ModelInfo
from stmdeploy.contracts import OperatorTime
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files import DestinationError, DiskFullError
from stmdeploy.jobs import (
    Answer,
    EngineJob,
    EvaluateJob,
    Job,
    LayersJob,
    MeasureJob,
    PeaksJob,
    PrepareJob,
    Scored,
    TurnsJob,
)
from stmdeploy.measure.process import ASIDE
from stmdeploy.results.row import (
    Peaks,
    Prepared,
    PreparedArtifact,
    ProcessRun,
    TurnsRun,
)
from stmdeploy.spec import ExportSpec, ModelSpec, RunSpec

if TYPE_CHECKING:
    from torch import nn

    from stmdeploy.backbones.source import BuiltModel
    from stmdeploy.contracts import Array, ModuleFactory, Progress, Runner
    from stmdeploy.probe import Probe
    from stmdeploy.published import Published
    from stmdeploy.results.row import ScenarioResult

#: Seed of the input images: standard normal, never all zeros.
INPUT_SEED = 0
#: What the published accuracies were measured with.
_PUBLISHED_SIZE, _PUBLISHED_CLASSES = (224, 224), 1000
_PR_SET_PDEATHSIG = 1
_BYTES_PER_MIB = 2**20
_LONGEST_REASON = 300
#: Unreadable images that an evaluation names; it counts them all.
_NAMED_FILES = 100


class _Asides:
    """`contracts.Progress` over the pipe: ``word text`` lines for the parent."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe

    def _say(self, word: str, text: str) -> None:
        self._pipe.write(f"{ASIDE}{word} {' '.join(text.split())}\n")
        self._pipe.flush()

    def expect(self, steps: int) -> None:
        del steps  # the parent knows

    def step(self, text: str) -> None:
        self._say("step", text)

    def detail(self, text: str) -> None:
        self._say("detail", text)

    def warn(self, text: str) -> None:
        self._say("warn", text)


def prepare(job: PrepareJob, progress: Progress) -> Prepared:
    """Builds, counts and exports a model; a failed export costs its rows, not the others'.

    Raises:
        StmdeployError: the model cannot be built or counted, or a folder not be written to.
    """
    from stmdeploy.backbones.source import build_model
    from stmdeploy.complexity import count

    built = build_model(job.model, progress)
    progress.step(f"counting {job.model.name}")
    complexity = count(built.module, job.model.image_size)
    return Prepared(
        model=built.info,
        published=_published(built),
        parameters=complexity.parameters,
        macs=complexity.macs,
        matmul_conv_macs=complexity.matmul_conv_macs,
        activations=complexity.activations,
        uncounted_operators=complexity.uncounted,
        artifacts=tuple(_exported(built, spec, progress) for spec in job.exports),
    )


def _exported(built: BuiltModel, spec: ExportSpec, progress: Progress) -> PreparedArtifact:
    from stmdeploy.exporting import export_built
    from stmdeploy.registry import exporter_for_target

    place: dict[str, Any] = {"target": spec.target, "precision": spec.precision}
    try:
        exporter = exporter_for_target(spec.target, source_only=spec.source_only)
        artifact = export_built(built, exporter, spec, progress)
    except DestinationError as error:
        if not isinstance(error, DiskFullError):
            raise
        return PreparedArtifact(**place, failure=error.message, code=int(error.code))
    except StmdeployError as error:
        return PreparedArtifact(**place, failure=error.message, code=int(error.code))
    except MemoryError:
        code = int(ExitCode.WORKER_FAILED)
        return PreparedArtifact(**place, failure="out of memory", code=code)
    return _as_prepared(artifact)


def _as_prepared(artifact: Artifact) -> PreparedArtifact:
    manifest = artifact.manifest
    return PreparedArtifact(
        target=manifest.target,
        precision=manifest.precision,
        path=artifact.path.resolve(),
        seal=manifest.seal,
        sha256=manifest.files[0].sha256,
        mib=artifact.size_bytes / _BYTES_PER_MIB,
        lowering=manifest.lowering,
        export_s=manifest.export_s,
        build_s=manifest.engine.build_s if manifest.engine else None,
        relative_l2_error=manifest.verification.relative_l2_error,
        operations=manifest.operations,
    )


def build_here(job: EngineJob, progress: Progress) -> PreparedArtifact:
    """Builds the engine of a source on this machine, or finds it built.

    Raises:
        StmdeployError: the build failed, or the engine differs from its source (4).
    """
    from stmdeploy.engines import built_engine

    return _as_prepared(built_engine(job.source, job.run, job.engine, job.folder, progress))


def _published(built: BuiltModel) -> Published | None:
    """The authors' accuracy, if this is the model they published it of."""
    info: ModelInfo = built.info
    size = (info.image_size, info.num_classes)
    if built.config is None or size != (_PUBLISHED_SIZE, _PUBLISHED_CLASSES):
        return None
    if not (built.official or info.weights.kind == "synthetic"):
        return None
    return built.config.published


def _images(model: ModelSpec, run: RunSpec) -> Array:
    import numpy as np

    random = np.random.default_rng(INPUT_SEED)
    return random.standard_normal((run.batch, 3, *model.image_size), dtype=np.float32)


@cache
def _probe(artifact: Path, model: ModelSpec, run: RunSpec) -> Probe:
    """What the artifact's manifest says that the model gives. Asked for after the runtime is
    imported, which may share a library with it."""
    from stmdeploy.artifact import read_manifest
    from stmdeploy.probe import Probe

    found = read_manifest(artifact).verification
    return Probe(found.outputs, model.image_size, run.precision, found.tolerance_relative_l2)


def _builder(model: ModelSpec) -> ModuleFactory:
    def build() -> nn.Module:
        from stmdeploy.backbones.source import build_module

        return build_module(model)

    return build


def operator_times(job: LayersJob) -> tuple[tuple[OperatorTime, ...], ...]:
    """The operators of some inferences of an artifact, run in this process."""
    from stmdeploy.registry import exporter_for_runtime

    exporter = exporter_for_runtime(job.run.runtime)
    images = _images(job.model, job.run)
    return exporter.operator_times(job.artifact, job.run, _builder(job.model), images, job.repeats)


def peaks_here(job: PeaksJob) -> Peaks:
    """The best that NumPy and the installed runtimes get out of the processor."""
    from stmdeploy.measure.clock import HostClock
    from stmdeploy.measure.peaks import Candidate, measure_peaks, numpy_product
    from stmdeploy.registry import exporters

    candidates = [Candidate("numpy", "fp32", numpy_product)]
    for exporter in exporters().values():
        if exporter.unavailable():
            continue
        for precision in job.precisions:
            run = RunSpec(exporter.runtimes[0], 1, job.threads, precision=precision)
            candidates.append(Candidate(run.runtime, precision, partial(exporter.product, run)))
    if job.libraries:
        candidates = [c for c in candidates if c.by in job.libraries]
    return measure_peaks(candidates, job.threads, HostClock())


def evaluate_here(job: EvaluateJob, progress: Progress) -> Scored:
    """Runs the images through an artifact in this process.

    Raises:
        StmdeployError: as `image_folder` and `score`, or no image could be read.
    """
    from stmdeploy.evaluation import Score, score
    from stmdeploy.hardware import environment
    from stmdeploy.images import batches_of, image_folder
    from stmdeploy.registry import exporter_for_runtime

    def load(path: Path, run: RunSpec) -> Runner:
        return exporter_for_runtime(run.runtime).load(path, run, _builder(job.model))

    def skip(path: Path, reason: str) -> None:
        skipped.append(path.relative_to(job.data).as_posix())
        progress.warn(f"skipped {path}: {reason}")

    def tell(so_far: Score) -> None:
        progress.detail(
            f"{so_far.images} of {len(data.files)} images, top-1 "
            f"{100 * so_far.top1 / so_far.images:.1f} %"
        )

    data = image_folder(job.data, job.model.head_classes, job.class_map).limited(job.limit)
    skipped: list[str] = []
    data_sha256 = data.sha256  # now: a file that goes away meanwhile is skipped
    runner = load(job.artifact, job.run)
    beside = load(job.reference, job.reference_run) if job.reference and job.reference_run else None
    batches = batches_of(data, job.run.batch, job.model.image_size, job.run.threads, skip)
    counted = score(runner, beside, batches, job.run.batch, tell)
    if not counted.images:
        raise StmdeployError(f"{job.data} holds no image that can be read", "see above")
    return Scored(
        **vars(counted),
        skipped=len(skipped),
        skipped_files=tuple(skipped[:_NAMED_FILES]),
        data_sha256=data_sha256,
        runtime_facts=runner.facts(),
        environment=environment(),
    )


def measure_process(job: MeasureJob) -> ProcessRun:
    """Loads the artifact of a job in this process and measures it."""
    from stmdeploy.cuda import EventTimer
    from stmdeploy.hardware import environment, load_average
    from stmdeploy.measure.clock import HostClock
    from stmdeploy.measure.conditions import read_conditions
    from stmdeploy.measure.session import Machine, measure
    from stmdeploy.registry import exporter_for_runtime

    def play(lanes: list[Runner]) -> ScenarioResult:
        from stmdeploy.measure.loadgen import play

        assert job.logs is not None
        return play(lanes, job.run, job.logs)

    place = (job.artifact, job.model, job.run)
    exporter = exporter_for_runtime(job.run.runtime)
    machine = Machine(
        clock=HostClock(),
        conditions=lambda: read_conditions(job.run.gpu_uuid),
        load_average=load_average,
        environment=job.environment or environment(),
        device_timer=EventTimer,
    )
    return measure(
        exporter.import_engine,
        lambda: exporter.load(job.artifact, job.run, _builder(job.model)),
        lambda: _probe(*place).batch(job.run.batch),
        lambda runner, images: _probe(*place).look(runner, images),
        job.run,
        job.sampling,
        machine,
        play,
    )


def turns_of(job: TurnsJob, pipe: TextIO) -> TurnsRun:
    """One side of a comparison, in this process: words from stdin, turns to the parent.

    Both sides run the same images, so those whose outputs are known come before them.
    """
    from stmdeploy.hardware import environment
    from stmdeploy.measure.clock import HostClock
    from stmdeploy.measure.turns import Inference, take_turns, to_words
    from stmdeploy.registry import exporter_for_runtime

    def answer(turn: list[Inference]) -> None:
        pipe.write(f"{ASIDE}{to_words(turn)}\n")
        pipe.flush()

    def check(runner: Runner, images: Array) -> None:
        probe = _probe(job.artifact, job.model, job.run)
        known = probe.batch(job.run.batch)
        runner.prepare(known)
        probe.look(runner, known)
        runner.prepare(images)

    exporter = exporter_for_runtime(job.run.runtime)
    return take_turns(
        exporter.import_engine,
        lambda: exporter.load(job.artifact, job.run, _builder(job.model)),
        lambda: _images(job.model, job.run),
        check,
        HostClock(),
        environment(),
        lambda: sys.stdin.readline().strip(),
        answer,
    )


def _die_with_parent() -> None:
    """On Linux, asks the kernel to kill this process when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _limit_memory(limit_mib: int | None) -> None:
    """Makes this process the first that a full machine ends, and bounds what it allocates."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    if limit_mib is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * _BYTES_PER_MIB,) * 2)


def _do(job: Job, pipe: TextIO) -> Answer:
    if isinstance(job, PrepareJob):
        return Answer(prepared=prepare(job, _Asides(pipe)))
    if isinstance(job, LayersJob):
        return Answer(layers=operator_times(job))
    if isinstance(job, EvaluateJob):
        return Answer(scored=evaluate_here(job, _Asides(pipe)))
    if isinstance(job, EngineJob):
        return Answer(built=build_here(job, _Asides(pipe)))
    if isinstance(job, PeaksJob):
        return Answer(peaks=peaks_here(job))
    _limit_memory(job.memory_limit_mib)
    if isinstance(job, TurnsJob):
        return Answer(turns=turns_of(job, pipe))
    return Answer(process=measure_process(job))


def _attempt(work: Callable[[], Answer]) -> Answer:
    """An answer in any case: whatever an engine raises costs one row."""
    try:
        return work()
    except StmdeployError as error:
        return Answer(failure=error.message, hint=error.hint, code=int(error.code))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        reason = " ".join(str(error).split())[:_LONGEST_REASON]
        return Answer(failure=f"{type(error).__name__}: {reason}", code=int(ExitCode.WORKER_FAILED))


def main() -> None:
    """Answers one job. What libraries print goes to stderr, the answer alone to stdout."""
    _die_with_parent()
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    adapter: TypeAdapter[Job] = TypeAdapter(Job)
    job = adapter.validate_json(sys.stdin.readline())
    with pipe:
        pipe.write(_attempt(lambda: _do(job, pipe)).model_dump_json() + "\n")
    # The answer is given; taking engines down in order would only keep the parent waiting.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
