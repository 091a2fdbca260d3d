"""CUDA streams, events and page-locked memory through NVIDIA's bindings."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from stmdeploy.errors import ExitCode, StmdeployError

if TYPE_CHECKING:
    import numpy.typing as npt


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
    """The value that a call returned beside its error code; raises StmdeployError for an error."""
    code, *values = answer
    if code != runtime.cudaError_t.cudaSuccess:
        raise StmdeployError(
            f"CUDA: {code.name}", "check GPU and driver with nvidia-smi", ExitCode.WORKER_FAILED
        )
    return values[0] if values else None


def new_stream() -> int:
    """The handle of a new stream, which does not wait for the default one and is never freed.

    Raises:
        StmdeployError: (exit code 5) there is no GPU, or cuda-bindings is not installed.
    """
    runtime = _runtime()
    answer = runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking)
    return int(_checked(runtime, answer))


def synchronize(stream: int) -> None:
    """Waits until a stream has done all that was put on it; raises what `new_stream` raises."""
    runtime = _runtime()
    _checked(runtime, runtime.cudaStreamSynchronize(runtime.cudaStream_t(stream)))


class L2Flush:
    """Empties the GPU's L2 cache, as whatever ran in between would: it writes twice its size.

    Raises:
        StmdeployError: (exit code 5) there is no GPU, or cuda-bindings is not installed.
    """

    def __init__(self) -> None:
        self._runtime = _runtime()
        size = _checked(
            self._runtime,
            self._runtime.cudaDeviceGetAttribute(
                self._runtime.cudaDeviceAttr.cudaDevAttrL2CacheSize, 0
            ),
        )
        self._bytes = 2 * int(size)
        self._memory = _checked(self._runtime, self._runtime.cudaMalloc(self._bytes))

    def __call__(self) -> None:
        """Writes, and waits for the end of it."""
        runtime = self._runtime
        _checked(runtime, runtime.cudaMemset(self._memory, 0, self._bytes))
        _checked(runtime, runtime.cudaDeviceSynchronize())


def pinned_like(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An array of the same shape and type in memory that the device copies from without a detour.

    It is page-locked, as a server keeps its inputs, and never freed.

    Raises:
        StmdeployError: as `new_stream`; or so much memory cannot be locked.
    """
    import numpy as np

    runtime = _runtime()
    flags = runtime.cudaHostAllocDefault
    address = int(_checked(runtime, runtime.cudaHostAlloc(array.nbytes, flags)))
    memory = (ctypes.c_byte * array.nbytes).from_address(address)
    return np.ctypeslib.as_array(memory).view(array.dtype).reshape(array.shape)


def visible_uuids() -> tuple[str, ...]:
    """The UUIDs of the GPUs that CUDA lets this process use, in its own order; empty without any.
    No context is made."""
    try:
        from cuda.bindings import runtime
    except ImportError:
        return ()
    code, count = runtime.cudaGetDeviceCount()
    if code != runtime.cudaError_t.cudaSuccess:
        return ()
    found = (_checked(runtime, runtime.cudaGetDeviceProperties(i)).uuid.bytes for i in range(count))
    return tuple(f"GPU-{UUID(bytes=bytes(one)[:16])}" for one in found)


class EventTimer:
    """Times what is put on a stream, by two events around it; raises what `new_stream` raises."""

    def __init__(self, stream: int) -> None:
        self._runtime = _runtime()
        self._stream = self._runtime.cudaStream_t(stream)
        self._before = _checked(self._runtime, self._runtime.cudaEventCreate())
        self._behind = _checked(self._runtime, self._runtime.cudaEventCreate())

    def time_ms(self, submit: Callable[[], None]) -> float:
        """Milliseconds on the device from beginning to end of one submission, pauses included.

        Args:
            submit: puts work on the stream without waiting for it.
        """
        runtime = self._runtime
        _checked(runtime, runtime.cudaEventRecord(self._before, self._stream))
        submit()
        _checked(runtime, runtime.cudaEventRecord(self._behind, self._stream))
        _checked(runtime, runtime.cudaEventSynchronize(self._behind))
        return float(_checked(runtime, runtime.cudaEventElapsedTime(self._before, self._behind)))
