"""ONNX files as others make them: by onnx alone, without stmdeploy or torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

#: What the file below leaves open, said.
SIZED = "photo:1x3x64x96"
_OPSET, _IR = 17, 8


def _conv(random: np.random.Generator, out: int, into: int, side: int) -> npt.NDArray[np.float32]:
    scale = np.sqrt(into * side * side)
    drawn = random.standard_normal((out, into, side, side), dtype=np.float32)
    return np.asarray(drawn / scale, np.float32)


def write_two_inputs(path: Path, *, deeper: int = 0) -> Path:
    """A photograph of any size and the number of a camera, to scores and the best class.

    Args:
        deeper: convolutions more.
    """
    random = np.random.default_rng(0)
    values: dict[str, npt.NDArray[Any]] = {
        "first": _conv(random, 16, 3, 7),
        "second": _conv(random, 32, 16, 3),
        "head": random.standard_normal((32, 10)).astype(np.float32),
        "cameras": random.standard_normal((4, 32)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["photo", "first"], ["a"], strides=[4, 4], pads=[3] * 4),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "second"], ["c0"], strides=[2, 2], pads=[1] * 4),
    ]
    for i in range(deeper):
        values[f"more{i}"] = _conv(random, 32, 32, 3)
        nodes.append(helper.make_node("Conv", [f"c{i}", f"more{i}"], [f"c{i + 1}"], pads=[1] * 4))
    nodes += [
        helper.make_node("GlobalAveragePool", [f"c{deeper}"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gather", ["cameras", "camera"], ["f"]),
        helper.make_node("Add", ["e", "f"], ["g"]),
        helper.make_node("MatMul", ["g", "head"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["best"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "cameras",
        [
            helper.make_tensor_value_info("photo", TensorProto.FLOAT, ["n", 3, "height", "width"]),
            helper.make_tensor_value_info("camera", TensorProto.INT64, ["n"]),
        ],
        [
            helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 10]),
            helper.make_tensor_value_info("best", TensorProto.INT64, ["n"]),
        ],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return _saved(graph, path)


def write_classifier(path: Path, *, batch: int | str = "n", side: int = 32) -> Path:
    """Photographs to the logits of two classes: the mean of red, and of blue."""
    weights = np.array([[[[1.0]], [[0.0]], [[0.0]]], [[[0.0]], [[0.0]], [[1.0]]]], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "colours"], ["a"]),
            helper.make_node("GlobalAveragePool", ["a"], ["b"]),
            helper.make_node("Flatten", ["b"], ["y"]),
        ],
        "colours",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 2])],
        [numpy_helper.from_array(weights, "colours")],
    )
    return _saved(graph, path)


def _saved(graph: onnx.GraphProto, path: Path) -> Path:
    opset = [helper.make_opsetid("", _OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=_IR), path)
    return path
