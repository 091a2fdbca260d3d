"""ONNX Runtime: one runner, through I/O binding, for every execution provider."""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.contracts import OnStream
from stmdeploy.cuda import new_stream
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files import scratch_folder
from stmdeploy.spec import INPUT_NAME, OUTPUT_NAME, RunSpec

from .onnx_graph import PART_NOTE, ROUNDS_NOTE

if TYPE_CHECKING:
    import onnxruntime

    from stmdeploy.contracts import Array


class OnnxRuntimeRunner:
    """A session whose input and output stay on the device (the same code for every one)."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        import onnxruntime as ort

        self._ort = ort
        self._run = run
        _check_provider(run)
        self._stream = _own_stream(run)
        self._session = _session(path, run, self._stream)
        self._binding = self._session.io_binding()
        self._input: onnxruntime.OrtValue | None = None
        self._output: onnxruntime.OrtValue | None = None

    def prepare(self, images: Array) -> None:
        """Copies the input to the device and binds it, and a preallocated output."""
        self._input = self._ort.OrtValue.ortvalue_from_numpy(images, self._run.device, 0)
        shape = [images.shape[0], *self._session.get_outputs()[0].shape[1:]]
        self._output = self._ort.OrtValue.ortvalue_from_shape_and_type(
            shape, images.dtype.type, self._run.device, 0
        )
        self._binding.bind_ortvalue_input(INPUT_NAME, self._input)
        self._binding.bind_ortvalue_output(OUTPUT_NAME, self._output)
        self._binding.synchronize_inputs()

    def feed(self, images: Array) -> None:
        """Copies an input over the bound one."""
        if self._input is None:
            raise RuntimeError("prepare() comes before feed()")
        self._input.update_inplace(images)
        self._binding.synchronize_inputs()

    def another(self) -> OnnxRuntimeRunner:
        """The same session, with a binding of its own."""
        twin = copy.copy(self)
        twin._binding = self._session.io_binding()
        twin._input = twin._output = None
        return twin

    def run(self) -> None:
        """One inference; returns when the device is done."""
        self._session.run_with_iobinding(self._binding)
        if self._run.in_flight == 1:  # it waits for the whole device, other requests included
            self._binding.synchronize_outputs()

    def on_stream(self) -> OnStream | None:
        """The session's stream, and a run that does not wait for it."""
        if self._stream is None:
            return None
        options = self._ort.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        return OnStream(
            self._stream, lambda: self._session.run_with_iobinding(self._binding, options)
        )

    def output(self) -> Array:
        """The logits of the latest run, copied to the host."""
        if self._output is None:
            raise RuntimeError("prepare() comes before output()")
        logits: Array = self._output.numpy()
        return logits.copy()

    def facts(self) -> dict[str, str]:
        """Version, provider and its options as the session reports them."""
        provider = self._session.get_providers()[0]
        options = self._session.get_provider_options().get(provider, {})
        return {
            "runtime": "onnxruntime",
            "version": self._ort.__version__,
            "provider": provider,
            "intra_op_threads": str(self._run.threads),
            "inter_op_threads": "1",
            "graph_optimization": "all",
            **_placement(self._session, provider),
            **{
                f"provider.{key}": value
                for key, value in sorted(options.items())
                if key != _STREAM  # a number that says nothing
            },
        }


def _placement(session: onnxruntime.InferenceSession, provider: str) -> dict[str, str]:
    """Nodes that another provider than the one asked for runs, which costs copies."""
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


#: The provider that is meant by the name used here, and what a package that has it is.
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install 'stmdeploy[cpu]'"),
    "cuda": ("CUDAExecutionProvider", "pip install 'stmdeploy[gpu]'"),
    "tensorrt": ("TensorrtExecutionProvider", "pip install 'stmdeploy[gpu]' and TensorRT 10"),
    "nvtensorrtrtx": (
        "NvTensorRTRTXExecutionProvider",
        "build onnxruntime with it",
    ),
    "openvino": ("OpenVINOExecutionProvider", "install onnxruntime-openvino"),
}
_BYTES_PER_MIB = 2**20
#: The option of the providers for GPUs that takes a stream.
_STREAM = "user_compute_stream"


def _own_stream(run: RunSpec) -> int | None:
    """A stream that the session is given, so that it can be timed by the device.

    None on the CPU; for several requests in flight, which would wait for each other on it; and
    where a graph is replayed, which ONNX Runtime always waits for.
    """
    alone = run.in_flight == 1 and not run.settings.cuda_graph
    return new_stream() if run.device == "cuda" and alone else None


def _check_provider(run: RunSpec) -> None:
    """Raises StmdeployError (exit code 5) if this onnxruntime was built without the provider."""
    import onnxruntime as ort

    provider, install = _PROVIDERS[run.settings.provider or run.device]
    if run.device == "cuda" and hasattr(ort, "preload_dlls"):
        # Finds the CUDA libraries that come as Python packages, torch's among them.
        ort.preload_dlls()
    if run.settings.provider == "tensorrt":
        with suppress(ImportError):  # then the loader must find its libraries by itself
            import_module("tensorrt")
    if provider not in ort.get_available_providers():
        raise StmdeployError(f"this onnxruntime has no {provider}", install, ExitCode.WORKER_FAILED)


