"""CUDA's streams and events, through NVIDIA's own bindings: inferences timed by the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from stmdeploy.errors import ExitCode, StmdeployError


def _runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError:
        raise StmdeployError(
            "cuda-bindings, which times inferences on a GPU, is not installed",
            "pip install 'stmdeploy[gpu]'",
            ExitCode.WORKER_FAILED,
        ) from None
    return runtime


def _checked(runtime: Any, answer: tuple[Any, ...]) -> Any:
    """What a call gave behind its error code."""
    code, *values = answer
    if code != runtime.cudaError_t.cudaSuccess:
        raise StmdeployError(
            f"CUDA: {code.name}", "check GPU and driver: nvidia-smi", ExitCode.WORKER_FAILED
        )
    return values[0] if values else None


def new_stream() -> int:
    """A stream of its own, which does not wait for the default one; lives as long as the process.

    Raises:
        StmdeployError: no GPU, or no bindings.
    """
    runtime = _runtime()
    answer = runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
    return int(_checked(runtime, answer))


class EventTimer:
    """Times what is put on a stream, by one event before it and one behind it."""

    def __init__(self, stream: int) -> None:
        """Makes the events.

        Raises:
            StmdeployError: no GPU, or no bindings.
        """
        self._runtime = _runtime()
        self._stream = self._runtime.cudaStream_t(stream)
        self._before = _checked(self._runtime, self._runtime.cudaEventCreate())
        self._behind = _checked(self._runtime, self._runtime.cudaEventCreate())

    def time_ms(self, submit: Callable[[], None]) -> float:
        """Milliseconds that the device was busy with, or waiting in between for, one submission.

        Args:
            submit: puts work on the stream and does not wait for it.
        """
        runtime = self._runtime
        _checked(runtime, runtime.cudaEventRecord(self._before, self._stream))
        submit()
        _checked(runtime, runtime.cudaEventRecord(self._behind, self._stream))
        _checked(runtime, runtime.cudaEventSynchronize(self._behind))
        return float(_checked(runtime, runtime.cudaEventElapsedTime(self._before, self._behind)))
