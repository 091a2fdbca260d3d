"""ONNX Runtime: one runner, through I/O binding, for every execution provider."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files.writing import scratch_folder
from stmdeploy.hardware.cuda import new_stream, pinned_like, synchronize
from stmdeploy.plugins.runner import Array, OnStream, Runner
from stmdeploy.schema.onnx_files import PART_NOTE
from stmdeploy.spec.model import INPUT_NAME
from stmdeploy.spec.run import RunSpec

from .onnx_graph import ROUNDS_NOTE, notes_of
from .ort_providers import PROVIDERS, STREAM_OPTION, provider_of

if TYPE_CHECKING:
    import onnxruntime


#: Its own names for how far it rewrites a graph.
_OPTIMIZATIONS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "disabled": "ORT_DISABLE_ALL",
}


class OnnxRuntimeRunner(Runner):
    """A session whose input and outputs stay on the device; the same code for every provider."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        import onnxruntime as ort

        self._ort = ort
        self._run = run
        self._session, self._stream = _session(path, run)
        self._binding = self._session.io_binding()
        self._names = [one.name for one in self._session.get_inputs()]
        self._inputs: list[onnxruntime.OrtValue] = []
        self._outputs: list[onnxruntime.OrtValue] = []
        self._pinned: list[Array] = []

    def prepare(self, *inputs: Array) -> None:
        """Copies the inputs to the device; binds them and preallocated outputs."""
        self._inputs, self._outputs = [], []
        for name, given in zip(self._names, inputs, strict=True):
            value = self._ort.OrtValue.ortvalue_from_numpy(given, self._run.device, 0)
            self._binding.bind_ortvalue_input(name, value)
            self._inputs.append(value)
        for output, (shape, dtype) in zip(
            self._session.get_outputs(), self._made(inputs), strict=True
        ):
            value = self._ort.OrtValue.ortvalue_from_shape_and_type(
                shape, dtype, self._run.device, 0
            )
            self._binding.bind_ortvalue_output(output.name, value)
            self._outputs.append(value)
        self._binding.synchronize_inputs()

    def _made(self, inputs: tuple[Array, ...]) -> list[tuple[list[int], Any]]:
        """Shape and type of every output; a file that leaves more open than the batch of images is
        run to find them out."""
        images, outputs = inputs[0], self._session.get_outputs()
        shapes = [[len(images), *output.shape[1:]] for output in outputs]
        known = all(isinstance(side, int) for shape in shapes for side in shape)
        if known and self._takes_images(outputs):
            return [(shape, images.dtype.type) for shape in shapes]
        found: Any = self._session.run(None, dict(zip(self._names, inputs, strict=True)))
        return [(list(one.shape), one.dtype.type) for one in found]

    def _takes_images(self, outputs: Any) -> bool:
        """Whether it maps a batch of images to as many rows of float32, as our own files do."""
        batches = {str(one.shape[0]) for one in outputs if one.shape}
        (first, *others) = self._session.get_inputs()
        types = {one.type for one in (first, *outputs)}
        alike = batches == {str(first.shape[0])} and len(types) == 1
        return not others and first.name == INPUT_NAME and alike

    def feed(self, *inputs: Array) -> None:
        """As `Runner.feed`; to a GPU from pinned memory, as a server keeps its inputs."""
        if not self._inputs:
            raise RuntimeError("prepare() comes before feed()")
        if self._run.device == "cuda":
            if [one.shape for one in self._pinned] != [one.shape for one in inputs]:
                self._pinned = list(map(pinned_like, inputs))
            for mine, given in zip(self._pinned, inputs, strict=True):
                mine[...] = given
            inputs = tuple(self._pinned)
        for value, given in zip(self._inputs, inputs, strict=True):
            value.update_inplace(given)
        self._binding.synchronize_inputs()

    def another(self) -> Self:
        """The same session, with a binding of its own."""
        twin = copy.copy(self)
        twin._binding = self._session.io_binding()
        twin._inputs, twin._outputs, twin._pinned = [], [], []
        return twin

    def run(self) -> None:
        self._session.run_with_iobinding(self._binding)
        if self._run.in_flight == 1:  # it would wait for all requests on the device
            self._binding.synchronize_outputs()

    def on_stream(self) -> OnStream | None:
        """The session's stream, if it has its own, and a run that does not wait for it."""
        if self._stream is None:
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        handle = self._stream
        return OnStream(
            handle,
            lambda: self._session.run_with_iobinding(self._binding, options),
            lambda: synchronize(handle),
        )

    def outputs(self) -> tuple[Array, ...]:
        if not self._outputs:
            raise RuntimeError("prepare() comes before outputs()")
        return tuple(value.numpy().copy() for value in self._outputs)

    def facts(self) -> dict[str, str]:
        """Adds the provider's options, as the session reports them."""
        provider = self._session.get_providers()[0]
        options = self._session.get_provider_options().get(provider, {})
        return {
            "runtime": "onnxruntime",
            "version": self._ort.__version__,
            "provider": provider,
            "intra_op_threads": str(self._run.threads),
            "inter_op_threads": str(self._run.settings.inter_op_threads),
            "graph_optimization": self._run.settings.graph_optimization,
            "spinning": str(self._run.settings.spinning).lower(),
            "denormals": "flushed" if self._run.settings.flush_denormals else "kept",
            **_placement(self._session, provider),
            **{
                f"provider.{key}": value
                for key, value in sorted(options.items())
                if key != STREAM_OPTION  # an address, another in every process
            },
        }