def _session(path: Path, run: RunSpec, stream: int | None) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    provider, _ = _PROVIDERS[run.settings.provider or run.device]
    options = session_options(run)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(
        path, options, providers=provider_of(run, path, stream), enable_fallback=0
    )
    if session.get_providers()[0] != provider:
        raise StmdeployError(
            f"onnxruntime fell back from {provider} to {session.get_providers()[0]}",
            "check the driver and the CUDA libraries",
            ExitCode.WORKER_FAILED,
        )
    return session


def session_options(run: RunSpec) -> onnxruntime.SessionOptions:
    """The options that every session of a run has."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = run.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def provider_of(
    run: RunSpec, path: Path, stream: int | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The provider that is asked for; behind one that builds engines, CUDA for what it refuses.

    All of them on one stream, where one is given.
    """
    name = run.settings.provider or run.device
    builds = name in ("tensorrt", "nvtensorrtrtx")
    options = provider_options(name, run, _image_shape(path) if builds else "")
    behind = [("cuda", provider_options("cuda", run, ""))] if builds else []
    own = {} if stream is None else {_STREAM: str(stream)}
    return [(_PROVIDERS[key][0], values | own) for key, values in ((name, options), *behind)]


def _image_shape(path: Path) -> str:
    """``3x224x224``, for providers that want to know the shapes before they build."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    dims = model.graph.input[0].type.tensor_type.shape.dim[1:]
    return "x".join(str(dim.dim_value) for dim in dims)


def provider_options(name: str, run: RunSpec, image_shape: str) -> dict[str, str]:
    """A provider's own words for the settings of a run; an engine is built for its batch.

    float32 means float32: TensorFloat-32 would be another precision under the same name. What
    has no option of its own for it is told by the worker's environment.
    """
    graph = str(int(run.settings.cuda_graph))
    batches = {"min": run.batch, "opt": run.batch, "max": run.batch}
    shapes = {key: f"{INPUT_NAME}:{batch}x{image_shape}" for key, batch in batches.items()}
    workspace = (run.settings.engine.workspace_mib or 0) * _BYTES_PER_MIB
    if name == "cuda":
        return {"use_tf32": "0", "enable_cuda_graph": graph}
    if name == "openvino":
        precision = {"fp16": "FP16", "bf16": "BF16"}.get(run.precision, "FP32")
        return {
            "device_type": "CPU",
            "num_of_threads": str(run.threads),
            "precision": precision,
            "load_config": json.dumps({"CPU": {"PERFORMANCE_HINT": run.settings.hint.upper()}}),
        }
    if name == "tensorrt":
        options = {f"trt_profile_{key}_shapes": shape for key, shape in shapes.items()}
        # This provider takes these words and no numbers.
        options["trt_cuda_graph_enable"] = str(run.settings.cuda_graph)
        if workspace:
            options["trt_max_workspace_size"] = str(workspace)
        if run.settings.engine.builder_level is not None:
            options["trt_builder_optimization_level"] = str(run.settings.engine.builder_level)
        if run.settings.engine.timing_cache is not None:
            options["trt_timing_cache_enable"] = "True"
            options["trt_timing_cache_path"] = str(
                run.settings.engine.timing_cache.absolute().parent
            )  # a folder: ONNX Runtime names the file after the GPU
        return options
    if name == "nvtensorrtrtx":
        options = {f"nv_profile_{key}_shapes": shape for key, shape in shapes.items()}
        options["enable_cuda_graph"] = graph
        if workspace:
            options["nv_max_workspace_size"] = str(workspace)
        return options
    return {}


#: Operands and result of a product, and the operator that multiplies them.
_PRODUCTS = {
    "fp32": ("MatMul", "float32", "float32", "float32"),
    "fp16": ("MatMul", "float16", "float16", "float16"),
    "int8": ("MatMulInteger", "uint8", "int8", "int32"),
}


def matrix_product(run: RunSpec, size: int) -> Callable[[], None] | None:
    """A product of two square matrices on the CPU, the second a constant; None in a precision
    that ONNX Runtime multiplies nothing in."""
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
    """The first node of an ONNX file whose output is not finite, for some images.

    Every node's output is made an output of the graph; optimisations are off, so that the
    nodes are those of the file. Nodes that other nodes already gave such a value are passed
    over by the order of the graph.
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
                notes = {note.key: note.value for note in node.metadata_props}
                part = notes.get(PART_NOTE, "")
                who = notes.get(ROUNDS_NOTE, f"{node.op_type} {node.name}")
                return f"the first is {who}{part and ' of '}{part}"
    return ""
