"""Parts that a low precision leaves as they are."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest

from stmdeploy import StmdeployError
from stmdeploy.cli.main import main
from stmdeploy.exporters.operator_times import nodes_of_parts, parts_of
from stmdeploy.schema.artifact import Artifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.fakes import RecordedProgress
from tests.sharing import FEW, SharedArtifacts, export_model

SMALL = ModelSpec("unified_convnext_nano", image_size=(64, 64), num_classes=10)
KEPT = ("stage 1 mlp", "head")
FLOAT, TENSOR = "float32", onnx.TensorProto


def inside(path: Path) -> tuple[onnx.GraphProto, list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The graph, with types, and its products: those in kept parts and the others."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
    parts = parts_of(path)
    products = [n for n in graph.node if n.op_type in ("Conv", "MatMul", "Gemm")]
    mine = [n for n in products if parts[n.name] in KEPT]
    return graph, mine, [n for n in products if n not in mine]


def types_of(graph: onnx.GraphProto) -> dict[str, int]:
    found = {v.name: v.type.tensor_type.elem_type for v in graph.value_info}
    return {**found, **{t.name: t.data_type for t in graph.initializer}}


@pytest.mark.parametrize(("target", "precision", "low"), [
    ("onnx", "fp16", TENSOR.FLOAT16), ("tensorrt-rtx", "bf16", TENSOR.BFLOAT16),
])  # fmt: skip
def test_products_of_kept_parts_stay_in_float32(
    target: str, precision: str, low: int, artifacts: SharedArtifacts
) -> None:
    source = {} if target == "onnx" else {"source_only": True}
    artifact = artifacts.exported(SMALL, target, precision, keep=KEPT, **source)
    graph, mine, others = inside(artifact.path)
    types = types_of(graph)
    assert mine and others
    assert {types[name] for node in mine for name in node.input} == {TENSOR.FLOAT}
    assert {types[name] for node in others for name in node.input} == {low}
    assert artifact.manifest.kept == KEPT
    assert f"-{precision}-mixed" in artifact.path.name


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic"])
def test_products_of_kept_parts_are_not_quantised(
    precision: str, artifacts: SharedArtifacts
) -> None:
    artifact = artifacts.exported(SMALL, "onnx", precision, keep=KEPT)
    plain = artifacts.exported(SMALL, "onnx", precision)
    parts, graph = parts_of(artifact.path), onnx.load(artifact.path).graph
    types = {t.name: t.data_type for t in graph.initializer}
    whole = [
        n for n in graph.node if parts[n.name] in KEPT and n.op_type in ("Conv", "MatMul", "Gemm")
    ]
    assert whole and {types[n.input[1]] for n in whole} == {TENSOR.FLOAT}
    assert TENSOR.INT8 in types.values()
    kept, all_low = artifact.manifest.fidelity, plain.manifest.fidelity
    assert kept is not None and all_low is not None
    assert kept.relative_l2_error < all_low.relative_l2_error
    assert plain.size_bytes < artifact.size_bytes


@pytest.mark.slow
def test_openvino_keeps_them_too(artifacts: SharedArtifacts) -> None:
    import openvino as ov

    artifact = artifacts.exported(SMALL, "openvino", "int8", keep=KEPT)
    model = ov.Core().read_model(artifact.path)
    products = [op for op in model.get_ops() if op.get_type_name() in ("MatMul", "Convolution")]
    quantised = {
        op.get_friendly_name().partition(" | ")[0]
        for op in products
        if op.input(1).get_source_output().get_node().get_type_name() != "Constant"
    }
    assert "stage 1 mixer" in quantised and "stage 2 mlp" in quantised
    assert not quantised & set(KEPT)


def test_ranges_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And make the same file."""

    def made(folder: str, **more: object) -> Artifact:
        spec = ExportSpec(SMALL, "onnx", tmp_path / folder, "int8", calibration=FEW, **more)  # type: ignore[arg-type]
        return export_model(spec, RecordedProgress())

    ranges = tmp_path / "ranges"
    first = made("one", ranges=ranges)
    assert ranges.is_file()
    quantize = import_module("onnxruntime.quantization.quantize")  # a function has its name

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("the images were run again")

    monkeypatch.setattr(quantize, "create_calibrator", refused)
    again = made("two", ranges=ranges)
    assert again.manifest.files[0].sha256 == first.manifest.files[0].sha256
    with pytest.raises(AssertionError):
        made("three")


def test_a_part_that_there_is_not(artifacts: SharedArtifacts) -> None:
    path = artifacts.exported(SMALL, "onnx").path
    with pytest.raises(StmdeployError, match=r"no part 'stage 9 mlp'"):
        nodes_of_parts(path, ["stage 9 mlp"])
    assert nodes_of_parts(path, []) == []


def test_who_keeps_no_parts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["export", "--stm", "convnext", "--scale", "nano", "--image-size", "32"]
    words += ["--num-classes", "10", "--out", str(tmp_path)]
    for more, told in (
        (["--keep", "head"], "target 'onnx' keeps no parts of a model apart in fp32"),
        (["--keep", "head", "--target", "torch", "--precision", "fp16"], "target 'torch' keeps no"),
        (["--keep", "haed", "--precision", "int8"], "no part 'haed'"),
    ):
        assert main([*words, *more]) == 2
        assert told in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_the_error_of_a_part_alone(artifacts: SharedArtifacts) -> None:
    """Errors of parts in int8 add up to about that of all of them: they are independent."""
    every = ("stem", *(f"stage {i} {kind}" for i in range(1, 5) for kind in ("mixer", "mlp")),
             *(f"stage {i} downsample" for i in range(2, 5)), "head")  # fmt: skip
    alone = []
    for part in ("stem", "stage 4 mlp"):
        kept = tuple(other for other in every if other != part)
        fidelity = artifacts.exported(SMALL, "onnx", "int8", keep=kept).manifest.fidelity
        assert fidelity is not None
        alone.append(fidelity.relative_l2_error)
    whole = artifacts.exported(SMALL, "onnx", "int8").manifest.fidelity
    assert whole is not None
    assert 0 < max(alone) < whole.relative_l2_error
    assert np.linalg.norm(alone) < whole.relative_l2_error
