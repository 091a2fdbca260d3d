"""The other files that an ONNX file makes a runtime read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stmdeploy.errors import StmdeployError

#: Metadata of a node, written by the exporter: the stage and part of the model it belongs to, as
#: in "stage 2 mixer".
PART_NOTE = "stmdeploy.part"
#: Nodes that hold what an execution provider compiled, inside or in a file of their own.
_CONTEXT = "EPContext"


def external_files(path: Path) -> tuple[str, ...]:
    """Names of the files that hold external data or compiled contexts, as the graph has them.

    Raises:
        StmdeployError: the file is not an ONNX graph.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(path, load_external_data=False)
        return tuple(dict.fromkeys(_named(model)))
    except (DecodeError, RecursionError, ValueError) as error:
        raise StmdeployError(f"{path} is not an ONNX graph", "export it again") from error


def _named(message: Any) -> Iterator[str]:
    """The files that a protobuf message, or any message inside it, names."""
    kind = message.DESCRIPTOR.name
    if kind == "TensorProto":
        yield from (entry.value for entry in message.external_data if entry.key == "location")
    if kind == "NodeProto" and message.op_type == _CONTEXT:
        values = {attribute.name: attribute for attribute in message.attribute}
        if {"embed_mode", "ep_cache_context"} <= values.keys() and values["embed_mode"].i == 0:
            yield values["ep_cache_context"].s.decode("utf-8", "replace")
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in (value,) if hasattr(value, "DESCRIPTOR") else value:
                yield from _named(part)
