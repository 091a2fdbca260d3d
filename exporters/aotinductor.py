"""AOTInductor: a module compiled ahead of time into one package, run without tracing."""

from __future__ import annotations

import shutil
import zipfile
from importlib.metadata import version
from pathlib import Path
from shutil import which
from typing import Any

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import one_line
from stmdeploy.files.writing import sha256_of
from stmdeploy.plugins.exporter import Adoption, Declared, Exporter, Target, Work
from stmdeploy.plugins.runner import Array, ModuleFactory
from stmdeploy.schema.manifest import Draft
from stmdeploy.spec.run import RunSpec

from .tensors import TensorRunner, denormals, set_up_threads, torch_draft


class AotInductorExporter(Exporter):
    """Exporter of target ``aotinductor``: its artifacts run on the CPU they were compiled on."""

    target = Target(
        name="aotinductor",
        suffix=".pt2",
        runtimes=("aotinductor",),
        tolerances={"fp32": 1e-5},
        travels="nothing",
        devices=("cpu",),
    )
    lowerings = ("tokens-plain", "reference")

    def unavailable(self, *, source_only: bool = False) -> str:
        return "" if which("g++") else "the C++ compiler g++ is not installed: apt install g++"

    def export(self, work: Work) -> Draft:
        """Compiles the module for any batch size.

        Raises:
            StmdeployError: torch cannot export or compile the module.
        """
        import torch

        path = work.folder / (work.spec.stem + self.target.suffix)
        try:
            program = torch.export.export(
                work.module,
                (torch.zeros(2, 3, *work.info.pixels),),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )
            torch._inductor.aoti_compile_and_package(program, package_path=str(path))
        except Exception as error:  # the compiler has exceptions of its own
            raise StmdeployError(
                f"{work.spec.model.name} cannot be compiled: {one_line(str(error))[:300]}",
                "change the module so that torch.export can trace it for any batch size",
            ) from error
        return torch_draft(work, path.name)

    adopts = (".pt2",)

    def precisions(self, of_file: str) -> tuple[str, ...]:
        """Whatever it was compiled in, which a package does not tell."""
        return (of_file,)

    def declared(self, path: Path) -> Declared:
        """A package says nothing of itself before it is loaded."""
        return Declared((), (), "fp32", 0, sha256_of(path))

    def adopt(self, work: Adoption) -> Draft:
        """Copies the package.

        Raises:
            StmdeployError: it is no compiled package, which is found out without loading it.
        """
        if not _is_compiled(work.path):
            raise StmdeployError(
                f"{work.path.name} is not compiled by AOTInductor",
                "write it by torch._inductor.aoti_compile_and_package",
            )
        shutil.copyfile(work.path, work.folder / work.path.name)
        return Draft(
            files=(work.path.name,), inputs=work.inputs, outputs=work.outputs,
            versions={"torch": version("torch")},
        )  # fmt: skip

    def import_runtime(self) -> None:
        import torch  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> AotInductorRunner:
        """Loads the compiled package; `build` is not used."""
        return AotInductorRunner(path, run)


def _is_compiled(path: Path) -> bool:
    """Whether a file is an archive that holds a compiled library."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith((".so", ".wrapper.cpp")) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


class AotInductorRunner(TensorRunner):
    """Runs a loaded package on the CPU."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        import torch

        if run.device != "cpu":
            raise StmdeployError("aotinductor runs only on the CPU", "leave --gpu out")
        super().__init__(run, on_gpu=False)
        set_up_threads(run)
        self._module: Any = torch._inductor.aoti_load_package(str(path))

    def prepare(self, *inputs: Array) -> None:
        """Copies the inputs into tensors."""
        self._inputs = tuple(self._torch.from_numpy(one).clone() for one in inputs)

    def _execute(self) -> None:
        with self._torch.inference_mode():
            self._outputs = self._module(*self._inputs)

    def facts(self) -> dict[str, str]:
        return {
            "runtime": "aotinductor",
            "version": self._torch.__version__,
            "provider": "inductor, cpu",
            "intra_op_threads": str(self._torch.get_num_threads()),
            "denormals": denormals(self._run),
        }
