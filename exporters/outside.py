"""ONNX files that others made: what they say of themselves, and how they become artifacts."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import one_line, printable
from stmdeploy.files.writing import sha256_of
from stmdeploy.plugins.exporter import Adoption, Declared
from stmdeploy.schema.manifest import Draft, TensorInfo
from stmdeploy.schema.onnx_files import external_files

if TYPE_CHECKING:
    import onnx

#: Stands for a dimension that nobody named, and for all of a tensor whose rank is not known.
OPEN, OPEN_RANK = "?", "..."
#: What a graph with such nodes computes in, in this order.
_BY_NODE = {
    "int8-dynamic": ("DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"),
    "int8": ("QuantizeLinear", "QLinearConv", "QLinearMatMul"),
}
#: Types of constants, as ONNX names them, and what a graph computes in of which most values are.
_BY_TYPE = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16"}
#: Constants of other types are shapes, axes and indices.
_PARAMETERS = (*_BY_TYPE, "DOUBLE", "INT8", "UINT8", "INT4", "UINT4", "FLOAT8E4M3FN", "FLOAT8E5M2")


def declared_onnx(path: Path) -> Declared:
    """What an ONNX file says of its inputs, outputs and constants.

    Raises:
        StmdeployError: it is no ONNX graph, names files that are not beside it, or takes something
            other than tensors.
    """
    data = data_files(path)
    model = _read(path)
    graph, constants = model.graph, list(_constants(model.graph))
    given = {tensor.name for tensor in graph.initializer}
    values = hashlib.sha256()
    for digest in sorted(hashlib.sha256(_content(one)).digest() for one in constants):
        values.update(digest)
    for name in data:
        values.update(sha256_of(path.with_name(name)).encode())
    return Declared(
        inputs=tuple(_tensor(one, path) for one in graph.input if one.name not in given),
        outputs=tuple(_tensor(one, path) for one in graph.output),
        precision=_precision(graph, constants),
        parameters=sum(prod(one.dims) for one in constants if _type(one) in _PARAMETERS),
        sha256=values.hexdigest(),
    )


def data_files(path: Path) -> tuple[str, ...]:
    """The files beside an ONNX file that hold its weights.

    Raises:
        StmdeployError: as `external_files`; one is missing, or lies in another folder.
    """
    names = external_files(path)
    for name in names:
        if Path(name).name != name or not path.with_name(name).is_file():
            raise StmdeployError(
                f"{path} keeps weights in {printable(name)!r}, which is no file beside it",
                "put it beside the graph under a name without folders, as onnx.save_model does",
            )
    return names


def adopt_onnx(work: Adoption, suffix: str = ".onnx") -> Draft:
    """Copies an ONNX file, with the files that hold its weights, as it is.

    Args:
        suffix: of the copy.
    """
    data = data_files(work.path)
    name = work.path.stem + suffix
    shutil.copyfile(work.path, work.folder / name)
    for one in data:
        shutil.copyfile(work.path.with_name(one), work.folder / one)
    model = _read(work.path)
    opset = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    return Draft(
        files=(name, *data),
        inputs=work.inputs,
        outputs=work.outputs,
        opset=opset[0] if opset else None,
        operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
        graph=name,
    )


def with_shapes(path: Path, inputs: tuple[TensorInfo, ...]) -> None:
    """Writes what is known of the shapes of an ONNX file's inputs into it, for builders of engines;
    the batch stays open."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    known = {one.name: one.shape for one in inputs}
    for value in (one for one in model.graph.input if one.name in known):
        for dim, side in zip(value.type.tensor_type.shape.dim, known[value.name], strict=False):
            if isinstance(side, int):
                dim.dim_value = side
    onnx.save(model, path)


def _read(path: Path) -> onnx.ModelProto:
    """The graph, without weights from other files; `external_files` has found that it is one."""
    import onnx

    return onnx.load(path, load_external_data=False)


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    """Initializers, and the values of nodes ``Constant``."""
    nodes = (node for node in graph.node if node.op_type == "Constant")
    values = [a.t for node in nodes for a in node.attribute if a.name == "value"]
    return [*graph.initializer, *values]


def _type(tensor: onnx.TensorProto) -> str:
    return str(tensor.DataType.Name(tensor.data_type))


def _content(tensor: onnx.TensorProto) -> bytes:
    """The type, dimensions and values of a tensor, whatever it is called."""
    plain = type(tensor)()
    plain.CopyFrom(tensor)
    plain.ClearField("name")
    plain.ClearField("doc_string")
    return bytes(plain.SerializeToString(deterministic=True))


def _precision(graph: onnx.GraphProto, constants: list[onnx.TensorProto]) -> str:
    kinds = {node.op_type for node in graph.node}
    for precision, nodes in _BY_NODE.items():
        if kinds.intersection(nodes):
            return precision
    sizes: Counter[str] = Counter()
    for one in constants:
        if (dtype := _type(one)) in _BY_TYPE:
            sizes[_BY_TYPE[dtype]] += prod(one.dims)
    return sizes.most_common(1)[0][0] if sizes else "fp32"


def _tensor(value: Any, path: Path) -> TensorInfo:
    import onnx

    if not value.type.HasField("tensor_type"):
        raise StmdeployError(
            f"{path}: {printable(value.name)!r} is no tensor", "give a graph of tensors"
        )
    tensor = value.type.tensor_type
    try:
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError as error:
        told = f"{path}: {printable(value.name)!r} has an unknown type"
        raise StmdeployError(f"{told}: {one_line(str(error))}", "write it again") from error
    if not tensor.HasField("shape"):
        return TensorInfo(name=value.name, dtype=dtype, shape=(OPEN_RANK,))
    shape = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or OPEN
        for dim in tensor.shape.dim
    )
    return TensorInfo(name=value.name, dtype=dtype, shape=shape)
