"""Every name that the code for GPUs uses, looked up in the real libraries, which install anywhere.

What cannot run without a GPU can at least not be misspelt: the source is read, and every attribute
of TensorRT, NVML, CUDA, torch and ONNX Runtime in it must be there. (TensorRT-RTX stands for
TensorRT, whose Python API it shares.)
"""

from __future__ import annotations

import ast
import ctypes
from collections import Counter
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
trt = pytest.importorskip("tensorrt_rtx")


def _library(name: str) -> Any:
    if name == "cuda":
        from cuda.bindings import runtime

        return runtime
    return pytest.importorskip(name)


#: What an expression is in a file: a library, or a class of one.
MODULES = {
    "trt": "tensorrt_rtx",
    "self.trt": "tensorrt_rtx",
    "self._trt": "tensorrt_rtx",
    "pynvml": "pynvml",
    "nvml": "pynvml",
    "torch": "torch",
    "self._torch": "torch",
    "ort": "onnxruntime",
    "self._ort": "onnxruntime",
}
TENSORRT = {
    "builder": "Builder",
    "self.builder": "Builder",
    "config": "IBuilderConfig",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "profile": "IOptimizationProfile",
    "context": "IExecutionContext",
    "self.context": "IExecutionContext",
    "runner.context": "IExecutionContext",
    "self._engine": "ICudaEngine",
    "self._runtime": "Runtime",
}
TORCH = {"self._stream": "cuda.Stream", "graph": "cuda.CUDAGraph", "self._graph": "cuda.CUDAGraph"}
ORT = {"self._binding": "IOBinding", "self._session": "InferenceSession"}
#: File -> what its expressions are, beside the modules, by library.
FILES: dict[str, dict[str, dict[str, str]]] = {
    "exporters/tensorrt.py": {"tensorrt_rtx": {"network": "INetworkDefinition"}},
    "exporters/tensorrt_build.py": {"tensorrt_rtx": TENSORRT},
    "exporters/tensorrt_log.py": {},
    "exporters/tensorrt_runner.py": {"tensorrt_rtx": TENSORRT, "torch": TORCH},
    "exporters/operator_times.py": {"tensorrt_rtx": {"runner.context": "IExecutionContext"}},
    "exporters/torch.py": {"torch": TORCH},
    "exporters/ort_session.py": {"onnxruntime": ORT},
    "exporters/ort_providers.py": {"onnxruntime": ORT},
    "exporters/tensors.py": {"torch": TORCH},
    "stmdeploy/hardware/nvml.py": {},
    "stmdeploy/hardware/cuda.py": {"cuda": {"runtime": "", "self._runtime": ""}},
}
#: Of `tensorrt` alone, asked for with `hasattr` where they are used.
CLASSIC_ONLY = {"BuilderFlag.TF32"}
#: Of torch's CUDA builds alone.
CUDA_BUILDS_ONLY = {"cuda.Stream.cuda_stream"}


def _found(library: Any, dotted: str) -> bool:
    try:
        reduce(getattr, filter(None, dotted.split(".")), library)
    except AttributeError:
        return False
    return True


