"""Jobs and their answers; each is done in a worker of its own, nothing else measured meanwhile."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from stmdeploy.artifact import Document
from stmdeploy.contracts import OperatorTime, Progress
from stmdeploy.errors import ExitCode
from stmdeploy.measure.lock import machine_lock
from stmdeploy.measure.process import run_worker
from stmdeploy.results.row import (
    Environment,
    Peaks,
    Prepared,
    PreparedArtifact,
    ProcessRun,
    TurnsRun,
)
from stmdeploy.spec import EngineSpec, ExportSpec, ModelSpec, RunSpec, SamplingSpec

#: The entry point of every worker.
WORKER = "stmdeploy.worker"


class PrepareJob(Document):
    """A model to build, to count and to export."""

    kind: Literal["prepare"] = "prepare"
    model: ModelSpec
    exports: tuple[ExportSpec, ...]


class MeasureJob(Document):
    """One process of a row. The artifact's hash was checked by the parent.

    ``environment`` is what the parent has read of this machine and interpreter; None for another
    interpreter, which then reads its own. ``memory_limit_mib`` bounds what the worker may
    allocate; None for no bound. ``logs`` is where LoadGen writes.
    """

    kind: Literal["measure"] = "measure"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    sampling: SamplingSpec
    environment: Environment | None = None
    memory_limit_mib: int | None = None
    logs: Path | None = None


class LayersJob(Document):
    """Where the time of a row goes."""

    kind: Literal["layers"] = "layers"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    repeats: int


class PeaksJob(Document):
    """What the processor can do at most with so many threads.

    ``libraries``: only these; empty for every one that is installed.
    """

    kind: Literal["peaks"] = "peaks"
    threads: int
    precisions: tuple[str, ...]
    libraries: tuple[str, ...] = ()


class EvaluateJob(Document):
    """An artifact whose accuracy is measured, beside a reference in float32 if there is one.

    ``run.batch`` images go through at a time. Hashes were checked by the parent.
    """

    kind: Literal["evaluate"] = "evaluate"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    data: Path
    class_map: Path | None = None
    limit: int | None = None
    reference: Path | None = None
    reference_run: RunSpec | None = None


class EngineJob(Document):
    """An engine to build of a source, for the device of a run; kept in a folder of engines."""

    kind: Literal["engine"] = "engine"
    source: Path
    run: RunSpec
    engine: EngineSpec
    folder: Path


class TurnsJob(Document):
    """One side of a comparison; every later line on stdin asks for a turn."""

    kind: Literal["turns"] = "turns"
    artifact: Path
    model: ModelSpec
    run: RunSpec
    memory_limit_mib: int | None = None


Job = PrepareJob | MeasureJob | LayersJob | PeaksJob | EvaluateJob | EngineJob | TurnsJob


class Scored(Document):
    """What an evaluation counted; see `results.row.Evaluation`."""

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


class Answer(Document):
    """What was done, or one line saying why it was not; ``code`` is then an exit code."""

    prepared: Prepared | None = None
    built: PreparedArtifact | None = None
    process: ProcessRun | None = None
    turns: TurnsRun | None = None
    peaks: Peaks | None = None
    scored: Scored | None = None
    layers: tuple[tuple[OperatorTime, ...], ...] | None = None
    failure: str = ""
    hint: str = ""
    code: int = int(ExitCode.OK)


def run_job(
    job: Job,
    settings: dict[str, str],
    timeout_s: float,
    progress: Progress,
    python: str = "",
    *,
    while_silent: bool = False,
) -> Answer:
    """One job in a worker; whatever goes wrong there is its answer's failure.

    Args:
        settings: environment variables of the worker; see `worker_settings`.
        timeout_s: after this long it is ended.
        progress: is told what the worker tells.
        python: the interpreter; empty for this one.
        while_silent: the time counts from the last word of the worker, instead of from its start.
    """

    def tell(line: str) -> None:
        word, _, text = line.partition(" ")
        told = {"step": progress.step, "detail": progress.detail}
        told.get(word, progress.warn)(text)

    def wait() -> None:
        progress.warn("waiting: something else is being measured on this machine")

    with machine_lock(wait):
        reply = run_worker(
            WORKER, job.model_dump_json(), settings, timeout_s, python=python, tell=tell,
            while_silent=while_silent,
        )  # fmt: skip
    if reply.failure:
        return Answer(failure=reply.failure)
    try:
        return Answer.model_validate_json(reply.answer)
    except ValidationError:
        return Answer(failure=f"the worker's answer cannot be read: {reply.answer[:100]!r}")


def worker_settings(run: RunSpec) -> dict[str, str]:
    """Environment variables of a worker; the one GPU it sees is its device 0."""
    settings = {"OMP_NUM_THREADS": str(run.threads), "MKL_NUM_THREADS": str(run.threads)}
    if run.device == "cuda":
        settings["CUDA_VISIBLE_DEVICES"] = run.gpu_uuid
        # For what has no switch of its own: float32 means float32, not TensorFloat-32.
        settings["NVIDIA_TF32_OVERRIDE"] = "0"
    return settings
