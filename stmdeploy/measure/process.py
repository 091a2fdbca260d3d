"""Runs one job in a worker process, so that a crash, an OOM or a hang costs one row."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass

#: How much of a failing worker's last words is kept.
_LAST_WORDS = 300


@dataclass(frozen=True)
class Reply:
    """What came back: the worker's answer, or why there is none."""

    answer: str
    failure: str


def run_worker(module: str, job: str, settings: dict[str, str], timeout_s: float) -> Reply:
    """Starts ``python -m module``, sends `job` to its stdin and returns what it answers.

    Args:
        module: the worker's entry point.
        job: a JSON document.
        settings: environment variables that are added to, or replace, those of this process.
        timeout_s: after this long the worker is killed.
    """
    # -P: a `random.py` in the user's folder must not shadow the standard library's.
    # A session of its own: Ctrl-C reaches the parent alone, which then ends the worker.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **settings},
        start_new_session=True,
    ) as process:
        try:
            answer, errors = process.communicate(job, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            _kill(process)
            return Reply("", f"took longer than {timeout_s:g} s and was ended")
        except BaseException:
            _kill(process)
            raise
    return Reply(answer, _failure(process.returncode, errors))


def _kill(process: subprocess.Popen[str]) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _failure(code: int, errors: str) -> str:
    if code == 0:
        return ""
    if code == -signal.SIGKILL:
        return "worker was killed (SIGKILL), most likely out of memory"
    if code < 0:
        return f"worker died of {signal.Signals(-code).name}"
    lines = errors.strip().splitlines()
    return f"worker ended with code {code}: {lines[-1][:_LAST_WORDS] if lines else 'no message'}"
