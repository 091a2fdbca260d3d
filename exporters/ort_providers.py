"""ONNX Runtime's execution providers: their names, and a run's settings as their options."""

from __future__ import annotations

import json
from pathlib import Path

from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.spec.model import INPUT_NAME
from stmdeploy.spec.run import RunSpec

from .onnx_graph import graph_of

#: For every ``--provider``: ONNX Runtime's name, and the command that installs it.
PROVIDERS = {
    "cpu": ("CPUExecutionProvider", "pip install 'stmdeploy[cpu]'"),
    "cuda": ("CUDAExecutionProvider", "pip install 'stmdeploy[gpu]'"),
    "tensorrt": ("TensorrtExecutionProvider", "pip install 'stmdeploy[gpu]' and TensorRT 10"),
    "nvtensorrtrtx": ("NvTensorRTRTXExecutionProvider", "pip install onnxruntime-trt-rtx"),
    "openvino": ("OpenVINOExecutionProvider", "pip install onnxruntime-openvino"),
}
#: The providers that build engines, and the prefix of their own options.
BUILDERS = {"tensorrt": "trt", "nvtensorrtrtx": "nv"}
#: The option that hands a CUDA stream to the providers for GPUs.
STREAM_OPTION = "user_compute_stream"


def provider_of(
    run: RunSpec, path: Path, stream: int | None = None
) -> list[tuple[str, dict[str, str]]]:
    """The provider that a run asks for, followed by CUDA where it builds engines, for the nodes
    that it refuses; each with its options.

    ``stream``: the handle of a CUDA stream that they are to share; None for their own.
    """
    name = run.settings.provider or run.device
    builds, shape = name in BUILDERS, ""
    if builds:  # it must know the shapes in advance
        dims = graph_of(path).input[0].type.tensor_type.shape.dim[1:]
        shape = "x".join(str(dim.dim_value) for dim in dims)
    own = {} if stream is None else {STREAM_OPTION: str(stream)}
    return [
        (PROVIDERS[key][0], provider_options(key, run, shape) | own)
        for key in ((name, "cuda") if builds else (name,))
    ]


def provider_options(name: str, run: RunSpec, image_shape: str) -> dict[str, str]:
    """The settings of a run as a provider's own options; an engine is built for the run's batch.

    float32 means float32: TensorFloat-32 would be another precision under the same name. The
    worker's environment switches it off in providers that have no option for it.
    """
    engine, graph = run.settings.engine, run.settings.cuda_graph
    if name == "cuda":
        return {"use_tf32": "0", "enable_cuda_graph": str(int(graph))}
    if name == "openvino":
        precision = {"fp16": "FP16", "bf16": "BF16"}.get(run.precision, "FP32")
        return {
            "device_type": "CPU",
            "num_of_threads": str(run.threads),
            "precision": precision,
            "load_config": json.dumps({"CPU": {"PERFORMANCE_HINT": run.settings.hint.upper()}}),
        }
    if name not in BUILDERS:
        return {}
    own = BUILDERS[name]
    shape = f"{INPUT_NAME}:{run.batch}x{image_shape}"
    options = {f"{own}_profile_{end}_shapes": shape for end in ("min", "opt", "max")}
    if engine.workspace_mib:
        options[f"{own}_max_workspace_size"] = str(engine.workspace_mib * BYTES_PER_MIB)
    if name == "nvtensorrtrtx":
        return {**options, "enable_cuda_graph": str(int(graph))}
    options["trt_cuda_graph_enable"] = str(graph)  # True or False: it takes no number
    if engine.builder_level is not None:
        options["trt_builder_optimization_level"] = str(engine.builder_level)
    if engine.timing_cache is not None:
        options["trt_timing_cache_enable"] = "True"
        # The folder alone: ONNX Runtime names the file after the GPU.
        options["trt_timing_cache_path"] = str(engine.timing_cache.absolute().parent)
    return options
