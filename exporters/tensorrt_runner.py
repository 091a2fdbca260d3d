"""Runs a TensorRT engine on a GPU; torch provides the device memory and the stream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.writing import sha256_of
from stmdeploy.plugins.exporter import Declared
from stmdeploy.plugins.runner import Array
from stmdeploy.schema.manifest import EngineInfo, TensorInfo
from stmdeploy.spec.run import RunSpec

from .outside import OPEN
from .tensorrt_log import recording_logger
from .tensors import TensorRunner

if TYPE_CHECKING:
    import torch


def why_no_gpu() -> str:
    """Why engines cannot run here; empty if they can."""
    import torch

    return "" if torch.cuda.is_available() else "no GPU"


def gpu_capability() -> str:
    """The compute capability of this machine's GPU, such as ``8.9``; empty without one."""
    import torch

    return "" if why_no_gpu() else "{}.{}".format(*torch.cuda.get_device_capability())


class TensorRtRunner(TensorRunner):
    """An execution context over device memory, on a stream of its own."""

    def __init__(self, trt: Any, path: Path, run: RunSpec, info: EngineInfo) -> None:
        import torch

        self._trt, self._info = trt, info
        name = torch.cuda.get_device_name()
        if info.gpu and info.gpu != name:
            raise StmdeployError(
                f"{path} was built on {info.gpu}, but this GPU is {name}",
                "export it again: engines of TensorRT only run on the GPU they were built on",
            )
        self._log = recording_logger(trt)
        self._runtime = trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise StmdeployError(
                f"{path} cannot be loaded: {self._log.first_error()}",
                "export it again on this machine",
                ExitCode.WORKER_FAILED,
            )
        self.context = self._new_context()
        super().__init__(run, on_gpu=True)

    def _new_context(self) -> Any:
        """A new execution context, whose kernels are compiled for the exact shapes before they run.

        By default TensorRT-RTX starts with other kernels and compiles these while it is measured.
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
                "free memory on the GPU, or take a smaller --batch",
                ExitCode.WORKER_FAILED,
            )
        return context

    def prepare(self, *inputs: Array) -> None:
        """Copies the inputs to the device, allocates the outputs, captures the graph if asked."""
        torch, context = self._torch, self.context
        self._graph = None
        self._inputs = tuple(torch.from_numpy(one).to("cuda") for one in inputs)
        taken = dict(zip(self._names(self._trt.TensorIOMode.INPUT), self._inputs, strict=True))
        for name, given in taken.items():
            if not context.set_input_shape(name, tuple(given.shape)):
                raise StmdeployError(
                    f"the engine does not take {name} of shape {tuple(given.shape)}",
                    "export it with another --batch MIN,OPT,MAX",
                )
        tensors = {
            name: torch.empty(
                tuple(context.get_tensor_shape(name)), dtype=self._dtype(name), device="cuda"
            )
            for name in self._names(self._trt.TensorIOMode.OUTPUT)
        }
        self._outputs = tuple(tensors.values())
        for name, tensor in (*taken.items(), *tensors.items()):
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise StmdeployError(
                    f"the engine has no {name!r}: {self._log.first_error()}", "export it again"
                )
        torch.cuda.synchronize()
        if self._run.settings.cuda_graph:
            self._record()

    def _names(self, mode: Any) -> list[str]:
        """The names of the engine's inputs, or of its outputs, in the order of the model."""
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        return [name for name in names if self._engine.get_tensor_mode(name) == mode]

    def _dtype(self, name: str) -> torch.dtype:
        """The type of a tensor."""
        import numpy as np

        named = self._trt.nptype(self._engine.get_tensor_dtype(name))
        return getattr(self._torch, np.dtype(named).name)  # type: ignore[no-any-return]

    def another(self) -> Self:
        """The same engine, with an execution context and a stream of its own."""
        twin = super().another()
        twin.context = self._new_context()
        return twin

    def _check_capturable(self) -> None:
        handle = self._stream.cuda_stream
        if hasattr(self.context, "is_stream_capturable") and not (
            self.context.is_stream_capturable(handle)
        ):
            raise StmdeployError(
                "the engine cannot be recorded as a CUDA graph", "leave --use-cuda-graph out"
            )

    def _execute(self) -> None:
        if not self.context.execute_async_v3(self._stream.cuda_stream):
            raise StmdeployError(
                f"the engine failed: {self._log.first_error()}",
                "check the GPU with nvidia-smi, or export the engine again",
                ExitCode.WORKER_FAILED,
            )

    def facts(self) -> dict[str, str]:
        return {
            "runtime": self._info.module,
            "version": self._trt.__version__,
            "provider": self._torch.cuda.get_device_name(),
            "cuda_graph": str(self._graph is not None).lower(),
            "device_memory_bytes": str(self._engine.device_memory_size_v2),
        }


def _deserialized(trt: Any, path: Path) -> Any:
    """An engine, loaded; only the version and the GPU that built it can.

    Raises:
        StmdeployError: (exit code 5) it cannot be loaded here.
    """
    if reason := why_no_gpu():
        raise StmdeployError(
            f"{path} cannot be read: {reason}", "read it on a machine with an NVIDIA GPU",
            ExitCode.WORKER_FAILED,
        )  # fmt: skip
    log = recording_logger(trt)
    engine = trt.Runtime(log).deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise StmdeployError(
            f"{path} cannot be loaded: {log.first_error()}",
            f"build it by {trt.__name__} {trt.__version__} on this machine",
            ExitCode.WORKER_FAILED,
        )
    return engine


def declared_engine(trt: Any, path: Path) -> Declared:
    """What an engine from outside says of its inputs and outputs.

    Raises:
        StmdeployError: (exit code 5) it cannot be loaded here.
    """
    import numpy as np

    engine = _deserialized(trt, path)
    tensors: dict[Any, list[TensorInfo]] = {}
    for place in range(engine.num_io_tensors):
        name = engine.get_tensor_name(place)
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name
        shape = tuple(OPEN if side < 0 else side for side in engine.get_tensor_shape(name))
        told = TensorInfo(name=name, dtype=dtype, shape=shape)
        tensors.setdefault(engine.get_tensor_mode(name), []).append(told)
    mode = trt.TensorIOMode
    return Declared(
        inputs=tuple(tensors.get(mode.INPUT, ())),
        outputs=tuple(tensors.get(mode.OUTPUT, ())),
        precision="fp32",
        parameters=0,
        sha256=sha256_of(path),
    )


def engine_info(trt: Any, path: Path) -> EngineInfo:
    """What can be told of an engine from outside: for which batches it was built.

    Raises:
        StmdeployError: (exit code 5) it cannot be loaded here.
    """
    import torch

    engine = _deserialized(trt, path)
    first = engine.get_tensor_name(0)
    least, best, most = (shape[0] for shape in engine.get_tensor_profile_shape(first, 0))
    rtx = trt.__name__ == "tensorrt_rtx"
    return EngineInfo(
        module=trt.__name__,
        version=trt.__version__,
        gpu="" if rtx else torch.cuda.get_device_name(),
        compute_capabilities=(gpu_capability(),) if rtx else (),
        batch=(least, best, most),
        builder_level=None,
        workspace_mib=None,
        layers_before=None,
        layers_after=engine.num_layers,
        output_dtypes={},
        weights_bytes=None,
        activation_bytes=engine.device_memory_size_v2,
        onnx_sha256="",
        build_s=None,
    )
