"""What TensorRT says only in its log: the first error, the fused layers, the memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from stmdeploy.files.reading import one_line
from stmdeploy.schema.manifest import FusedLayer

from .operator_times import PART_MARK

#: How the list of fused layers begins: one log message, with a line for each layer.
_LAYER_LIST = "Layers:"
_NAME = re.compile(r"^\s*Name: ([^,]+), LayerType: ([^,]+),")
_SECTION = re.compile(r"\b(Inputs|Constants|Outputs|TacticName): ")
_DTYPE = re.compile(r"Datatype: (\w+)")
_SOURCE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
#: The end of the names of casts that `precision` puts around a tensor.
_CAST = re.compile(r"_cast_to_\w+$")
#: The part of layers that the listing names no node of.
_NO_PART = "other"


def fused_layers(lines: list[str], parts: Mapping[str, str]) -> tuple[FusedLayer, ...]:
    """The layers after fusion, from the builder's verbose log; empty if it lists none.

    The format is undocumented: lines that do not look like a layer are skipped.

    Args:
        parts: the part of the model of every ONNX node, by its name. A layer is of the part of most
            of its nodes, and of none if the listing names none, as of those that streams wait by.
    """
    listing = next((line for line in lines if line.startswith(_LAYER_LIST)), "")
    return tuple(
        _layer(line, found, parts) for line in listing.splitlines() if (found := _NAME.match(line))
    )


def _part(nodes: tuple[str, ...], parts: Mapping[str, str]) -> str:
    """The part of most of some nodes, the first of several."""
    known = Counter(part for node in nodes if (part := _part_of(node, parts)))
    return known.most_common(1)[0][0] if known else _NO_PART


def _part_of(node: str, parts: Mapping[str, str]) -> str:
    """The part of a node; a cast that a conversion put in is of the node whose tensor it casts."""
    name = node.rpartition(PART_MARK)[2]
    return parts.get(name) or parts.get(_CAST.sub("", name), "")


def _layer(line: str, name: re.Match[str], parts: Mapping[str, str]) -> FusedLayer:
    _, *sections = _SECTION.split(line)
    dtypes = {
        section: tuple(_DTYPE.findall(content))
        for section, content in zip(sections[::2], sections[1::2], strict=True)
    }
    nodes = tuple(_SOURCE.findall(line))
    return FusedLayer(
        name=name.group(1),
        kind=name.group(2),
        part=_part(nodes, parts),
        input_dtypes=dtypes.get("Inputs", ()),
        weight_dtypes=dtypes.get("Constants", ()),
        output_dtypes=dtypes.get("Outputs", ()),
        onnx_nodes=nodes,
    )


def recording_logger(trt: Any) -> Any:
    """A logger of the module that keeps every line, with its severity."""

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            self.lines.append(message)
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def first_error(self) -> str:
            return one_line(self.errors[0])[:300] if self.errors else "no reason is given"

    return Recorder()


def memory_bytes(lines: list[str], label: str) -> int | None:
    """The figure of a line such as ``Total Weights Memory: 17301504 bytes``."""
    figure = re.compile(re.escape(label) + r":\s*(\d+)")
    return next((int(found[1]) for line in lines if (found := figure.search(line))), None)
