"""Quantises ONNX files by calibration: int8 with ONNX Runtime's own tools, and fp8 out of it.

QuantizeLinear and DequantizeLinear stand around the products with weights, symmetric, a scale per
output channel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from stmdeploy.plugins.runner import Array
from stmdeploy.spec.model import INPUT_NAME

from .onnx_graph import graph_of

if TYPE_CHECKING:
    import onnx

#: Constants of halo's position terms, as `stmdeploy.backbones.lowering.halo` names them.
_POSITION_WEIGHTS = (".table", ".spread")
#: The largest values of int8 and of E4M3.
_INT8_MOST, _FP8_MOST = 127, 448


def in_fp8(path: Path) -> onnx.ModelProto:
    """An int8 file whose weights are still floats, in floats of 8 bits (E4M3): the same largest
    value, at 448 instead of at 127."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    scales, zeros = set(), set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scales.add(node.input[1])
            zeros.add(node.input[2])
    for name in scales:
        scale = numpy_helper.to_array(values[name]) * np.float32(_INT8_MOST / _FP8_MOST)
        values[name].CopyFrom(numpy_helper.from_array(scale, name))
    for name in zeros:
        shape, count = tuple(values[name].dims), int(np.prod(values[name].dims))
        zero = helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, shape, bytes(count), raw=True)
        values[name].CopyFrom(zero)
    del model.graph.value_info[:]
    return model


@dataclass(frozen=True)
class How:
    """How a graph is quantised.

    Attributes:
        floats: whether weights stay floats, quantised and back as the graph runs.
        kept: names of nodes that are left as they are.
        ranges: file that keeps the ranges of activations; None for none.
    """

    floats: bool = False
    kept: Sequence[str] = ()
    ranges: Path | None = None


def to_int8(path: Path, data: tuple[str, ...], images: Array | None, how: How) -> None:
    """Quantises in place, symmetric, one scale per output channel, in the form that TensorRT reads.

    The scales of activations come from `images`; without any, every run finds its own.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        source = Path(scratch) / path.name
        for name in (path.name, *data):
            path.with_name(name).rename(source.with_name(name))
        common: dict[str, Any] = {
            "per_channel": True,
            "weight_type": QuantType.QInt8,
            # A Gemm is made a MatMul first, under a name of its own.
            "nodes_to_exclude": [
                *_products_left(source),
                *how.kept,
                *(f"{name}_MatMul" for name in how.kept),
            ],
            "use_external_data_format": bool(data),
        }
        if images is None:
            products = ["MatMul", "Gemm"]
            quantize_dynamic(source, path, op_types_to_quantize=products, **common)
            return
        inputs = ({INPUT_NAME: image[None]} for image in images)
        quantize_static(
            source,
            path,
            SimpleNamespace(get_next=lambda: next(inputs, None)),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            activation_type=QuantType.QInt8,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "AddQDQPairToWeight": how.floats,
            },
            calibration_cache_path=how.ranges,
            **common,
        )


def _products_left(path: Path) -> list[str]:
    """Names the products that stay in float32: the two of attention, which have no weight, because
    no int8 scale suits a softmax; and halo's position terms, whose mask would set the scale."""
    graph = graph_of(path)
    weights = {tensor.name for tensor in graph.initializer}
    return [
        node.name
        for node in graph.node
        if node.op_type == "MatMul"
        and (
            not weights & set(node.input)
            or any(name.endswith(_POSITION_WEIGHTS) for name in node.input)
        )
    ]
