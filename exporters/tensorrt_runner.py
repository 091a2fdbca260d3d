"""Runs a TensorRT engine on a GPU: torch holds the device memory and the stream."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.artifact import EngineInfo
from stmdeploy.contracts import OnStream
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.spec import INPUT_NAME, OUTPUT_NAME, RunSpec

from .tensorrt_log import recording_logger

if TYPE_CHECKING:
    from torch import Tensor

    from stmdeploy.contracts import Array

_WARM_RUNS_BEFORE_CAPTURE = 3


def why_no_gpu() -> str:
    """Why no engine can run here; empty if one can."""
    import torch

    return "" if torch.cuda.is_available() else "no GPU"


def gpu_capability() -> str:
    """Of the GPU that is here, as ``8.9``; empty without one."""
    import torch

    if why_no_gpu():
        return ""
    return "{}.{}".format(*torch.cuda.get_device_capability())


class TensorRtRunner:
    """An execution context over device memory, `execute_async_v3` on a stream of its own."""

    def __init__(self, trt: Any, path: Path, run: RunSpec, info: EngineInfo) -> None:
        import torch

        self._trt, self._torch, self._run, self._info = trt, torch, run, info
        name = torch.cuda.get_device_name()
        if info.gpu and info.gpu != name:
            raise StmdeployError(
                f"{path} was built on {info.gpu}, this is {name}",
                "engines of TensorRT only run on the GPU they were built on: export it again",
            )
        self._log = recording_logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise StmdeployError(
                f"{path} cannot be loaded: {self._log.first_error() or 'no reason is given'}",
                "export it again, here",
                ExitCode.WORKER_FAILED,
            )
        self.context = self._new_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graph: Any = None
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def _new_context(self) -> Any:
        """An execution context, its kernels made for the very shapes before they run.

        Left alone, TensorRT-RTX runs others at first and makes those beside the measurement.
        """
        config: tuple[Any, ...] = ()
        if hasattr(self._engine, "create_runtime_config"):
            own = self._engine.create_runtime_config()
            if hasattr(own, "dynamic_shapes_kernel_specialization_strategy"):
                eager = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
                own.dynamic_shapes_kernel_specialization_strategy = eager
            config = (own,)
        context = self._engine.create_execution_context(*config)
        if context is None:
            raise StmdeployError(
                f"no execution context: {self._log.first_error()}",
                "the device may be out of memory",
                ExitCode.WORKER_FAILED,
            )
        return context

    def prepare(self, images: Array) -> None:
        """Copies the input to the device, makes room for the output, records the graph."""
        torch, context = self._torch, self.context
        self._graph = None
        self._input = torch.from_numpy(images).to("cuda")
        if not context.set_input_shape(INPUT_NAME, tuple(images.shape)):
            raise StmdeployError(
                f"the engine does not take a batch of {images.shape[0]}",
                "export it with another --batch MIN,OPT,MAX",
            )
        shape = tuple(context.get_tensor_shape(OUTPUT_NAME))
        self._output = torch.empty(shape, dtype=torch.float32, device="cuda")
        for name, tensor in ((INPUT_NAME, self._input), (OUTPUT_NAME, self._output)):
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise StmdeployError(
                    f"the engine has no {name!r}: {self._log.first_error()}", "export it again"
                )
        torch.cuda.synchronize()
        if self._run.settings.cuda_graph:
            self._record()

    def feed(self, images: Array) -> None:
        """Copies an input over the one on the device."""
        if self._input is None:
            raise RuntimeError("prepare() comes before feed()")
        self._input.copy_(self._torch.from_numpy(images))
        self._torch.cuda.synchronize()

    def another(self) -> TensorRtRunner:
        """The same engine, with an execution context and a stream of its own."""
        twin = copy.copy(self)
        twin.context = self._new_context()
        twin._stream = self._torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return twin

    def _record(self) -> None:
        for _ in range(_WARM_RUNS_BEFORE_CAPTURE):
            self.run()
        handle = self._stream.cuda_stream
        if hasattr(self.context, "is_stream_capturable") and not (
            self.context.is_stream_capturable(handle)
        ):
            raise StmdeployError(
                "the engine cannot be recorded as a CUDA graph", "leave --use-cuda-graph out"
            )
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.cuda.graph(graph, stream=self._stream):
            self._execute()
        self._graph = graph

    def _execute(self) -> None:
        if not self.context.execute_async_v3(self._stream.cuda_stream):
            raise StmdeployError(
                f"the engine failed: {self._log.first_error()}",
                "see the worker's log",
                ExitCode.WORKER_FAILED,
            )

    def _submit(self) -> None:
        if self._graph is not None:
            with self._torch.cuda.stream(self._stream):
                self._graph.replay()
        else:
            self._execute()

    def run(self) -> None:
        """One inference; returns when the stream is done."""
        self._submit()
        self._stream.synchronize()

    def on_stream(self) -> OnStream:
        """Its own stream."""
        return OnStream(self._stream.cuda_stream, self._submit)

    def output(self) -> Array:
        """The logits of the latest run, on the host."""
        if self._output is None:
            raise RuntimeError("prepare() comes before output()")
        logits: Array = self._output.cpu().numpy()
        return logits

    def facts(self) -> dict[str, str]:
        """Module, version, GPU, and whether a graph is replayed."""
        return {
            "runtime": self._info.module,
            "version": self._trt.__version__,
            "provider": self._torch.cuda.get_device_name(),
            "cuda_graph": str(self._graph is not None).lower(),
            "device_memory_bytes": str(self._engine.device_memory_size_v2),
        }
