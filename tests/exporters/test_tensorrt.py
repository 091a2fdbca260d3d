"""Real TensorRT-RTX engines, built here on the CPU; running one needs a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import nn

from stmdeploy import StmdeployError
from stmdeploy.artifacts.outside import adopted, facts_of
from stmdeploy.errors import ExitCode
from stmdeploy.exporters import tensorrt_build, tensorrt_runner
from stmdeploy.exporters.tensorrt import TensorRtExporter, TensorRtRtxExporter
from stmdeploy.exporters.tensorrt_log import fused_layers, memory_bytes
from stmdeploy.files.writing import sha256_of
from stmdeploy.report.artifact import engine_layers
from stmdeploy.schema.artifact import Artifact, manifest_path, read_artifact
from stmdeploy.schema.manifest import Manifest
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.model import FileSpec, ModelSpec, parse_input
from stmdeploy.spec.run import RunSpec
from tests.fakes import RecordedProgress
from tests.foreign import SIZED, write_two_inputs
from tests.sharing import FEW, SharedArtifacts, export_model

trt = pytest.importorskip("tensorrt_rtx")
SMALL = ModelSpec("unified_convnext_nano", image_size=(64, 64), num_classes=10)


def export(
    model: ModelSpec, folder: Path, progress: RecordedProgress | None = None, **options: Any
) -> Artifact:
    spec = ExportSpec(model, "tensorrt-rtx", folder, calibration=FEW, **options)
    return export_model(spec, progress or RecordedProgress())


def build() -> nn.Module:
    raise AssertionError("an engine needs no module")


@pytest.fixture(scope="module")
def built(artifacts: SharedArtifacts) -> Artifact:
    return artifacts.exported(SMALL, "tensorrt-rtx", engine=EngineSpec(batch=(2, 4, 8)))


def test_an_engine_of_a_file_from_outside(tmp_path: Path) -> None:
    """Of two inputs and open sizes: each has its shapes in the profile."""
    path = write_two_inputs(tmp_path / "cameras.onnx")
    given = (parse_input(SIZED),)
    ways = facts_of(path, given).ways
    assert ways[0] == ("onnxruntime", "fp32") and ("tensorrt-rtx", "fp32") in ways
    spec = ExportSpec(
        ModelSpec(path.name, file=FileSpec(path, ways, given)),
        "tensorrt-rtx", tmp_path / "taken", engine=EngineSpec(batch=(1, 2, 4)),
    )  # fmt: skip
    assert spec.model.file is not None
    made = adopted(spec.model.file, TensorRtRtxExporter(), spec, RecordedProgress())
    manifest = made.manifest
    assert manifest.state == "not verified" and manifest.not_run == "no GPU"
    assert manifest.engine is not None and manifest.engine.batch == (1, 2, 4)
    assert [one.shape for one in manifest.inputs] == [("batch", 3, 64, 96), ("batch",)]
    assert made.path.name == "cameras.rtx.engine" and made.path.stat().st_size > 1000


def test_what_is_said_of_an_engine(built: Artifact) -> None:
    manifest = read_artifact(built.path).manifest
    engine = manifest.engine
    assert engine is not None
    assert (engine.module, engine.version) == ("tensorrt_rtx", trt.__version__)
    assert engine.batch == (2, 4, 8)
    assert engine.compute_capabilities == ("8.9",)
    assert engine.layers_after is not None
    assert engine.layers_before and engine.layers_before > engine.layers_after > 20
    assert set(engine.output_dtypes) == {"Float"}
    assert engine.weights_bytes and engine.activation_bytes
    source = built.path.with_name(manifest.files[2].name)
    assert engine.onnx_sha256 == sha256_of(source) == manifest.files[2].sha256
    assert manifest.state == "built, not run"
    assert manifest.not_run == "no GPU"
    assert manifest.proof.runtime.startswith("onnxruntime")
    assert manifest.proof.batches == (1, 2, 3, 8), "of the ONNX file, whose batch is free"
    listing = json.loads(built.path.with_name(manifest.files[1].name).read_text())
    assert len(listing) == engine.layers_after
    assert {"node_conv2d"} <= {node for layer in listing for node in layer["onnx_nodes"]}


def test_no_gpu_is_said_before_the_engine_is_touched(built: Artifact) -> None:
    with pytest.raises(StmdeployError, match="built, not run: no GPU") as error:
        TensorRtRtxExporter().load(built.path, RunSpec("tensorrt-rtx", 2, 1, "cuda"), build)
    assert error.value.code == ExitCode.WORKER_FAILED


def test_a_batch_outside_of_the_profile(built: Artifact) -> None:
    with pytest.raises(StmdeployError, match="takes 2 to 8 images, not 9"):
        TensorRtRtxExporter().load(built.path, RunSpec("tensorrt-rtx", 9, 1, "cuda"), build)


def edited(artifact: Artifact, folder: Path, **engine: object) -> Path:
    """A copy whose manifest says something else of the engine, sealed again."""
    for file in artifact.manifest.files:
        (folder / file.name).symlink_to(artifact.path.with_name(file.name))
    assert artifact.manifest.engine is not None
    changed = artifact.manifest.engine.model_copy(update=engine)
    manifest = artifact.manifest.model_copy(update={"engine": changed}).sealed()
    path = folder / artifact.path.name
    manifest_path(path).write_text(manifest.model_dump_json())
    return path


def test_an_engine_of_another_version(built: Artifact, tmp_path: Path) -> None:
    path = edited(built, tmp_path, version="0.9")
    with pytest.raises(StmdeployError, match=r"was built by tensorrt_rtx 0\.9, .* is installed"):
        TensorRtRtxExporter().load(path, RunSpec("tensorrt-rtx", 2, 1, "cuda"), build)


def test_an_engine_of_the_other_module(built: Artifact, tmp_path: Path) -> None:
    path = edited(built, tmp_path, module="tensorrt")
    with pytest.raises(StmdeployError, match="is no engine of tensorrt_rtx"):
        TensorRtRtxExporter().load(path, RunSpec("tensorrt-rtx", 2, 1, "cuda"), build)


def test_deform_conv_is_refused_by_name(tmp_path: Path) -> None:
    model = ModelSpec("unified_dcn_v3_nano", image_size=(32, 32))
    with pytest.raises(
        StmdeployError,
        match=r"has no layer for DeformConv 'node_deform_conv' in stage 1 mixer of "
        r"unified_dcn_v3_nano",
    ) as error:
        export(model, tmp_path, lowering="tokens")
    assert error.value.code == ExitCode.BAD_INPUT
    assert not list(tmp_path.iterdir())


def test_an_engine_for_one_batch_fuses_more(built: Artifact, tmp_path: Path) -> None:
    """And says in its name which batch that is; every layer is of a part of the model."""
    one = export(SMALL, tmp_path, engine=EngineSpec(batch=(2, 2, 2)))
    assert "-batch2." in one.path.name and "-batch" not in built.path.name
    layers = engine_layers(one)
    assert 20 < len(layers) < len(engine_layers(built))
    for listed in (layers, engine_layers(built)):
        known = [layer.part for layer in listed if layer.part != "other"]
        assert len(known) >= 0.95 * len(listed)
        assert {"stem", "stage 1 mixer", "stage 4 mlp", "head"} <= set(known)


@pytest.mark.slow
def test_fp8_is_built_between_16_bits(tmp_path: Path) -> None:
    artifact = export(SMALL, tmp_path, precision="fp8", engine=EngineSpec((1, 1, 1)))
    dtypes = dtypes_of_products(artifact)
    assert dtypes.count("FP8") > 0.7 * len(dtypes) > 5
    engine, fidelity = artifact.manifest.engine, artifact.manifest.fidelity
    assert engine is not None and engine.output_dtypes["Half"] > 10
    assert fidelity is not None and fidelity.relative_l2_error < 0.3
    with pytest.raises(StmdeployError, match=r"compute capability 8\.0 has no fp8"):
        export(SMALL, tmp_path, precision="fp8", engine=EngineSpec(compute_capabilities=("8.0",)))


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ({"compute_capabilities": ("9.0",)}, "does not build for compute capability '9.0'"),
        ({"compute_capabilities": ("7.5",)}, "built no engine of unified_convnext_nano: "),
        ({"timing_cache": Path("cache")}, "it has no timing cache"),
    ],
)
def test_settings_that_are_refused(engine: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match=says):
        export(SMALL, tmp_path, engine=EngineSpec(**engine))
    assert not list(tmp_path.iterdir())


def test_settings_that_are_taken(tmp_path: Path) -> None:
    settings = EngineSpec((1, 1, 1), workspace_mib=64, builder_level=1,
                          compute_capabilities=("8.6", "12.0"))  # fmt: skip
    progress = RecordedProgress()
    engine = export(SMALL, tmp_path, progress, engine=settings, precision="fp16").manifest.engine
    assert any(detail.startswith("tensorrt_rtx: ") for detail in progress.details)
    assert engine is not None
    assert engine.compute_capabilities == ("8.6", "12.0")
    assert (engine.workspace_mib, engine.builder_level) == (64, 1)
    assert engine.output_dtypes["Half"] > 30


def test_classic_tensorrt_without_a_gpu() -> None:
    class Classic:
        __name__ = "tensorrt"

        @staticmethod
        def Builder(_: object) -> object:  # noqa: N802
            raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(StmdeployError, match="needs an NVIDIA GPU and driver"):
        tensorrt_build.make_builder(Classic, None)


def test_the_log_is_read_tolerantly() -> None:
    line = (
        "Name: a_myl0, LayerType: gemm, Inputs: [ { Name: x, Dimensions: [-1,3], "
        "Datatype: Half, Format: (Linear) }], Constants: [], Outputs: [ { Name: y, "
        "Dimensions: [1], Datatype: Int8 }], TacticName: t, Metadata: [ONNX Layer: n1]"
    )
    (layer,) = fused_layers(["noise", f"Layers:\n{line}\nwhat is this\n"], {"n1": "stem"})
    assert layer.part == "stem"
    assert layer.input_dtypes == ("Half",)
    assert layer.weight_dtypes == ()
    assert layer.output_dtypes == ("Int8",)
    assert layer.onnx_nodes == ("n1",)
    assert fused_layers(["no list"], {}) == ()
    assert memory_bytes(["Total Weights Memory: 12 bytes"], "Total Weights Memory") == 12
    assert memory_bytes([], "Total Weights Memory") is None


def test_every_name_that_is_used_without_asking_exists() -> None:
    """What the runner calls on a GPU, checked against the real module."""
    for owner, names in (
        (trt.Runtime, ("deserialize_cuda_engine",)),
        (trt.ICudaEngine, ("create_execution_context", "device_memory_size_v2")),
        (trt.IExecutionContext, ("set_input_shape", "get_tensor_shape", "set_tensor_address",
                                 "execute_async_v3")),
        (trt.OnnxParser, ("parse_from_file", "get_error", "num_errors")),
        (trt.ParserError, ("node_name", "node_operator", "desc")),
        (trt.IBuilderConfig, ("profiling_verbosity", "progress_monitor", "set_memory_pool_limit",
                              "builder_optimization_level", "add_optimization_profile",
                              "create_timing_cache", "set_timing_cache", "get_timing_cache")),
    ):  # fmt: skip
        for name in names:
            assert hasattr(owner, name), f"{owner.__name__}.{name}"


def dtypes_of_products(artifact: Artifact) -> list[str]:
    """Input types of the fused layers that hold an ONNX product of weights."""
    listing = artifact.path.with_name(artifact.manifest.files[1].name)
    return [
        layer["input_dtypes"][0]
        for layer in json.loads(listing.read_text())
        if layer["kind"] in ("gemm", "correlation") and layer["input_dtypes"]
    ]


#: Deformable attention is resampled by GridSample here; the other mixers are products.
SMALL_DCN = ModelSpec("unified_dcn_v3_nano", image_size=(64, 64), num_classes=10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", [SMALL, pytest.param(SMALL_DCN, marks=pytest.mark.nightly)], ids=lambda m: m.name
)
def test_a_small_engine_in_every_precision(model: ModelSpec, tmp_path: Path) -> None:
    check_engines(model, EngineSpec(batch=(1, 2, 4)), tmp_path, fused=20, products=8)


@pytest.mark.nightly
@pytest.mark.parametrize("family", ["halo", "pvt", "swin", "convnext", "dcn_v3"])
def test_an_engine_of_every_mixer_in_every_precision(family: str, tmp_path: Path) -> None:
    model = ModelSpec(f"unified_{family}_micro")
    check_engines(model, EngineSpec(), tmp_path, fused=50, products=10)


def check_engines(
    model: ModelSpec, settings: EngineSpec, folder: Path, fused: int, products: int
) -> None:
    """Exports in all precisions; `fused` and `products` are how many layers there are at least."""
    made: dict[str, Manifest] = {}
    for precision, dtype in (("fp32", "Float"), ("fp16", "Half"), ("int8", "Int8")):
        artifact = export(model, folder, precision=precision, engine=settings)
        made[precision] = artifact.manifest
        engine = artifact.manifest.engine
        assert engine is not None
        assert engine.batch == settings.batch
        assert artifact.manifest.state == "built, not run"
        assert artifact.path.stat().st_size > 1_000_000
        dtypes = dtypes_of_products(artifact)
        assert dtypes.count(dtype) > 0.7 * len(dtypes) > products, precision
        assert engine.output_dtypes[dtype] > fused
    assert set(made["fp32"].engine.output_dtypes) <= {"Float", "Int32", "Int64", "Bool"}  # type: ignore[union-attr]
    assert made["fp32"].proof.relative_l2_error <= 1e-5
    for precision, bound in (("fp16", 2e-3), ("int8", 0.2)):
        fidelity = made[precision].fidelity
        assert fidelity is not None
        assert made["fp32"].proof.relative_l2_error < fidelity.relative_l2_error < bound
    assert made["int8"].calibration is not None
    assert made["int8"].engine.output_dtypes["Half"] > 10, "integer products between 16 bits"  # type: ignore[union-attr]
    # No activation is quantised over a range that a mask of -1e4 has set.
    graph = onnx.load(folder / made["int8"].files[2].name).graph
    scales = [onnx.numpy_helper.to_array(tensor).max() for tensor in graph.initializer
              if tensor.name.endswith("_scale")]  # fmt: skip
    assert len(scales) > fused
    assert max(scales) < 10
    weights = {precision: made[precision].engine.weights_bytes for precision in made}  # type: ignore[union-attr]
    assert weights["int8"] < 0.8 * weights["fp16"] < 0.5 * weights["fp32"]  # type: ignore[operator]


def test_classic_and_rtx_share_everything_but_names() -> None:
    assert issubclass(TensorRtRtxExporter, TensorRtExporter)
    own = {name for name in vars(TensorRtRtxExporter) if not name.startswith("_")}
    assert own == {"name", "suffix", "module_name", "package", "install"}
    assert tensorrt_runner.why_no_gpu() in ("", "no GPU")
