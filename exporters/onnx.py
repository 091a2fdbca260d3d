"""ONNX files in every precision that ONNX Runtime can compute in."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from stmdeploy.plugins.exporter import Adoption, Declared, Exporter, Target, Work
from stmdeploy.plugins.runner import Array, Inputs, ModuleFactory, Runner
from stmdeploy.schema.manifest import Draft
from stmdeploy.spec.run import RunSpec

from .onnx_graph import write_onnx
from .operator_times import Inferences, of_onnxruntime
from .ort_providers import BUILDERS
from .ort_session import OnnxRuntimeRunner, first_non_finite, matrix_product
from .outside import adopt_onnx, declared_onnx
from .placement import check_on_gpu
from .precision import converted, emulated


def not_installed(packages: Iterable[str], install: str) -> str:
    """Names the missing packages and the command that installs them; empty if none is missing."""
    missing = [name for name in packages if not find_spec(name)]
    return f"{' and '.join(missing)} not installed: {install}" if missing else ""


class OnnxExporter(Exporter):
    """Exporter of target ``onnx``; its artifacts run on runtime ``onnxruntime``."""

    target = Target(
        name="onnx",
        suffix=".onnx",
        runtimes=("onnxruntime",),
        tolerances={"fp32": 1e-5, "fp16": 5e-3, "int8": None, "int8-dynamic": None},
        dynamic_size=True,
        mixes=("fp16", "int8", "int8-dynamic"),
        packages=("onnxruntime", "onnxruntime-gpu"),
    )
    lowerings = ("tokens", "tokens-plain", "reference", "gpu")

    def lowerings_on(self, provider: str) -> tuple[str, ...]:
        """``gpu`` first for the providers that build engines."""
        if provider in BUILDERS:
            return ("gpu", "tokens-plain", "reference")
        return self.lowerings

    def unavailable(self, *, source_only: bool = False) -> str:
        install = "pip install 'stmdeploy[cpu]' (or [gpu])"
        return not_installed(("onnx", "onnxscript", "onnxruntime"), install)

    def export(self, work: Work) -> Draft:
        """Writes the model in its precision, for any batch size, and checks the graph.

        Raises:
            StmdeployError: as `write_onnx` and `converted`; for the CUDA provider, as
                `check_on_gpu`.
        """
        draft = converted(write_onnx(work, self.target.suffix), work)
        if work.spec.provider == "cuda":
            check_on_gpu(work.folder / draft.graph, work.spec.model.name)
        return draft

    adopts = (".onnx",)

    def precisions(self, of_file: str) -> tuple[str, ...]:
        """That of the file."""
        return (of_file,)

    def declared(self, path: Path) -> Declared:
        """Reads the graph."""
        return declared_onnx(path)

    def adopt(self, work: Adoption) -> Draft:
        """Copies the file."""
        return adopt_onnx(work)

    def import_runtime(self) -> None:
        import onnxruntime  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> OnnxRuntimeRunner:
        """Opens an ONNX Runtime session of the artifact; `build` is not used."""
        return OnnxRuntimeRunner(path, run)

    def load_draft(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """Loads the artifact; for fp16 also a copy that overflows where a GPU would."""
        rounded = run.precision == "fp16"
        return _RoundedBeside(path, run) if rounded else self.load(path, run, build)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, inputs: Inputs, repeats: int
    ) -> Inferences:
        """Measures with ONNX Runtime's profiler; `build` is not used."""
        return of_onnxruntime(path, run, inputs, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """Prepares a MatMul or MatMulInteger in a session of its own."""
        return matrix_product(run, size)

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """Names the first node whose output is not finite, and its part of the model."""
        rounded = path.with_name(f"{path.stem}.emulated.onnx")
        return first_non_finite(rounded if rounded.exists() else path, images)


class _RoundedBeside(OnnxRuntimeRunner):
    """Runs an artifact and its rounded copy; gives the copy's outputs if they are not finite."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        super().__init__(path, run)
        self._rounded = OnnxRuntimeRunner(emulated(path), run)

    def prepare(self, *inputs: Array) -> None:
        super().prepare(*inputs)
        self._rounded.prepare(*inputs)

    def feed(self, *inputs: Array) -> None:
        super().feed(*inputs)
        self._rounded.feed(*inputs)

    def run(self) -> None:
        super().run()
        self._rounded.run()

    def another(self) -> Self:
        twin = super().another()
        twin._rounded = self._rounded.another()
        return twin

    def outputs(self) -> tuple[Array, ...]:
        import numpy as np

        rounded = self._rounded.outputs()
        finite = all(np.isfinite(one).all() for one in rounded)
        return super().outputs() if finite else rounded