def _placement(session: onnxruntime.InferenceSession, provider: str) -> dict[str, str]:
    """Lists nodes that run on another provider than the one asked for, which costs copies."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    elsewhere = Counter(
        f"{node.op_type} on {part.ep_name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    )
    listed = ", ".join(f"{place} x{n}" for place, n in elsewhere.most_common())
    return {"nodes_elsewhere": listed or "none"}


def _session(path: Path, run: RunSpec) -> tuple[onnxruntime.InferenceSession, int | None]:
    """Opens a session on the provider of a run, and the CUDA stream that the device times it on.

    The stream is None on the CPU; with several requests in flight, which would wait for each other
    on it; and with CUDA graphs, after which ONNX Runtime always waits.

    Raises:
        StmdeployError: (exit code 5) this onnxruntime lacks the provider, or fell back from it.
    """
    import onnxruntime as ort

    provider, install = PROVIDERS[run.settings.provider or run.device]
    if run.device == "cuda" and hasattr(ort, "preload_dlls"):
        # Finds CUDA libraries in Python packages, torch's among them.
        ort.preload_dlls()
    if run.settings.provider == "tensorrt":
        with suppress(ImportError):  # the system's loader may still find its libraries
            import_module("tensorrt")
    if provider not in ort.get_available_providers():
        raise StmdeployError(f"this onnxruntime has no {provider}", install, ExitCode.WORKER_FAILED)
    alone = run.in_flight == 1 and not run.settings.cuda_graph
    stream = new_stream() if run.device == "cuda" and alone else None
    options = session_options(run)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = ort.InferenceSession(
            path, options, providers=provider_of(run, path, stream), enable_fallback=0
        )
    except Exception:
        # Its errors share no class. It records no graph of a session that has nodes elsewhere.
        if not (run.settings.cuda_graph and run.settings.cuda_graph_optional):
            raise
        plain = replace(run.settings, cuda_graph=False)
        return _session(path, replace(run, settings=plain))
    if session.get_providers()[0] != provider:
        raise StmdeployError(
            f"onnxruntime fell back from {provider} to {session.get_providers()[0]}",
            "check the driver with nvidia-smi, and the provider's libraries",
            ExitCode.WORKER_FAILED,
        )
    return session, stream


def session_options(run: RunSpec) -> onnxruntime.SessionOptions:
    """The options that all sessions of a run share."""
    import onnxruntime as ort

    settings, options = run.settings, ort.SessionOptions()
    options.intra_op_num_threads = run.threads
    options.inter_op_num_threads = settings.inter_op_threads
    if settings.inter_op_threads > 1:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if not settings.spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if settings.flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    level = _OPTIMIZATIONS[settings.graph_optimization]
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    return options


#: The operator of a matrix product by precision, and the types of its operands and result.
_PRODUCTS = {
    "fp32": ("MatMul", "float32", "float32", "float32"),
    "fp16": ("MatMul", "float16", "float16", "float16"),
    "int8": ("MatMulInteger", "uint8", "int8", "int32"),
}


def matrix_product(run: RunSpec, size: int) -> Callable[[], None] | None:
    """Prepares a product of two square matrices on the CPU, the second a constant; None in a
    precision that ONNX Runtime has no product for."""
    import numpy as np
    import onnxruntime as ort
    from onnx import helper, numpy_helper

    if run.precision not in _PRODUCTS:
        return None

    def declared(name: str, values: Any) -> Any:
        dtype = helper.np_dtype_to_tensor_dtype(values.dtype)
        return helper.make_tensor_value_info(name, dtype, values.shape)

    operator, *dtypes = _PRODUCTS[run.precision]
    left, right, result = (np.ones((size, size), dtype) for dtype in dtypes)
    graph = helper.make_graph(
        [helper.make_node(operator, ["left", "right"], ["result"])],
        "product",
        [declared("left", left)],
        [declared("result", result)],
        [numpy_helper.from_array(right, "right")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = ort.InferenceSession(
        model.SerializeToString(), session_options(run), providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    binding.bind_cpu_input("left", left)
    binding.bind_ortvalue_output("result", ort.OrtValue.ortvalue_from_numpy(result))
    return lambda: session.run_with_iobinding(binding)


def first_non_finite(path: Path, images: Array) -> str:
    """Names the first node of an ONNX file whose output for some images is not finite, and its
    part of the model; empty if there is none.

    Every node's output becomes an output of the graph. Optimisations are off, so that the nodes are
    those of the file; they stand in the order they run in, so that the first one is the cause.
    """
    import numpy as np
    import onnx
    import onnxruntime as ort

    model = onnx.load(path)
    known = {output.name for output in model.graph.output}
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    model.graph.output.extend(
        value for value in inferred
        if value.type.tensor_type.elem_type in floats and value.name not in known
    )  # fmt: skip
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    with scratch_folder("open") as scratch:
        opened = scratch / "open.onnx"
        onnx.save(model, opened, save_as_external_data=True, location="open.data")
        session = ort.InferenceSession(opened, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))
    for node in model.graph.node:
        for name in node.output:
            if name in values and not np.isfinite(values[name].astype(np.float32)).all():
                notes = notes_of(node)
                part = notes.get(PART_NOTE, "")
                who = notes.get(ROUNDS_NOTE, f"{node.op_type} {node.name}")
                return f"the first is {who}{part and ' of '}{part}"
    return ""
