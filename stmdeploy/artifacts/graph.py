"""The cost of an ONNX graph at batch 1: MACs, bytes and elements, by operator and by part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.schema.manifest import GraphCost, Operation, Share, TensorInfo
from stmdeploy.schema.onnx_files import PART_NOTE

if TYPE_CHECKING:
    import onnx

    Shapes = dict[str, tuple[tuple[int, ...], int]]

#: MACs of a bilinear sample: four products with the weights of its corners.
_MACS_PER_SAMPLE = 4
#: No tensor that holds a shape is longer.
_LONGEST_SHAPE_BYTES = 1024
#: Operators that give their input another name or shape, and touch no byte of it.
_FREE = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Shape", "Constant"})


def graph_cost(path: Path, inputs: Sequence[TensorInfo] = ()) -> GraphCost:
    """Adds up the nodes of an ONNX file, with shapes inferred at batch 1.

    Args:
        inputs: what is known of its inputs, if they leave more open than the batch.

    MACs are those of matrix products, convolutions and bilinear samples (4 each), as the graph
    does them: a lowering may need more or fewer than the model itself.
    """
    graph = _at_batch_one(path, inputs)
    shapes = _shapes(graph)
    weights = {tensor.name for tensor in graph.initializer}
    by_operator, by_part = defaultdict[str, list[Share]](list), defaultdict[str, list[Share]](list)
    unknown, parts = 0, dict[str, str]()
    for node in graph.node:
        part = _part(node, parts)
        parts.update(dict.fromkeys(node.output, part))
        if node.op_type == "DequantizeLinear" and set(node.input) <= weights:
            # A weight in int8: its bytes are what is stored, wherever it is read.
            weights.update(node.output)
            shapes.update(dict.fromkeys(node.output, shapes[node.input[0]]))
            continue
        cost = _node_cost(node, shapes, weights)
        by_operator[node.op_type].append(cost)
        by_part[part].append(cost)
        unknown += any(name and name not in shapes for name in (*node.input, *node.output))
    return GraphCost(
        by_operator={name: _added(costs) for name, costs in by_operator.items()},
        by_part={name: _added(costs) for name, costs in by_part.items()},
        unknown_shapes=unknown,
    )


def operations(
    path: Path, inputs: Sequence[TensorInfo] = (), batch: int = 1
) -> tuple[Operation, ...]:
    """The operators of an ONNX file that multiply, as the roofline bound counts them.

    Left out are nodes that depend on no input, which are folded before the graph runs; norms,
    activations, softmax and copies, which can be fused into a neighbour; and what stays inside an
    attention: the logits between its two products. The others read their inputs and write their
    outputs once.

    Args:
        inputs: as for `graph_cost`.
        batch: images per inference, if the file takes no other number.
    """
    graph = _at_batch_one(path, inputs)
    shapes, parts = _shapes(graph), dict[str, str]()
    live = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    inside: set[str] = set()  # of attentions
    counted: Counter[tuple[str, str, int, int, int]] = Counter()
    for node in graph.node:
        part = _part(node, parts)
        parts.update(dict.fromkeys(node.output, part))
        moving = [name for name in node.input if name in live]
        if not moving:
            continue
        live.update(node.output)
        entering = inside.intersection(moving)
        macs = _known_macs(node, [name for name in node.input if name], shapes)
        if not macs:
            inside.update(node.output if entering else ())
            continue
        if len(moving) == 2 and node.op_type == "MatMul" and not entering:
            inside.update(node.output)
        constant = [name for name in node.input if name and name not in live]
        touched = [name for name in (*moving, *node.output) if name not in inside]
        weights, activations = (
            sum(prod(shapes[name][0]) for name in names if name in shapes)
            for names in (constant, touched)
        )
        counted[node.op_type, part, macs, weights, activations] += 1
    return tuple(
        Operation(
            operator=operator, part=part, nodes=nodes,
            macs=macs // batch, weight_elements=weights,
            activation_elements=activations // batch,
        )
        for (operator, part, macs, weights, activations), nodes in counted.items()
    )  # fmt: skip


def _at_batch_one(path: Path, inputs: Sequence[TensorInfo]) -> onnx.GraphProto:
    """The graph of an ONNX file, with every shape that can be inferred at batch 1."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = {one.name: one.shape for one in inputs}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, side in zip(dims, known.get(value.name, (1,) * len(dims)), strict=False):
            if not dim.HasField("dim_value"):
                dim.dim_value = side if isinstance(side, int) else 1
    for value in model.graph.output:
        if known:
            value.type.tensor_type.ClearField("shape")  # inferred, like all that lies between
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_value = 1
    del model.graph.value_info[:]
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > _LONGEST_SHAPE_BYTES:
            tensor.ClearField("raw_data")  # for speed: shapes follow from short tensors
    return onnx.shape_inference.infer_shapes(model).graph


