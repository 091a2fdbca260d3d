"""AOTInductor: a module compiled ahead of time into one package, run without tracing."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmdeploy.artifact import Draft, TensorInfo
from stmdeploy.contracts import ModuleFactory, Travels, Work
from stmdeploy.errors import StmdeployError
from stmdeploy.spec import INPUT_NAME, OUTPUT_NAME, RunSpec

from .operator_times import OTHERS, Inferences

if TYPE_CHECKING:
    from torch import Tensor

    from stmdeploy.contracts import Array


class AotInductorExporter:
    """Exporter of target ``aotinductor``, for the CPU of the machine it was compiled on."""

    target = "aotinductor"
    suffix = ".pt2"
    runtimes = ("aotinductor",)
    tolerances = {"fp32": 1e-5}  # noqa: RUF012
    lowerings = ("tokens-plain", "reference")
    holds_code = True
    travels: Travels = "nothing"

    def unavailable(self, *, source_only: bool = False) -> str:
        """Why this target cannot be used here; empty if it can."""
        from shutil import which

        return "" if which("g++") else "install a C++ compiler, g++"

    def export(self, work: Work) -> Draft:
        """Compiles the module with a free batch.

        Raises:
            StmdeployError: torch cannot export or compile it.
        """
        import torch

        height, width = work.info.image_size
        path = work.folder / (work.spec.stem + self.suffix)
        try:
            program = torch.export.export(
                work.module,
                (torch.zeros(2, 3, height, width),),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        except Exception as error:  # the compiler has exceptions of its own
            raise StmdeployError(
                f"{work.spec.model.name} cannot be compiled: {' '.join(str(error).split())[:300]}",
                "the module must be traceable by torch.export with a free batch",
            ) from error
        image = TensorInfo(name=INPUT_NAME, dtype="float32", shape=("batch", 3, height, width))
        logits = TensorInfo(
            name=OUTPUT_NAME, dtype="float32", shape=("batch", work.info.num_classes)
        )
        return Draft(
            files=(path.name,),
            inputs=(image,),
            outputs=(logits,),
            versions={"torch": version("torch")},
        )

    def import_engine(self) -> None:
        """Imports torch."""
        import torch  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> AotInductorRunner:
        """The compiled package; `build` is not used."""
        return AotInductorRunner(path, run)

    def check(
        self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory
    ) -> AotInductorRunner:
        """The artifact itself."""
        return self.load(path, run, build)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> Inferences:
        """Compiled code does not say which module it came from.

        Raises:
            StmdeployError: always.
        """
        raise StmdeployError("aotinductor does not tell where its time goes", OTHERS)

    def product(self, run: RunSpec, size: int) -> None:
        """None: its products are those of torch."""

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """Empty: nothing in the package can be looked at."""
        return ""


class AotInductorRunner:
    """A loaded package, on the CPU."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        import torch

        if run.device != "cpu":
            raise StmdeployError("aotinductor packages here run on the CPU", "leave --gpu out")
        self._torch, self._run = torch, run
        torch.set_num_threads(run.threads)
        self._module: Any = torch._inductor.aoti_load_package(str(path))
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def prepare(self, images: Array) -> None:
        """Copies the input into a tensor."""
        self._input = self._torch.from_numpy(images).clone()

    def feed(self, images: Array) -> None:
        """Copies an input over the one before."""
        if self._input is None:
            raise RuntimeError("prepare() comes before feed()")
        self._input.copy_(self._torch.from_numpy(images))

    def another(self) -> AotInductorRunner:
        """The same loaded package, with an input of its own."""
        return copy.copy(self)

    def run(self) -> None:
        """One inference."""
        with self._torch.inference_mode():
            self._output = self._module(self._input)

    def on_stream(self) -> None:
        """None: it runs on the processor."""

    def output(self) -> Array:
        """The logits of the latest run."""
        if self._output is None:
            raise RuntimeError("run() comes before output()")
        logits: Array = self._output.numpy()
        return logits

    def facts(self) -> dict[str, str]:
        """Version and threads."""
        return {
            "runtime": "aotinductor",
            "version": self._torch.__version__,
            "provider": "inductor, cpu",
            "intra_op_threads": str(self._torch.get_num_threads()),
        }
