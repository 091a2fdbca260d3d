"""Rows put together: what a failure was."""

from __future__ import annotations

import pytest

from stmdeploy.preparing import out_of_memory


@pytest.mark.parametrize(
    "failure",
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
        "worker was killed (SIGKILL), most likely out of memory",
    ],
)
def test_memory_that_is_out(failure: str) -> None:
    """As every runtime says it, by its sources and documentation."""
    assert out_of_memory(failure)


@pytest.mark.parametrize(
    "failure",
    ["worker died of SIGSEGV", "took longer than 600 s and was ended", "CUDA: cudaErrorNoDevice"],
)
def test_other_failures(failure: str) -> None:
    assert not out_of_memory(failure)