def used(source: str, known: dict[str, tuple[str, str]]) -> list[tuple[str, str]]:
    """The attributes that a source takes of known expressions, as (library, dotted name)."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            text = ast.unparse(node)
            owner = max((k for k in known if text.startswith(f"{k}.")), key=len, default=None)
            rest = text[len(owner) + 1 :] if owner else ""
            if owner and all(word.isidentifier() for word in rest.split(".")):
                library, within = known[owner]
                names.append((library, f"{within}.{rest}".strip(".")))
    return names


def _names(file: str) -> list[tuple[str, str]]:
    known = {expression: (module, "") for expression, module in MODULES.items()}
    for library, classes in FILES[file].items():
        known |= {expression: (library, name) for expression, name in classes.items()}
    return used((ROOT / file).read_text("utf-8"), known)


@pytest.mark.parametrize("file", FILES)
def test_every_name_is_there(file: str) -> None:
    missing = [
        f"{library}.{name}"
        for library, name in dict.fromkeys(_names(file))
        if name not in CLASSIC_ONLY | CUDA_BUILDS_ONLY and not _found(_library(library), name)
    ]
    assert missing == []


def test_the_look_up_sees_what_it_is_for() -> None:
    """It would be empty if it looked at nothing, and it tells a wrong name."""
    counted = Counter(library for file in FILES for library, _ in set(_names(file)))
    least = {"tensorrt_rtx": 30, "pynvml": 20, "torch": 20, "cuda": 8, "onnxruntime": 10}
    assert all(counted[library] >= count for library, count in least.items()), counted
    wrong = used("self.context.execute_async_v9(1)", {"self.context": ("t", "IExecutionContext")})
    assert wrong == [("t", "IExecutionContext.execute_async_v9")]
    assert not _found(trt, wrong[0][1])


def test_the_event_timer_meets_the_real_runtime() -> None:
    """Without a driver it is one line, from the library itself."""
    from stmdeploy import StmdeployError
    from stmdeploy.hardware.cuda import EventTimer, new_stream

    runtime = _library("cuda")
    if runtime.cudaGetDeviceCount()[0] == runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is a GPU")
    for make in (new_stream, lambda: EventTimer(5)):
        with pytest.raises(StmdeployError, match="CUDA: cudaError"):
            make()


def test_what_events_are_told_and_tell() -> None:
    """Record, work, record, wait for the second, and only then ask how long; by a recording."""
    from stmdeploy.hardware.cuda import EventTimer

    real, calls = _library("cuda"), []

    class Recorded:
        cudaError_t = real.cudaError_t  # noqa: N815
        cudaStream_t = real.cudaStream_t  # noqa: N815

        def __getattr__(self, name: str) -> Any:
            assert hasattr(real, name), name

            def call(*_: Any) -> tuple[Any, ...]:
                calls.append(name)
                return real.cudaError_t.cudaSuccess, 1.5

            return call

    timer = EventTimer.__new__(EventTimer)
    timer._runtime, timer._stream = Recorded(), real.cudaStream_t(5)
    timer._before = timer._behind = object()
    assert timer.time_ms(lambda: calls.append("work")) == 1.5
    assert calls == [
        "cudaEventRecord", "work", "cudaEventRecord", "cudaEventSynchronize",
        "cudaEventElapsedTime",
    ]  # fmt: skip


def test_pinned_memory_is_an_array_of_the_same_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver says that it lies; by a recording that has memory of its own."""
    from stmdeploy.hardware import cuda

    real, asked = _library("cuda"), []
    assert hasattr(real, "cudaHostAlloc")

    class Recorded:
        cudaError_t = real.cudaError_t  # noqa: N815
        cudaHostAllocDefault = real.cudaHostAllocDefault  # noqa: N815
        memory = bytearray(64)

        def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, int]:  # noqa: N802
            asked.append((size, flags))
            here = (ctypes.c_byte * len(self.memory)).from_buffer(self.memory)
            return real.cudaError_t.cudaSuccess, ctypes.addressof(here)

    recorded = Recorded()
    monkeypatch.setattr(cuda, "_runtime", lambda: recorded)
    made = cuda.pinned_like(np.ones((2, 3), np.float32))
    made[...] = 1.0
    assert made.shape == (2, 3) and made.dtype == np.float32
    assert asked == [(24, real.cudaHostAllocDefault)]
    assert recorded.memory == np.ones(6, np.float32).tobytes() + bytes(40)


def test_the_models_of_the_tests_can_be_built() -> None:
    """So that no test of a GPU fails for what has nothing to do with one."""
    from stmdeploy.backbones.catalogue import check_image_size, resolve
    from tests.gpu import test_on_gpu

    for model in (*test_on_gpu.MODELS.values(), test_on_gpu.TINY, test_on_gpu.MICRO):
        check_image_size(resolve(model.name), model.image_size)
