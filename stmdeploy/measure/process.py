"""Runs one job in a worker process, so that a crash, an OOM or a hang costs one row."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO

#: Begins a line that is not yet the answer.
ASIDE = "> "
#: How much of a failing worker's last words is kept.
_LAST_WORDS = 300
#: What a worker inherits: where things are, not how libraries are to behave.
_INHERITED = frozenset(
    "PATH HOME USER LOGNAME SHELL TMPDIR TMP TEMP TZ LANG PYTHONPATH VIRTUAL_ENV LD_LIBRARY_PATH"
    " CUDA_HOME CUDA_PATH CUDA_VISIBLE_DEVICES SYSTEMROOT SSL_CERT_FILE CC CXX".split()
)
_INHERITED_PREFIXES = ("LC_", "XDG_", "STMDEPLOY_")


@dataclass(frozen=True)
class Reply:
    """What came back: the worker's answer, or why there is none."""

    answer: str
    failure: str


def worker_environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment of a worker: settings over the few variables that it inherits.

    Whatever else is set here, such as OMP_NUM_THREADS or KMP_AFFINITY, would change what is
    measured without a word in the row.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name in _INHERITED or name.startswith(_INHERITED_PREFIXES)
    }
    return {**inherited, **settings}


def run_worker(
    module: str,
    job: str,
    settings: dict[str, str],
    timeout_s: float,
    *,
    python: str = "",
    tell: Callable[[str], None] = lambda _: None,
) -> Reply:
    """Starts ``python -m module``, sends `job` to its stdin and returns what it answers.

    Args:
        module: the worker's entry point.
        job: a JSON document.
        settings: environment variables of the worker.
        timeout_s: after this long the worker is killed.
        python: the interpreter; empty for this one.
        tell: takes, as they come, the lines that begin with `ASIDE`, without it.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            # -P: a `random.py` in the user's folder must not shadow the standard library's.
            # A session of its own: Ctrl-C reaches the parent alone, which then ends the worker.
            process = subprocess.Popen(
                [python or sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=worker_environment(settings),
                start_new_session=True,
            )
        except OSError as error:
            return Reply("", f"{python or sys.executable} cannot be started: {error.strerror}")
        with process:
            try:
                answer, in_time = _listen(process, job, timeout_s, tell)
            finally:
                _kill(process)
        if not in_time:
            return Reply("", f"took longer than {timeout_s:g} s and was ended")
        errors.seek(0)
        return Reply(answer, _failure(process.returncode, errors.read()))


def _listen(
    process: subprocess.Popen[str], job: str, timeout_s: float, tell: Callable[[str], None]
) -> tuple[str, bool]:
    """The last line, and whether it came in time."""
    assert process.stdin is not None
    assert process.stdout is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    deadline = time.monotonic() + timeout_s
    try:
        process.stdin.write(job)
        process.stdin.close()
    except BrokenPipeError:
        pass  # it died before it had read its job; its exit status says why
    last = ""
    while True:
        try:
            line = lines.get(timeout=max(0.0, deadline - time.monotonic()))
            if line is None:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
                return last, True
        except (queue.Empty, subprocess.TimeoutExpired):
            return last, False
        if line.startswith(ASIDE):
            tell(line.removeprefix(ASIDE))
        else:
            last = line


def _read(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends the worker and whatever it started."""
    if process.poll() is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
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