def _part(node: onnx.NodeProto, parts: dict[str, str]) -> str:
    """The part that the exporter noted, or else, for a node that a tool put in, of its inputs."""
    noted = {note.key: note.value for note in node.metadata_props}.get(PART_NOTE)
    return noted or next((parts[name] for name in node.input if name in parts), "other")


def _shapes(graph: onnx.GraphProto) -> Shapes:
    """Shape and bytes per element of every tensor whose shape is fully known."""
    import onnx

    def bytes_of(elem_type: int) -> int:
        return int(onnx.helper.tensor_dtype_to_np_dtype(elem_type).itemsize)

    found: Shapes = {
        tensor.name: (tuple(tensor.dims), bytes_of(tensor.data_type))
        for tensor in graph.initializer
    }
    for value in (*graph.input, *graph.value_info, *graph.output):
        tensor = value.type.tensor_type
        dims = tuple(dim.dim_value for dim in tensor.shape.dim)
        if tensor.HasField("shape") and all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            found[value.name] = (dims, bytes_of(tensor.elem_type))
    return found


def _node_cost(node: onnx.NodeProto, shapes: Shapes, weights: set[str]) -> Share:
    def size(names: list[str]) -> int:
        return sum(prod(shapes[name][0]) * shapes[name][1] for name in names if name in shapes)

    inputs = [name for name in node.input if name]
    activations = [name for name in inputs if name not in weights]
    activations += [name for name in node.output if name]
    return Share(
        nodes=1,
        macs=_known_macs(node, inputs, shapes),
        weight_bytes=size([name for name in inputs if name in weights]),
        activation_bytes=0 if node.op_type in _FREE else size(activations),
    )


def _known_macs(node: onnx.NodeProto, inputs: list[str], shapes: Shapes) -> int:
    """MACs of a node; 0 if a shape that they follow from is not known."""
    needed = inputs[:3] if node.op_type == "Attention" else inputs[:2]
    if any(name not in shapes for name in (*needed, node.output[0])):
        return 0
    return _macs(node, [shapes[name][0] for name in needed], shapes[node.output[0]][0])


def _macs(node: onnx.NodeProto, inputs: list[tuple[int, ...]], output: tuple[int, ...]) -> int:
    if node.op_type in ("Conv", "ConvInteger"):
        return prod(output) * prod(inputs[1][1:])
    if node.op_type in ("MatMul", "MatMulInteger"):
        return prod(output) * inputs[0][-1]
    if node.op_type == "Gemm":
        transposed = any(a.name == "transA" and a.i for a in node.attribute)
        return prod(output) * inputs[0][0 if transposed else 1]
    if node.op_type == "Attention":
        # N L C and N S C: L S products over all channels, for the logits and for the mean.
        q, k, v = inputs
        return q[0] * q[1] * k[1] * (q[2] + v[2])
    if node.op_type == "DeformConv":
        batch, channels = inputs[0][:2]
        samples = batch * channels * prod(inputs[1][2:]) * prod(output[2:])
        return samples * _MACS_PER_SAMPLE + prod(output) * prod(inputs[1][1:])
    if node.op_type == "GridSample":
        return prod(output) * _MACS_PER_SAMPLE
    return 0


def _added(costs: list[Share]) -> Share:
    names = Share.model_fields
    return Share(**{name: sum(getattr(cost, name) for cost in costs) for name in names})
