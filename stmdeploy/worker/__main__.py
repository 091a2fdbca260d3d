"""The worker process: reads a job from stdin, does it, answers on stdout."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from typing import Any

from pydantic import TypeAdapter

from stmdeploy.errors import StmdeployError
from stmdeploy.worker.jobs.engine import EngineJob
from stmdeploy.worker.jobs.fidelity import FidelityJob
from stmdeploy.worker.jobs.job import Answer, Job, Parent
from stmdeploy.worker.jobs.layers import LayersJob
from stmdeploy.worker.jobs.measure import MeasureJob
from stmdeploy.worker.jobs.outside import LookJob
from stmdeploy.worker.jobs.peaks import PeaksJob
from stmdeploy.worker.jobs.predict import PredictJob
from stmdeploy.worker.jobs.prepare import PrepareJob
from stmdeploy.worker.jobs.trials import TrialsJob
from stmdeploy.worker.jobs.turns import TurnsJob
from stmdeploy.worker.process import failure_of

_JOBS = (
    PrepareJob
    | MeasureJob
    | LayersJob
    | PeaksJob
    | PredictJob
    | EngineJob
    | TurnsJob
    | TrialsJob
    | FidelityJob
    | LookJob
)
_PR_SET_PDEATHSIG = 1


def _attempt(job: Job[Any], parent: Parent) -> Answer:
    """Does the job; the answer holds what it gave, or its failure."""
    try:
        return Answer(gave=job.do(parent))
    except StmdeployError as error:
        return Answer(failure=failure_of(error))
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        return Answer(failure=failure_of(error))


def _die_with_parent() -> None:
    """On Linux, asks the kernel to kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Does one job. Whatever libraries print goes to stderr; only the answer goes to stdout."""
    _die_with_parent()
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    adapter: TypeAdapter[_JOBS] = TypeAdapter(_JOBS)
    job = adapter.validate_json(sys.stdin.readline())
    with pipe:
        pipe.write(_attempt(job, Parent(pipe)).model_dump_json() + "\n")
    # The parent has its answer; to take down engines in order would only keep it waiting.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
