"""Traces of the catalogue's models, made once for all tests that export in their own process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stmdeploy.plugins.exporter import Work
from tests.sharing import SharedArtifacts

_FILE = "trace.onnx"


@dataclass(frozen=True)
class SharedTraces:
    """In the place of `onnx_graph._trace`, which is `trace`: a program as it was saved.

    A trace takes most of an export's time, and depends on little of what tests are about. Workers
    trace for themselves.
    """

    artifacts: SharedArtifacts
    trace: Callable[[Work, int], Any]

    def __call__(self, work: Work, opset: int) -> Any:
        spec, weights = work.spec, work.info.weights.sha256
        if spec.model.is_custom or spec.model.file:
            return self.trace(work, opset)
        import onnx_ir
        from torch.onnx import ONNXProgram

        def make(folder: Path) -> None:
            self.trace(work, opset).save(folder / _FILE)

        sizes = spec.sizes if spec.dynamic_size else None
        model = replace(spec.model, checkpoint=None)  # its weights are named
        key = f"trace of {model}, {weights}, {work.form}, {opset}, {sizes}"
        return ONNXProgram(onnx_ir.load(self.artifacts.made(key, make) / _FILE), None)
