"""ONNX by torch's current exporter, run by ONNX Runtime through I/O binding."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.contracts import Draft, ModelInfo, ModuleFactory, TensorInfo
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.spec import INPUT_NAME, OUTPUT_NAME, ExportSpec, RunSpec

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    from torch import nn

    from stmdeploy.contracts import Array

#: The lowest opset with DeformConv, the default, and the highest tried.
OPSETS = (19, 20, 23)
#: A protobuf file ends at 2 GiB; beyond this many bytes of weights they lie beside it.
EXTERNAL_DATA_BYTES = 2**31 - 2**25
#: Per-node notes of torch's exporter that hold paths of the exporting machine.
_PRIVATE_NODE_NOTES = ("pkg.torch.onnx.stack_trace",)
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
#: float32 means float32: TensorFloat-32 would be another precision under the same name.
_PROVIDER_OPTIONS: dict[str, dict[str, str]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}


class OnnxExporter:
    """Exporter of target ``onnx``; its artifacts run on runtime ``onnxruntime``."""

    target = "onnx"
    suffix = ".onnx"
    runtimes = ("onnxruntime",)
    tolerance_relative_l2 = 1e-5
    lowerings = ("tokens", "reference")

    def unavailable(self) -> str:
        """Why this target cannot be used here; empty if it can."""
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
        if not missing:
            return ""
        return f"{' and '.join(missing)} not installed: pip install 'stmdeploy[cpu]' (or [gpu])"

    def export(self, module: nn.Module, info: ModelInfo, spec: ExportSpec, folder: Path) -> Draft:
        """Writes the model, batch dynamic, and checks it with full shape inference.

        Raises:
            StmdeployError: opset out of range, or torch cannot export the module.
        """
        opset = _opset(spec)
        program = _trace(module, spec, opset)
        _annotate(program.model, info, spec)
        path = folder / (spec.stem + self.suffix)
        external = _weight_bytes(module) > EXTERNAL_DATA_BYTES
        program.save(path, external_data=external)
        model = _check(path)
        inputs = tuple(_tensor_info(value) for value in model.graph.input)
        if not isinstance(inputs[0].shape[0], str):
            raise StmdeployError(
                f"{spec.model.name} only exports for {inputs[0].shape[0]} images at a time",
                "its forward must not depend on the batch",
            )
        data = (path.name + ".data",) if external else ()
        return Draft(
            files=(path.name, *data),
            inputs=inputs,
            outputs=tuple(_tensor_info(value) for value in model.graph.output),
            opset=opset,
            operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
            versions={name: version(name) for name in ("torch", "onnx", "onnxscript")},
        )

    def import_engine(self) -> None:
        """Imports ONNX Runtime."""
        import onnxruntime  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> OnnxRuntimeRunner:
        """An ONNX Runtime session of the artifact; `build` is not used."""
        return OnnxRuntimeRunner(path, run)


def _opset(spec: ExportSpec) -> int:
    lowest, default, highest = OPSETS
    opset = default if spec.opset is None else spec.opset
    if not lowest <= opset <= highest:
        raise StmdeployError(f"opset {opset} cannot be written", f"choose {lowest} to {highest}")
    return opset


def _trace(module: nn.Module, spec: ExportSpec, opset: int) -> Any:
    import torch

    # Two images, so that the tracer cannot mistake the batch for a constant one.
    example = torch.zeros(2, 3, *spec.model.image_size)
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
                opset_version=opset,
                verbose=False,
                custom_translation_table=_translations(),
            )
    except torch.onnx.OnnxExporterError as error:
        raise StmdeployError(
            f"{spec.model.name} cannot be exported to ONNX: {error}",
            "the model must be traceable by torch.export with a free batch",
        ) from error


def _translations() -> dict[Any, Any]:
    """How the custom operators of lowered modules are written in ONNX."""
    import torch

    operator = getattr(torch.ops.stmdeploy, "deform_conv", None)
    return {operator.default: _deform_conv} if operator else {}


def _deform_conv(value: Any, offset: Any, mask: Any, groups: int) -> Any:
    """DeformConv with a depth-wise 3x3 kernel of ones: the weighted sum of nine samples."""
    import numpy as np
    import onnx
    from onnxscript import opset19 as op

    channels = value.shape[1]
    ones = onnx.numpy_helper.from_array(np.ones((channels, 1, 3, 3), np.float32))
    return op.DeformConv(
        value,
        op.Constant(value=ones),
        offset,
        None,
        mask,
        group=channels,
        offset_group=groups,
        kernel_shape=[3, 3],
        pads=[1, 1, 1, 1],
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on optional packages off the user's screen."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _annotate(model: Any, info: ModelInfo, spec: ExportSpec) -> None:
    """Writes what the model is into `metadata_props`; drops notes that name local paths."""
    for node in model.graph.all_nodes():
        for note in _PRIVATE_NODE_NOTES:
            node.metadata_props.pop(note, None)
    height, width = info.image_size
    model.metadata_props.update(
        {
            "stmdeploy.version": version("stmdeploy"),
            "stmdeploy.model": info.name,
            "stmdeploy.scale": info.scale,
            "stmdeploy.image_size": f"{height}x{width}",
            "stmdeploy.precision": spec.precision,
            "stmdeploy.weights": info.weights.kind,
            "stmdeploy.weights_sha256": info.weights.sha256,
            "stmdeploy.checkpoint_sha256": info.weights.checkpoint_sha256 or "",
        }
    )


def _weight_bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.state_dict().values())


def _check(path: Path) -> onnx.ModelProto:
    """Checks the file as written, with strict shape inference; gives it without weights."""
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise StmdeployError(
            f"the exported graph is not valid ONNX: {error}",
            "try another --opset, and report the model",
            ExitCode.OUTPUTS_DIFFER,
        ) from error
    return onnx.load(path, load_external_data=False)


def _tensor_info(value: onnx.ValueInfoProto) -> TensorInfo:
    import onnx

    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorInfo(name=value.name, dtype=str(dtype), shape=shape)


class OnnxRuntimeRunner:
    """A session whose input and output stay on the device (the same code for every one)."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        import onnxruntime as ort

        self._ort = ort
        self._run = run
        self._session = _session(path, run)
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

    def run(self) -> None:
        """One inference; returns when the device is done."""
        self._session.run_with_iobinding(self._binding)
        self._binding.synchronize_outputs()

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
            **{f"provider.{key}": value for key, value in sorted(options.items())},
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


def _session(path: Path, run: RunSpec) -> onnxruntime.InferenceSession:
    import onnxruntime as ort

    provider = _PROVIDERS[run.device]
    if run.device == "cuda" and hasattr(ort, "preload_dlls"):
        # Finds the CUDA libraries that come as Python packages, torch's among them.
        ort.preload_dlls()
    if provider not in ort.get_available_providers():
        raise StmdeployError(
            f"this onnxruntime has no {provider}",
            "pip install 'stmdeploy[gpu]'",
            ExitCode.WORKER_FAILED,
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = run.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(
        path, options, providers=[(provider, _PROVIDER_OPTIONS[run.device])]
    )
    if session.get_providers()[0] != provider:
        raise StmdeployError(
            f"onnxruntime fell back from {provider} to {session.get_providers()[0]}",
            "check the driver and the CUDA libraries",
            ExitCode.WORKER_FAILED,
        )
    return session
