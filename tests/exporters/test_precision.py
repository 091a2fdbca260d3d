"""Lower precisions of ONNX files: what is in the graph, and what it keeps of the model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from stmdeploy import StmdeployError, create_backbone
from stmdeploy.backbones.catalogue import resolve
from stmdeploy.backbones.synthetic import fill_synthetic
from stmdeploy.errors import ExitCode
from stmdeploy.exporters import onnx_graph
from stmdeploy.exporters.precision import emulated
from stmdeploy.schema.artifact import Artifact, read_artifact
from stmdeploy.spec.export import CalibrationSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.fakes import RecordedProgress
from tests.sharing import FEW, SharedArtifacts, export_model

#: Of 32 pixels the last stage sees one: too few for 16 bits to stay well within tolerance.
SMALL = ModelSpec("unified_convnext_nano", image_size=(64, 64), num_classes=10)
TENSOR = onnx.TensorProto


def export(model: ModelSpec, folder: Path, precision: str, **options: Any) -> Artifact:
    spec = ExportSpec(model, "onnx", folder, precision, **{"calibration": FEW, **options})
    return export_model(spec, RecordedProgress())


@pytest.fixture(scope="module")
def made(artifacts: SharedArtifacts) -> dict[str, Artifact]:
    return {
        precision: artifacts.exported(SMALL, "onnx", precision)
        for precision in ("fp32", "fp16", "int8", "int8-dynamic")
    }


def weight_types(artifact: Artifact) -> dict[int, int]:
    """Bytes of weights by ONNX data type."""
    graph = onnx.load(artifact.path).graph
    types: dict[int, int] = {}
    for tensor in graph.initializer:
        size = onnx.numpy_helper.to_array(tensor).nbytes
        types[tensor.data_type] = types.get(tensor.data_type, 0) + size
    return types


def test_the_weights_are_in_the_precision(made: dict[str, Artifact]) -> None:
    total = sum(weight_types(made["fp32"]).values())
    assert weight_types(made["fp32"])[TENSOR.FLOAT] > 0.99 * total
    assert weight_types(made["fp16"])[TENSOR.FLOAT16] > 0.48 * total
    assert weight_types(made["int8"])[TENSOR.INT8] > 0.24 * total
    assert weight_types(made["int8-dynamic"])[TENSOR.INT8] > 0.13 * total
    sizes = {precision: artifact.size_bytes for precision, artifact in made.items()}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"]
    assert sizes["int8"] < sizes["int8-dynamic"] < sizes["fp32"], "its convolutions are float32"


def test_inputs_and_outputs_stay_float32(made: dict[str, Artifact]) -> None:
    for artifact in made.values():
        manifest = read_artifact(artifact.path).manifest
        assert {tensor.dtype for tensor in (*manifest.inputs, *manifest.outputs)} == {"float32"}
        assert manifest.inputs[0].shape[0] == "batch"


def test_fidelity_is_stated(made: dict[str, Artifact]) -> None:
    assert made["fp32"].manifest.fidelity is None
    for precision, bound in (("fp16", 2e-3), ("int8", 0.2), ("int8-dynamic", 0.2)):
        fidelity = made[precision].manifest.fidelity
        assert fidelity is not None
        assert (fidelity.source, fidelity.images) == ("random", 2)
        assert 1e-4 < fidelity.relative_l2_error < bound
        assert fidelity.top1_agreement_percent in (0, 50, 100)
    assert made["int8"].manifest.proof.tolerance_relative_l2 is None
    calibration = made["int8"].manifest.calibration
    assert calibration is not None
    assert (calibration.source, calibration.images) == ("random", 2)
    assert made["int8-dynamic"].manifest.calibration is None


def test_the_norms_of_fp16_stay_in_float32(tmp_path: Path) -> None:
    path = export(SMALL, tmp_path, "fp16", lowering="tokens-plain").path
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    squares = [node for node in model.graph.node if node.op_type == "Pow"]
    assert len(squares) > 15
    assert {types[node.output[0]] for node in squares} == {TENSOR.FLOAT}
    products = [node for node in model.graph.node if node.op_type in ("Gemm", "Conv")]
    assert {types.get(node.output[0]) for node in products[:-1]} == {TENSOR.FLOAT16}


def test_the_stems_norm_of_fp16_stays_in_float32(made: dict[str, Artifact]) -> None:
    """Over maps; the square of a length of 256 is beyond float16."""
    model = onnx.shape_inference.infer_shapes(onnx.load(made["fp16"].path))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    (length,) = [node for node in model.graph.node if node.op_type == "ReduceL2"]
    squares = [node for node in model.graph.node if length.output[0] in node.input]
    assert [node.op_type for node in squares] == ["Mul"]
    assert {types[node.output[0]] for node in (length, *squares)} == {TENSOR.FLOAT}


@pytest.mark.nightly
@pytest.mark.parametrize("form", ["tokens-plain", "reference"])
def test_positions_stay_in_float32(tmp_path: Path, form: str) -> None:
    """From the offsets to the samples, and nothing rounds them on the way."""
    model = ModelSpec("unified_dcn_v3_nano", (64, 96), task="detection")
    path = export(model, tmp_path, "fp16", lowering=form).path
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    made = {name: node for node in graph.node for name in node.output}

    def casts_above(name: str) -> list[int]:
        """Types that a grid is cast to on its way from the first product."""
        node = made.get(name)
        if node is None or node.op_type in ("Gemm", "MatMul"):
            return []
        to = [a.i for a in node.attribute if a.name == "to"] if node.op_type == "Cast" else []
        return to + [kind for above in node.input for kind in casts_above(above)]

    samples = [node for node in graph.node if node.op_type == "GridSample"]
    assert len(samples) == sum(resolve(model.name).depths)
    assert {types[name] for node in samples for name in node.input} == {TENSOR.FLOAT}
    assert all(TENSOR.FLOAT16 not in casts_above(node.input[1]) for node in samples)


def test_products_of_activations_are_not_quantized(tmp_path: Path) -> None:
    model = ModelSpec("unified_pvt_nano", image_size=(32, 32), num_classes=10)
    graph = onnx.load(export(model, tmp_path, "int8").path).graph
    scaled = {name for node in graph.node if node.op_type == "DequantizeLinear"
              for name in node.output}  # fmt: skip
    products = [node for node in graph.node if node.op_type in ("MatMul", "Gemm", "Conv")]
    quantized = [node for node in products if set(node.input[:2]) <= scaled]
    left = [node for node in products if not scaled & set(node.input[:2])]
    assert len(quantized) > 20
    assert len(left) == 2 * sum(resolve(model.name).depths)
    assert len(quantized) + len(left) == len(products)


def test_random_calibration_is_said_loudly(tmp_path: Path) -> None:
    progress = RecordedProgress()
    export_model(ExportSpec(SMALL, "onnx", tmp_path, "int8", calibration=FEW), progress)
    assert progress.warnings[0].startswith("WARNING: int8 scales are set with random images")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    (folder / "deeper").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(7):
        pixels = random.integers(0, 255, (80 + index, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("deeper" if index % 2 else ".") / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_calibration_by_photographs(photographs: Path, tmp_path: Path) -> None:
    progress = RecordedProgress()
    spec = ExportSpec(SMALL, "onnx", tmp_path, "int8", calibration=CalibrationSpec(photographs, 4))
    manifest = export_model(spec, progress).manifest
    assert manifest.calibration is not None and manifest.fidelity is not None
    assert (manifest.calibration.source, manifest.calibration.images) == ("photographs", 4)
    assert (manifest.fidelity.source, manifest.fidelity.images) == ("photographs", 3)
    (skipped,) = progress.warnings
    assert "skipped" in skipped and "broken.jpg" in skipped


def test_an_unknown_precision_of_a_target(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="target 'onnx' has no precision 'bf16'"):
        export(SMALL, tmp_path, "bf16")


@pytest.fixture
def overflowing(tmp_path: Path) -> Iterator[Path]:
    """Weights whose activations leave float16's range in the second stage's mlp."""
    model = create_backbone("convnext", "nano", image_size=64, num_classes=10)
    fill_synthetic(model, 0)
    state = model.state_dict()
    factor = 6e4 / state["stages.1.0.pwconv1.weight"].abs().max()
    state["stages.1.0.pwconv1.weight"] *= factor
    state["stages.1.0.pwconv2.weight"] /= factor
    torch.save({"model": state}, tmp_path / "large.pth")
    yield tmp_path / "large.pth"


def test_outputs_that_are_not_finite_name_the_first_node(overflowing: Path, tmp_path: Path) -> None:
    model = ModelSpec(SMALL.name, SMALL.image_size, 10, str(overflowing))
    with pytest.raises(
        StmdeployError,
        match=r"outputs are not finite at batch 1: the first is \w+ \w+ of stage 2 mlp",
    ) as error:
        export(model, tmp_path / "out", "fp16")
    assert error.value.code == ExitCode.OUTPUTS_DIFFER
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TENSOR.BFLOAT16, torch.bfloat16), (TENSOR.FLOAT16, torch.float16)]
)
def test_the_emulation_rounds_every_tensor(kind: int, dtype: torch.dtype, tmp_path: Path) -> None:
    """A graph of two sums, in 16 bits: rounded after each, and infinite where they are."""
    weight = onnx.numpy_helper.from_array(np.array([[1 + 2**-7]], np.float32), "w")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Cast", ["x"], ["half"], to=kind),
            onnx.helper.make_node("Cast", ["w"], ["w_half"], to=kind),
            onnx.helper.make_node("Add", ["half", "w_half"], ["once"]),
            onnx.helper.make_node("Add", ["once", "half"], ["twice"]),
            onnx.helper.make_node("Cast", ["twice"], ["y"], to=TENSOR.FLOAT),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", TENSOR.FLOAT, [1, 1])],
        [onnx.helper.make_tensor_value_info("y", TENSOR.FLOAT, [1, 1])],
        [weight],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)])
    onnx.save(model, tmp_path / "half.onnx")
    session = onnxruntime.InferenceSession(
        emulated(tmp_path / "half.onnx"), providers=["CPUExecutionProvider"]
    )
    for value in (1.2345, 256.0, 2049.0, 60_000.0):
        x = torch.tensor([[value]]).to(dtype)
        expected = (x + torch.tensor(1 + 2**-7).to(dtype)) + x
        got = session.run(None, {"x": np.array([[value]], np.float32)})[0]
        assert got[0, 0] == float(expected), value


def test_large_weights_in_a_lower_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_graph, "EXTERNAL_DATA_BYTES", 1_000_000)
    for precision in ("fp16", "int8"):
        artifact = read_artifact(export(SMALL, tmp_path, precision).path)
        main, data = artifact.manifest.files
        assert data.name == main.name + ".data"
        assert main.size_bytes < data.size_bytes
