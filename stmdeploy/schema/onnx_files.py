"""What an ONNX file makes a runtime read besides itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import StmdeployError

if TYPE_CHECKING:
    import onnx

#: Metadata of a node, written by the exporter: the stage and part of the model it belongs to, as
#: in "stage 2 mixer".
PART_NOTE = "stmdeploy.part"
#: Nodes that hold what an execution provider compiled, inside or in a file of their own.
_CONTEXT = "EPContext"
#: Nodes nest graphs in graphs; more than this nobody writes.
_DEPTH = 64


def external_files(path: Path) -> tuple[str, ...]:
    """The files that hold the graph's external data or compiled contexts, as the graph names them.

    Raises:
        StmdeployError: the file is no ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
        return tuple(dict.fromkeys(_named(model)))
    except (DecodeError, RecursionError, ValueError) as error:
        raise StmdeployError(f"{path} is no ONNX graph", "export it again") from error


def _named(model: onnx.ModelProto) -> Iterator[str]:
    yield from _of_graph(model.graph, 0)
    for function in model.functions:
        yield from _of_nodes(function.node, 0)
    for training in model.training_info:
        yield from _of_graph(training.initialization, 0)
        yield from _of_graph(training.algorithm, 0)


def _of_graph(graph: onnx.GraphProto, depth: int) -> Iterator[str]:
    if depth > _DEPTH:
        raise ValueError("graphs in graphs without end")
    for tensor in graph.initializer:
        yield from _of_tensor(tensor)
    for sparse in graph.sparse_initializer:
        yield from _of_tensor(sparse.values)
        yield from _of_tensor(sparse.indices)
    yield from _of_nodes(graph.node, depth)


def _of_nodes(nodes: Iterable[onnx.NodeProto], depth: int) -> Iterator[str]:
    for node in nodes:
        if node.op_type == _CONTEXT:
            yield from _of_context(node)
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                yield from _of_tensor(tensor)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from _of_tensor(sparse.values)
                yield from _of_tensor(sparse.indices)
            for graph in (attribute.g, *attribute.graphs):
                yield from _of_graph(graph, depth + 1)


def _of_tensor(tensor: onnx.TensorProto) -> Iterator[str]:
    for entry in tensor.external_data:
        if entry.key == "location":
            yield entry.value


def _of_context(node: onnx.NodeProto) -> Iterator[str]:
    """A context that is not embedded is the name of a file."""
    values = {attribute.name: attribute for attribute in node.attribute}
    if "embed_mode" in values and values["embed_mode"].i == 0:
        yield values["ep_cache_context"].s.decode("utf-8", "replace")
