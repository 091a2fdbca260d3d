"""Runs one job in a worker process: a crash, a hang or a lack of memory costs no more than that."""

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
from contextlib import suppress
from dataclasses import replace

from stmdeploy.errors import ExitCode, Failure, FailureKind, StmdeployError
from stmdeploy.files.places import temporary_folder

#: Begins every line of a worker that is not its answer.
ASIDE = "> "
#: How many characters of an engine's or a worker's last words are kept.
_LAST_WORDS = 300
#: Environment variables that a worker inherits: where things are, not how libraries behave.
_INHERITED = frozenset(
    "PATH HOME USER LOGNAME SHELL TMPDIR TMP TEMP TZ LANG PYTHONPATH VIRTUAL_ENV LD_LIBRARY_PATH"
    " CUDA_HOME CUDA_PATH CUDA_VISIBLE_DEVICES CUDA_DEVICE_ORDER SYSTEMROOT SSL_CERT_FILE"
    " CC CXX".split()
)
_INHERITED_PREFIXES = ("LC_", "XDG_", "STMDEPLOY_")
#: May hold a password, and no worker writes to a store.
_KEPT_BACK = frozenset({"STMDEPLOY_STORE"})
#: How engines and systems say that they are out of memory: few have an exception for it.
_OUT_OF_MEMORY = (
    "out of memory", "memoryerror", "bad_alloc", "failed to allocate", "cannot allocate",
    "can't allocate", "defaultcpuallocator", "outofmemory", "out_of_memory", "alloc_failed",
    "memoryallocation", "insufficient memory",
)  # fmt: skip


class WorkerError(StmdeployError):
    """A worker could not be started, died, or took too long (exit code 5)."""

    def __init__(self, message: str, kind: FailureKind) -> None:
        super().__init__(message, "", ExitCode.WORKER_FAILED, kind)


def kind_of_words(last_words: str) -> FailureKind:
    """What went wrong, judged by the last words of an engine or a process."""
    memory = any(words in last_words.lower() for words in _OUT_OF_MEMORY)
    return FailureKind.OUT_OF_MEMORY if memory else FailureKind.ERROR


def failure_of(error: Exception) -> Failure:
    """An exception of a job as a failure: an expected one stays what it is, and any other one is
    an engine's, with exit code 5."""
    if isinstance(error, StmdeployError):
        failure = Failure.of(error)
        if failure.kind is FailureKind.ERROR:  # an exporter quotes its engine
            return replace(failure, kind=kind_of_words(failure.message))
        return failure
    reason = f"{type(error).__name__}: {' '.join(str(error).split())[:_LAST_WORDS]}"
    return Failure(kind_of_words(reason), reason)


def worker_environment(settings: dict[str, str]) -> dict[str, str]:
    """The environment of a worker: the few variables that it inherits, and `settings`.

    Anything else that is set here, such as OMP_NUM_THREADS or KMP_AFFINITY, would change what is
    measured without a trace in the row.
    """
    inherited = {
        name: value
        for name, value in os.environ.items()
        if (name in _INHERITED or name.startswith(_INHERITED_PREFIXES)) and name not in _KEPT_BACK
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
    while_silent: bool = False,
) -> str:
    """Starts ``python -m module``, sends `job` to its stdin and returns its last line.

    Args:
        module: what the worker runs.
        job: a JSON document in one line.
        settings: environment variables of the worker.
        timeout_s: after this long the worker is killed.
        python: the interpreter; empty for this one.
        tell: called with each line that begins with `ASIDE`, as it comes, without that beginning.
        while_silent: whether the time counts from the latest line instead of from the start.

    Raises:
        WorkerError: it cannot be started, died, or took too long.
    """
    with Worker(module, settings, timeout_s, python=python) as worker:
        worker.send(job)
        worker.finish()
        last = ""
        while (line := worker.receive()) is not None:
            if while_silent:
                worker.wait_again()
            if line.startswith(ASIDE):
                tell(line.removeprefix(ASIDE))
            else:
                last = line
        worker.check_end()
        return last


class Worker:
    """A process ``python -m module`` that reads and answers line by line; killed on leaving.

    Args:
        module, settings, timeout_s, python: as for `run_worker`.

    Raises:
        WorkerError: it cannot be started.
    """

    def __init__(
        self, module: str, settings: dict[str, str], timeout_s: float, *, python: str = ""
    ) -> None:
        self._errors = tempfile.TemporaryFile(  # noqa: SIM115
            "w+", encoding="utf-8", errors="replace", dir=temporary_folder()
        )
        try:
            # -P: a `random.py` in the user's folder must not shadow the standard library's.
            # A session of its own: Ctrl-C reaches the parent alone, which then ends the worker.
            self._process = subprocess.Popen(
                [python or sys.executable, "-P", "-m", module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=worker_environment(settings),
                start_new_session=True,
            )
        except OSError as error:
            self._errors.close()
            raise WorkerError(
                f"{python or sys.executable} cannot be started: {error.strerror}", FailureKind.ERROR
            ) from error
        self._timeout_s, self._deadline = timeout_s, time.monotonic() + timeout_s
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        _kill(self._process)
        self.finish()  # drops what was not yet sent
        with self._process:
            pass  # closes the pipes and waits
        self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(ValueError):  # the pipe is closed: the worker was killed
            for line in self._process.stdout:
                self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def pause(self) -> None:
        """Stops it and whatever it started, with all their threads, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process.poll() is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def send(self, line: str) -> None:
        """Sends one line to its stdin; if it has died, `receive` tells."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Closes its stdin: no more lines will be sent."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()

    def receive(self) -> str | None:
        """Its next line; None when it has closed its stdout.

        Raises:
            WorkerError: no line came in time.
        """
        try:
            return self._lines.get(timeout=self._left_s())
        except queue.Empty:
            raise self._late() from None

    def wait_again(self) -> None:
        """Lets its time begin anew, as it has shown that it is alive."""
        self._deadline = time.monotonic() + self._timeout_s

    def _left_s(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _late(self) -> WorkerError:
        told = f"worker took longer than {self._timeout_s:g} s and was ended"
        return WorkerError(told, FailureKind.TIMEOUT)

    def check_end(self) -> None:
        """Waits for its end; raises WorkerError if it failed, or did not end in time."""
        try:
            self._process.wait(timeout=self._left_s())
        except subprocess.TimeoutExpired:
            raise self._late() from None
        if self._process.returncode:
            self._errors.seek(0)
            raise _died(self._process.returncode, self._errors.read())


def _kill(process: subprocess.Popen[str]) -> None:
    """Ends the worker and whatever it started."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _died(code: int, errors: str) -> WorkerError:
    if code == -signal.SIGKILL:
        return WorkerError(
            "worker was killed (SIGKILL), most likely out of memory", FailureKind.KILLED
        )
    if code < 0:
        return WorkerError(f"worker died of {signal.Signals(-code).name}", FailureKind.SIGNAL)
    lines = errors.strip().splitlines()
    last = lines[-1][:_LAST_WORDS] if lines else "no message"
    return WorkerError(f"worker ended with code {code}: {last}", kind_of_words(last))
