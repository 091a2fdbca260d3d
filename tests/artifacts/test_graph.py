"""MACs and bytes of a graph, against figures worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from stmdeploy.artifacts.graph import graph_cost
from stmdeploy.backbones.complexity import count
from stmdeploy.backbones.source import build_module
from stmdeploy.schema.manifest import Share
from stmdeploy.schema.onnx_files import PART_NOTE
from stmdeploy.spec.export import CalibrationSpec, ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.fakes import RecordedProgress
from tests.sharing import export_model


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ones(shape, np.float32), name)


def cost_of(tmp_path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto],
            image: list[int | str], output: list[int | str]) -> dict[str, Share]:  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, image)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
        weights,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
    onnx.save(model, tmp_path / "g.onnx")
    cost = graph_cost(tmp_path / "g.onnx")
    assert cost.unknown_shapes == 0
    return cost.by_operator


def test_a_convolution(tmp_path: Path) -> None:
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], group=2, pads=[1, 1, 1, 1])
    cost = cost_of(tmp_path, [node], [weight("w", 6, 2, 3, 3), weight("b", 6)],
                   ["batch", 4, 5, 5], ["batch", 6, 5, 5])["Conv"]  # fmt: skip
    assert cost.macs == 6 * 25 * 2 * 9
    assert cost.weight_bytes == 4 * (6 * 2 * 9 + 6)
    assert cost.activation_bytes == 4 * (4 * 25 + 6 * 25)


@pytest.mark.parametrize("transposed", [0, 1])
def test_a_gemm(transposed: int, tmp_path: Path) -> None:
    shape = (7, 5) if transposed else (5, 7)
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
    cost = cost_of(tmp_path, [node], [weight("w", *shape)], ["batch", 5], ["batch", 7])["Gemm"]
    assert cost.macs == 35


def test_a_batched_product_and_a_reshape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([-1, 3, 2, 4]), "shape")
    cost = cost_of(tmp_path, nodes, [shape, weight("w", 4, 6)],
                   ["batch", 24], ["batch", 3, 2, 6])  # fmt: skip
    assert cost["MatMul"].macs == 3 * 2 * 6 * 4
    assert cost["Reshape"].activation_bytes == 0


def test_samples(tmp_path: Path) -> None:
    node = helper.make_node("GridSample", ["x", "g"], ["y"])
    cost = cost_of(tmp_path, [node], [weight("g", 1, 3, 3, 2)], [1, 2, 5, 5], [1, 2, 3, 3])
    assert cost["GridSample"].macs == 4 * 18
    node = helper.make_node("DeformConv", ["x", "w", "o"], ["y"], group=2, pads=[1, 1, 1, 1])
    cost = cost_of(tmp_path, [node], [weight("w", 2, 1, 3, 3), weight("o", 1, 18, 5, 5)],
                   [1, 2, 5, 5], [1, 2, 5, 5])  # fmt: skip
    assert cost["DeformConv"].macs == 5 * 2 * 9 * 25


def test_nodes_without_a_note_belong_to_what_they_read(tmp_path: Path) -> None:
    first = helper.make_node("Relu", ["x"], ["a"])
    first.metadata_props.add(key=PART_NOTE, value="stage 1 mixer")
    second = helper.make_node("Relu", ["a"], ["y"])
    cost_of(tmp_path, [first, second], [], [1, 2], [1, 2])
    parts = graph_cost(tmp_path / "g.onnx").by_part
    assert {name: share.nodes for name, share in parts.items()} == {"stage 1 mixer": 2}


def test_the_reference_form_has_the_models_own_macs(tmp_path: Path) -> None:
    model = ModelSpec("unified_pvt_nano", image_size=(64, 64), num_classes=10)
    spec = ExportSpec(model, "onnx", tmp_path, lowering="reference")
    cost = export_model(spec, RecordedProgress()).manifest.cost
    assert cost is not None
    counted = count(build_module(model), model.image_size)
    assert sum(share.macs for share in cost.by_operator.values()) == counted.matmul_conv_macs
    assert sum(share.macs for share in cost.by_part.values()) == counted.matmul_conv_macs
    assert set(cost.by_part) == {
        "stem", "top level", "head",
        *(f"stage {stage} {part}" for stage in (1, 2, 3, 4) for part in ("mixer", "mlp", "norm")),
        *(f"stage {stage} downsample" for stage in (2, 3, 4)),
    }  # fmt: skip
    weights = sum(share.weight_bytes for share in cost.by_operator.values())
    assert 0.99 < weights / (4 * counted.parameters) < 1.05


@pytest.mark.nightly
def test_every_form_has_the_same_products(tmp_path: Path) -> None:
    """Attention as one node, and int8 as MatMulInteger, are counted like plain products."""
    model = ModelSpec("unified_pvt_nano", image_size=(64, 64), num_classes=10)
    macs = {}
    for form, precision in (
        ("tokens-plain", "int8-dynamic"), ("tokens-plain", "fp32"), ("tokens", "fp32"),
    ):  # fmt: skip
        few = CalibrationSpec(images=1)
        spec = ExportSpec(model, "onnx", tmp_path, precision, form, calibration=few)
        cost = export_model(spec, RecordedProgress()).manifest.cost
        assert cost is not None
        assert cost.unknown_shapes == 0
        macs[form, precision] = sum(share.macs for share in cost.by_operator.values())
    assert len(set(macs.values())) == 1, macs
