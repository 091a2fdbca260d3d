"""Settings of ONNX Runtime's providers, in each provider's own words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from stmdeploy import StmdeployError
from stmdeploy.exporters.ort_providers import provider_of, provider_options
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import RunSettings, RunSpec


def run(provider: str, **settings: object) -> RunSpec:
    engine = EngineSpec((1, 4, 16), 64, 3, Path("cache"))
    device = "cuda" if provider in ("cuda", "tensorrt", "nvtensorrtrtx") else "cpu"
    options = RunSettings(provider, engine=engine, **settings)  # type: ignore[arg-type]
    return RunSpec("onnxruntime", 32, 2, device, settings=options)


def test_tensorrt() -> None:
    assert provider_options("tensorrt", run("tensorrt", cuda_graph=True), "3x224x224") == {
        "trt_profile_min_shapes": "image:32x3x224x224",
        "trt_profile_opt_shapes": "image:32x3x224x224",
        "trt_profile_max_shapes": "image:32x3x224x224",
        "trt_cuda_graph_enable": "True",
        "trt_max_workspace_size": str(64 * 2**20),
        "trt_builder_optimization_level": "3",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(Path.cwd()),
    }


def test_tensorrt_rtx() -> None:
    assert provider_options("nvtensorrtrtx", run("nvtensorrtrtx"), "3x64x64") == {
        "nv_profile_min_shapes": "image:32x3x64x64",
        "nv_profile_opt_shapes": "image:32x3x64x64",
        "nv_profile_max_shapes": "image:32x3x64x64",
        "enable_cuda_graph": "0",
        "nv_max_workspace_size": str(64 * 2**20),
    }


def test_the_others() -> None:
    assert provider_options("cuda", run("cuda"), "")["use_tf32"] == "0"
    assert provider_options("cpu", run("cpu"), "") == {}
    assert provider_options("openvino", run("openvino"), "")["num_of_threads"] == "2"
    hinted = provider_options("openvino", run("openvino", hint="throughput"), "")
    assert json.loads(hinted["load_config"]) == {"CPU": {"PERFORMANCE_HINT": "THROUGHPUT"}}


def test_all_providers_of_a_session_share_its_stream(tmp_path: Path) -> None:
    """What an engine does not take, CUDA does behind it, in order."""
    (name, first), (fallback, second) = provider_of(run("tensorrt"), _graph(tmp_path), 77)
    assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert first["user_compute_stream"] == second["user_compute_stream"] == "77"
    assert "user_compute_stream" not in provider_of(run("cuda"), tmp_path)[0][1]


def _graph(folder: Path) -> Path:
    """A file whose input is an image."""
    shape: list[str | int | None] = ["batch", 3, 64, 64]
    value = helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)
    node = helper.make_node("Identity", ["image"], ["logits"])
    out = helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    path = folder / "graph.onnx"
    onnx.save(helper.make_model(helper.make_graph([node], "g", [value], [out])), path)
    return path


@pytest.mark.parametrize(("provider", "device"), [("cuda", "cpu"), ("openvino", "cuda")])
def test_a_provider_on_the_wrong_device(provider: str, device: str) -> None:
    with pytest.raises(StmdeployError, match=f"--provider {provider} runs on"):
        RunSpec("onnxruntime", 1, 1, device, settings=RunSettings(provider))


def test_unknown_words() -> None:
    with pytest.raises(StmdeployError, match="unknown --provider 'cudda'; did you mean 'cuda'"):
        RunSettings("cudda")
    with pytest.raises(StmdeployError, match="unknown --hint 'fast'"):
        RunSettings(hint="fast")


@pytest.mark.parametrize("flush", [False, True])
def test_denormals(flush: bool, tmp_path: Path) -> None:
    """In a process of its own: the first session decides for the thread that runs it."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [100_000])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [100_000])
    graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "square.onnx")
    script = f"""
import numpy, onnxruntime
from stmdeploy.exporters.ort_session import session_options
from stmdeploy.spec.run import RunSettings, RunSpec
settings = RunSettings(flush_denormals={flush})
options = session_options(RunSpec("onnxruntime", 1, 2, settings=settings))
session = onnxruntime.InferenceSession({str(tmp_path / "square.onnx")!r}, options)
(y,) = session.run(None, {{"x": numpy.full(100_000, 1e-20, numpy.float32)}})
print(int((y.view(numpy.uint32) != 0).sum()))
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert int(told) == (0 if flush else 100_000)
