"""Whether ONNX Runtime's CUDA provider would run every node of a graph on the GPU, told offline.

A node without a kernel runs on the CPU, with copies around it, and breaks a CUDA graph; ONNX
Runtime says so only in a log. The table of kernels is data, `cuda_kernels.toml`.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.schema.onnx_files import PART_NOTE

from .onnx_graph import notes_of

if TYPE_CHECKING:
    import onnx

_TABLE = "cuda_kernels.toml"
#: The input whose type a kernel is registered for, where that is not the first.
_TYPED_INPUT = {"Where": 1}


@dataclass(frozen=True)
class Misplaced:
    """A node without a kernel.

    Attributes:
        name: the node's name.
        operator: its type, opset and element type, such as ``GridSample of opset 20, float16``.
        part: the part of the model, such as ``stage 2 mixer``; empty if it is not known.
    """

    name: str
    operator: str
    part: str


@cache
def _table() -> dict[str, Any]:
    text = resources.files(__package__).joinpath(_TABLE).read_text("utf-8")
    return tomllib.loads(text)


def misplaced(path: Path) -> tuple[Misplaced, ...]:
    """The nodes of an ONNX file that the CUDA provider has no kernel for, in their order, as far as
    the table knows."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    kinds = _kinds(model)
    found = []
    for node in model.graph.node:
        domain = node.domain or "ai.onnx"
        kind = _kind_of(node, kinds)
        if domain != "ai.onnx":
            continue
        since = onnx.defs.get_schema(node.op_type, opsets[domain], "").since_version
        if not has_kernel(node.op_type, since, kind):
            told = f"{node.op_type} of opset {since}, {kind or 'unknown type'}"
            found.append(Misplaced(node.name, told, notes_of(node).get(PART_NOTE, "")))
    return tuple(found)


def has_kernel(operator: str, since: int, kind: str) -> bool:
    """Whether the CUDA provider has a kernel; True for operators that the table does not judge.

    Args:
        operator: an operator of ONNX.
        since: the opset that its present definition began with.
        kind: element type of its first input, such as ``float16``; empty if it is not known.
    """
    table = _table()
    if operator not in table["kernels"]:
        return operator not in table["none"]
    return any(
        (since == first or first < since <= last) and (not kind or kind in table["types"][types])
        for first, last, types in table["kernels"].get(operator, ())
    )


def _kinds(model: onnx.ModelProto) -> dict[str, str]:
    """The element type of every tensor, in the table's words."""
    import onnx

    def word(number: int) -> str:
        return str(onnx.TensorProto.DataType.Name(number)).lower()

    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError:  # what is known without it has to do
        inferred = model.graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    kinds = {value.name: word(value.type.tensor_type.elem_type) for value in values}
    return kinds | {tensor.name: word(tensor.data_type) for tensor in inferred.initializer}


def _kind_of(node: onnx.NodeProto, kinds: dict[str, str]) -> str:
    place = _TYPED_INPUT.get(node.op_type, 0)
    return kinds.get(node.input[place], "") if len(node.input) > place else ""


def check_on_gpu(path: Path, model: str) -> None:
    """Raises StmdeployError if a node of a file would run on the CPU; names the first.

    Args:
        model: the model's name, for the message.
    """
    nodes = misplaced(path)
    if nodes:
        first, others = nodes[0], len(nodes) - 1
        also = f", nor for {others} other nodes" if others else ""
        raise StmdeployError(
            f"ONNX Runtime has no kernel for CUDA of {first.operator}, {first.name!r} in "
            f"{first.part or 'an unknown part'} of {model}{also}",
            "leave --lowering out, take another --precision, or --provider tensorrt",
        )
