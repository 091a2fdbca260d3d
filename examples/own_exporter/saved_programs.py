"""Target ``saved``: a program of torch.export in a file, run by torch itself."""

from __future__ import annotations

import copy
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stmdeploy.plugins.exporter import Exporter, Target, Work
from stmdeploy.plugins.runner import ModuleFactory
from stmdeploy.schema.manifest import Draft, TensorInfo
from stmdeploy.spec.run import RunSpec


class SavedExporter(Exporter):
    """What stmdeploy finds by the entry point of this package."""

    target = Target("saved", ".saved", runtimes=("saved",), tolerances={"fp32": 1e-5})

    def unavailable(self, *, source_only: bool = False) -> str:
        return ""

    def export(self, work: Work) -> Draft:
        import torch

        size, batch = work.info.pixels, torch.export.Dim("batch", min=1)
        image = torch.zeros(2, 3, *size)
        program = torch.export.export(work.module, (image,), dynamic_shapes=({0: batch},))
        path = work.folder / (work.spec.stem + self.target.suffix)
        torch.export.save(program, path)
        return Draft(
            files=(path.name,),
            inputs=(TensorInfo(name="image", dtype="float32", shape=("batch", 3, *size)),),
            outputs=work.outputs,
            versions={"torch": version("torch")},
        )

    def import_runtime(self) -> None:
        import torch  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> SavedRunner:
        return SavedRunner(path, run)


class SavedRunner:
    """A loaded program."""

    def __init__(self, path: Path, run: RunSpec) -> None:
        import torch

        torch.set_num_threads(run.threads)
        self._torch, self._program = torch, torch.export.load(path).module()

    def prepare(self, *inputs: Any) -> None:
        self._input = self._torch.from_numpy(inputs[0]).clone()

    def feed(self, *inputs: Any) -> None:
        self._input.copy_(self._torch.from_numpy(inputs[0]))

    def run(self) -> None:
        with self._torch.inference_mode():
            given = self._program(self._input)
        self._outputs = given if isinstance(given, list | tuple) else (given,)

    def outputs(self) -> tuple[Any, ...]:
        return tuple(one.numpy() for one in self._outputs)

    def facts(self) -> dict[str, str]:
        return {"runtime": "saved", "version": version("torch"), "provider": "torch"}

    def another(self) -> SavedRunner:
        return copy.copy(self)

    def on_stream(self) -> None:
        return None
