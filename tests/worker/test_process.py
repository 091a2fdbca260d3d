"""A worker that crashes, hangs, or answers: each costs one reply and no more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stmdeploy.errors import ExitCode, Failure, FailureKind, StmdeployError
from stmdeploy.worker.process import WorkerError, failure_of, run_worker

WORKERS = {
    "answers": "import os, sys; print(sys.stdin.read().strip() + os.environ['SETTING'])",
    "raises": "raise RuntimeError('no such kernel')",
    "segfaults": "import ctypes; ctypes.string_at(0)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "import time; time.sleep(3600)",
    "exits": "raise SystemExit(3)",
    "tells": "print('> step one', flush=True); print('> warn two'); print('done')",
    "environment": "import json, os; print(json.dumps(dict(os.environ)))",
}


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in WORKERS.items():
        (tmp_path / f"worker_{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("workers")
def test_an_answer() -> None:
    assert run_worker("worker_answers", "job", settings={"SETTING": "3"}, timeout_s=600) == "job3"


@pytest.mark.usefixtures("workers")
def test_asides_are_told_and_are_no_answer() -> None:
    told: list[str] = []
    answer = run_worker("worker_tells", "", {}, 600, tell=told.append)
    assert told == ["step one", "warn two"]
    assert answer == "done"


@pytest.mark.usefixtures("workers")
def test_a_worker_starts_with_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    seen = json.loads(run_worker("worker_environment", "", {"MKL_NUM_THREADS": "2"}, 600))
    assert seen["MKL_NUM_THREADS"] == "2"
    assert "PATH" in seen
    assert not {"OMP_NUM_THREADS", "KMP_BLOCKTIME"} & seen.keys()


@pytest.mark.usefixtures("workers")
def test_another_interpreter() -> None:
    answer = run_worker("worker_answers", "job", {"SETTING": ""}, 600, python=sys.executable)
    assert answer == "job"
    with pytest.raises(WorkerError, match="cannot be started"):
        run_worker("x", "", {}, 600, python="/no/python")


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize(
    ("name", "says", "kind"),
    [
        ("raises", "code 1: RuntimeError: no such kernel", FailureKind.ERROR),
        ("segfaults", "died of SIGSEGV", FailureKind.SIGNAL),
        ("killed", "most likely out of memory", FailureKind.KILLED),
        ("exits", "code 3: no message", FailureKind.ERROR),
    ],
)
def test_a_failure_has_a_reason_and_a_kind(name: str, says: str, kind: FailureKind) -> None:
    with pytest.raises(WorkerError, match=says) as failed:
        run_worker(f"worker_{name}", "job", settings={}, timeout_s=600)
    assert failed.value.kind is kind
    assert failed.value.code is ExitCode.WORKER_FAILED


@pytest.mark.usefixtures("workers")
def test_a_hang_is_ended() -> None:
    with pytest.raises(WorkerError, match=r"longer than 0\.5 s") as failed:
        run_worker("worker_hangs", "job", settings={}, timeout_s=0.5)
    assert failed.value.kind is FailureKind.TIMEOUT


@pytest.mark.parametrize(
    "words",
    [
        # torch
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        # ONNX Runtime
        "Fail: [ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 1",
        "RuntimeException: CUDA failure 2: out of memory ; GPU=0",
        # TensorRT
        "the engine failed: [defaultAllocator.cpp] Error Code 1: Cuda Runtime (out of memory)",
        "no execution context: IExecutionContext: Error Code 2: OutOfMemory (Requested size was",
        "CUDA: cudaErrorMemoryAllocation",
        # the system
        "MemoryError: std::bad_alloc",
    ],
)
def test_memory_that_is_out(words: str) -> None:
    """As every runtime says it, by its sources and documentation."""
    assert failure_of(RuntimeError(words)).kind is FailureKind.OUT_OF_MEMORY
    told = StmdeployError(words, "", ExitCode.WORKER_FAILED)  # as exporters pass it on
    assert failure_of(told).kind is FailureKind.OUT_OF_MEMORY


@pytest.mark.parametrize("words", ["no such kernel", "CUDA: cudaErrorNoDevice"])
def test_other_failures(words: str) -> None:
    assert failure_of(RuntimeError(words)) == Failure(FailureKind.ERROR, f"RuntimeError: {words}")


def test_an_expected_failure_stays_what_it_is() -> None:
    error = StmdeployError("no file", "give one")
    assert failure_of(error) == Failure(
        FailureKind.INPUT, "no file", "give one", ExitCode.BAD_INPUT
    )
    assert Failure.of(failure_of(error).error()) == failure_of(error)
