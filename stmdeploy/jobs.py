"""Jobs, each done in a worker of its own while nothing else is measured on this machine."""

from __future__ import annotations

from pydantic import ValidationError

from stmdeploy.contracts import Progress
from stmdeploy.measure.lock import machine_lock
from stmdeploy.measure.process import run_worker
from stmdeploy.spec import RunSpec
from stmdeploy.worker import Answer, Job

#: The entry point of every worker.
WORKER = "stmdeploy.worker"


def run_job(
    job: Job, settings: dict[str, str], timeout_s: float, progress: Progress, python: str = ""
) -> Answer:
    """One job in a worker; whatever goes wrong there is its answer's failure.

    Args:
        settings: environment variables of the worker; see `worker_settings`.
        timeout_s: after this long it is ended.
        progress: is told what the worker tells.
        python: the interpreter; empty for this one.
    """

    def tell(line: str) -> None:
        word, _, text = line.partition(" ")
        told = {"step": progress.step, "detail": progress.detail}
        told.get(word, progress.warn)(text)

    def wait() -> None:
        progress.warn("waiting: something else is being measured on this machine")

    with machine_lock(wait):
        reply = run_worker(
            WORKER, job.model_dump_json(), settings, timeout_s, python=python, tell=tell
        )
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
