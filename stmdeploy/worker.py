"""The worker process: reads a job from stdin, measures one row, answers on stdout."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path

from stmdeploy.artifact import Document
from stmdeploy.errors import StmdeployError
from stmdeploy.results.row import Measurement
from stmdeploy.spec import ModelSpec, RunSpec, SamplingSpec

#: Seed of the input images: standard normal, never all zeros.
INPUT_SEED = 0
_PR_SET_PDEATHSIG = 1


class Job(Document):
    """One row to measure. The artifact's hash was checked by the parent."""

    artifact: Path
    model: ModelSpec
    run: RunSpec
    sampling: SamplingSpec


class Answer(Document):
    """The measurement, or one line saying why there is none."""

    measurement: Measurement | None = None
    failure: str = ""


def measure_job(job: Job) -> Measurement:
    """Loads the artifact of a job in this process and measures it."""
    import numpy as np

    from stmdeploy.hardware import load_average
    from stmdeploy.measure.clock import HostClock
    from stmdeploy.measure.session import measure
    from stmdeploy.registry import exporter_for_runtime

    def build() -> object:
        from stmdeploy.backbones.source import build_module

        return build_module(job.model)

    exporter = exporter_for_runtime(job.run.runtime)
    random = np.random.default_rng(INPUT_SEED)
    shape = (job.run.batch, 3, *job.model.image_size)
    images = random.standard_normal(shape, dtype=np.float32)
    exporter.import_engine()
    return measure(
        lambda: exporter.load(job.artifact, job.run, build),  # type: ignore[arg-type]
        images,
        HostClock(),
        job.sampling,
        load_average,
    )


def _die_with_parent() -> None:
    """On Linux, asks the kernel to kill this process when its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Answers one job. What libraries print goes to stderr, the answer alone to stdout."""
    _die_with_parent()
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job.model_validate_json(sys.stdin.read())
    try:
        answer = Answer(measurement=measure_job(job))
    except StmdeployError as error:
        answer = Answer(failure=str(error))
    except Exception as error:  # noqa: BLE001  (whatever an engine raises costs one row)
        traceback.print_exc()
        answer = Answer(failure=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    with reply:
        reply.write(answer.model_dump_json())


if __name__ == "__main__":
    main()
