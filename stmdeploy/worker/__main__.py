"""The worker process: reads a job from stdin, does it, answers on stdout."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
import traceback
from importlib import import_module
from typing import Any

from stmdeploy.errors import StmdeployError
from stmdeploy.worker.jobs.job import Answer, Job, Parent
from stmdeploy.worker.process import failure_of

#: The module and class of every kind of job. Only the one asked for is imported: all of them would
#: lengthen the start of every process of a sweep by a third.
JOBS = {
    "prepare": ("prepare", "PrepareJob"),
    "measure": ("measure", "MeasureJob"),
    "layers": ("layers", "LayersJob"),
    "peaks": ("peaks", "PeaksJob"),
    "predict": ("predict", "PredictJob"),
    "engine": ("engine", "EngineJob"),
    "turns": ("turns", "TurnsJob"),
    "trials": ("trials", "TrialsJob"),
    "fidelity": ("fidelity", "FidelityJob"),
    "look": ("outside", "LookJob"),
}
#: After so many new objects the collector looks for cycles among them. Imports and traces make
#: millions that stay: at Python's own 700 it takes a fifth of an export, a tenth of a start.
_COLLECT_AFTER = 100_000
_PR_SET_PDEATHSIG = 1


def _read(line: str) -> Job[Any]:
    """A job as its parent wrote it."""
    module, name = JOBS[json.loads(line)["kind"]]
    kind: type[Job[Any]] = getattr(import_module(f"stmdeploy.worker.jobs.{module}"), name)
    return kind.model_validate_json(line)


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
    gc.set_threshold(_COLLECT_AFTER)
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = _read(sys.stdin.readline())
    with pipe:
        pipe.write(_attempt(job, Parent(pipe)).model_dump_json() + "\n")
    # The parent has its answer; to take down engines in order would only keep it waiting.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
