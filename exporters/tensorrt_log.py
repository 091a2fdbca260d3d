"""What TensorRT says only in its log: the first error, the fused layers, the memory."""

from __future__ import annotations

import re
from typing import Any

from stmdeploy.files.reading import one_line
from stmdeploy.schema.manifest import FusedLayer

#: How the list of fused layers begins: one log message, with a line for each layer.
_LAYER_LIST = "Layers:"
_NAME = re.compile(r"^\s*Name: ([^,]+), LayerType: ([^,]+),")
_SECTION = re.compile(r"\b(Inputs|Constants|Outputs|TacticName): ")
_DTYPE = re.compile(r"Datatype: (\w+)")
_SOURCE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


def fused_layers(lines: list[str]) -> tuple[FusedLayer, ...]:
    """The layers after fusion, from the builder's verbose log; empty if it lists none.

    The format is undocumented: lines that do not look like a layer are skipped.
    """
    listing = next((line for line in lines if line.startswith(_LAYER_LIST)), "")
    return tuple(
        _layer(line, found) for line in listing.splitlines() if (found := _NAME.match(line))
    )


def _layer(line: str, name: re.Match[str]) -> FusedLayer:
    _, *sections = _SECTION.split(line)
    dtypes = {
        section: tuple(_DTYPE.findall(content))
        for section, content in zip(sections[::2], sections[1::2], strict=True)
    }
    return FusedLayer(
        name=name.group(1),
        kind=name.group(2),
        input_dtypes=dtypes.get("Inputs", ()),
        weight_dtypes=dtypes.get("Constants", ()),
        output_dtypes=dtypes.get("Outputs", ()),
        onnx_nodes=tuple(_SOURCE.findall(line)),
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
