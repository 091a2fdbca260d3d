"""ONNX files, in every precision that ONNX Runtime computes in."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.artifact import Draft
from stmdeploy.contracts import ModuleFactory, Runner, Travels, Work
from stmdeploy.spec import RunSpec

from .onnx_graph import write_onnx
from .operator_times import Inferences, of_onnxruntime
from .ort_session import OnnxRuntimeRunner, first_non_finite, matrix_product
from .precision import calibration_of, converted, emulated

if TYPE_CHECKING:
    from stmdeploy.contracts import Array


class OnnxExporter:
    """Exporter of target ``onnx``; its artifacts run on runtime ``onnxruntime``."""

    target = "onnx"
    suffix = ".onnx"
    runtimes = ("onnxruntime",)
    tolerances = {"fp32": 1e-5, "fp16": 5e-3, "int8": None, "int8-dynamic": None}  # noqa: RUF012
    lowerings = ("tokens", "tokens-plain", "reference")
    holds_code = True
    travels: Travels = "artifact"

    def unavailable(self, *, source_only: bool = False) -> str:
        """Why this target cannot be used here; empty if it can."""
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not find_spec(name)]
        if not missing:
            return ""
        return f"{' and '.join(missing)} not installed: pip install 'stmdeploy[cpu]' (or [gpu])"

    def export(self, work: Work) -> Draft:
        """Writes the model, batch dynamic, in its precision, and checks the graph.

        Raises:
            StmdeployError: opset out of range, or torch cannot export the module.
        """
        file = converted(write_onnx(work, work.folder / (work.spec.stem + self.suffix)), work)
        return Draft(
            files=file.files,
            inputs=file.inputs,
            outputs=file.outputs,
            opset=file.opset,
            operators=file.operators,
            versions=file.versions,
            calibration=calibration_of(work),
            graph=file.path.name,
        )

    def import_engine(self) -> None:
        """Imports ONNX Runtime."""
        import onnxruntime  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> OnnxRuntimeRunner:
        """An ONNX Runtime session of the artifact; `build` is not used."""
        return OnnxRuntimeRunner(path, run)

    def check(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """The artifact itself; of fp16, beside it what a GPU would round it to."""
        runner = self.load(path, run, build)
        if run.precision != "fp16":
            return runner
        return _RoundedBeside(runner, OnnxRuntimeRunner(emulated(path), run))

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> Inferences:
        """By ONNX Runtime's profiler; `build` is not used."""
        return of_onnxruntime(path, run, images, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """MatMul or MatMulInteger in a session of its own."""
        return matrix_product(run, size)

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """The first node whose output is not finite, and where it belongs."""
        rounded = path.with_name(f"{path.stem}.emulated.onnx")
        return first_non_finite(rounded if rounded.exists() else path, images)


class _RoundedBeside:
    """Runs an artifact; its outputs, unless rounding after every node gives none."""

    def __init__(self, artifact: OnnxRuntimeRunner, rounded: OnnxRuntimeRunner) -> None:
        self._artifact, self._rounded = artifact, rounded

    def prepare(self, images: Array) -> None:
        self._artifact.prepare(images)
        self._rounded.prepare(images)

    def run(self) -> None:
        self._artifact.run()
        self._rounded.run()

    def feed(self, images: Array) -> None:
        self._artifact.feed(images)
        self._rounded.feed(images)

    def another(self) -> _RoundedBeside:
        return _RoundedBeside(self._artifact.another(), self._rounded.another())

    def on_stream(self) -> None:
        """None: nothing is timed with it."""

    def output(self) -> Array:
        import numpy as np

        rounded = self._rounded.output()
        return self._artifact.output() if np.isfinite(rounded).all() else rounded

    def facts(self) -> dict[str, str]:
        return self._artifact.facts()
