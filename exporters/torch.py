"""PyTorch itself: the artifact is a state_dict; the module runs it, eagerly or compiled."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.plugins.exporter import Exporter, Target, Work
from stmdeploy.plugins.runner import Array, Inputs, ModuleFactory
from stmdeploy.schema.manifest import Draft
from stmdeploy.spec.run import OWN_GRAPHS, RunSpec

from .operator_times import OTHERS, Inferences, of_torch
from .tensors import TensorRunner, denormals, set_up_threads, torch_draft

if TYPE_CHECKING:
    from torch import Tensor

#: torch's name for every precision.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchExporter(Exporter):
    """Exporter of target ``torch``: runtimes ``torch`` (eager) and ``torch-compile``."""

    target = Target(
        name="torch",
        suffix=".pt",
        runtimes=("torch", "torch-compile"),
        tolerances={"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2},
        # The artifact holds weights under the keys of the reference form; the module that they are
        # loaded into is whatever this version of stmdeploy builds.
        holds_code=False,
        packages=("torch",),
    )
    lowerings = ("reference",)

    def unavailable(self, *, source_only: bool = False) -> str:
        return ""  # torch is a dependency

    def export(self, work: Work) -> Draft:
        """Writes the state_dict under the key ``model``, as official checkpoints do."""
        import torch

        path = work.folder / (work.spec.stem + self.target.suffix)
        dtype = getattr(torch, DTYPES[work.spec.precision])
        state = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in work.module.state_dict().items()
        }
        with path.open("wb") as file:
            torch.save({"model": state}, file)
        return torch_draft(work, path.name)

    def import_runtime(self) -> None:
        import torch  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> TorchRunner:
        """Loads the artifact's weights into the module that `build` makes."""
        return TorchRunner(path, run, build)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, inputs: Inputs, repeats: int
    ) -> Inferences:
        """Measures with torch.profiler.

        Raises:
            StmdeployError: for ``torch-compile``, whose code does not say which module it is of.
        """
        if run.runtime != "torch":
            raise StmdeployError(f"{run.runtime} does not report where its time goes", OTHERS)
        runner = TorchRunner(path, run, build)
        return of_torch(runner.module, runner.prepared(inputs[0]), run.device, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """Prepares a ``torch.mm``; None for integers, which it does not take."""
        import torch

        if run.precision not in DTYPES:
            return None
        torch.set_num_threads(run.threads)
        dtype = getattr(torch, DTYPES[run.precision])
        left, right, out = (torch.rand(size, size).to(dtype) for _ in range(3))
        return lambda: torch.mm(left, right, out=out)


class TorchRunner(TensorRunner):
    """Inference under ``torch.inference_mode``, eager or through ``torch.compile``."""

    def __init__(self, path: Path, run: RunSpec, build: ModuleFactory) -> None:
        import torch

        if run.device == "cuda" and not torch.cuda.is_available():
            raise StmdeployError(
                "this torch sees no CUDA device",
                "check the driver with nvidia-smi, and that torch is built for CUDA",
                ExitCode.WORKER_FAILED,
            )
        set_up_threads(run)
        # float32 means float32: TensorFloat-32 would be another precision under the same name.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        module = build()
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        module.load_state_dict(state["model"], assign=True)
        self._dtype = getattr(torch, DTYPES[run.precision])
        self.module = module.eval().to(run.device, self._dtype)
        if run.device == "cuda":
            torch.backends.cudnn.benchmark = (
                True  # as whoever serves it would: measures its kernels
            )
        # Convolutions in 16 bits want channels last on a GPU.
        self._channels_last = run.device == "cuda" or run.settings.channels_last
        if self._channels_last:
            self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._compiled = run.runtime == "torch-compile"
        if self._compiled:
            self.module.compile(dynamic=False, mode=run.settings.torch_mode)
        super().__init__(run, on_gpu=run.device == "cuda")

    def prepared(self, images: Array) -> Tensor:
        """A copy of the input on the device, in the run's precision."""
        image: Tensor = self._torch.from_numpy(images).to(self._run.device, self._dtype, copy=True)
        if self._channels_last:
            image = image.contiguous(memory_format=self._torch.channels_last)
        return image

    def prepare(self, *inputs: Array) -> None:
        """Copies the input to the device; captures the CUDA graph, if the run asks for one."""
        self._graph = None
        self._inputs = tuple(map(self.prepared, inputs))
        if self._stream is not None:
            self._torch.cuda.synchronize()
            own = self._compiled and self._run.settings.torch_mode in OWN_GRAPHS
            if self._run.settings.cuda_graph and not own:
                with self._torch.inference_mode():
                    self._record()

    def _execute(self) -> None:
        with self._lane():
            self._outputs = self.module(*self._inputs)

    def _submit(self) -> None:
        with self._torch.inference_mode():
            super()._submit()

    def facts(self) -> dict[str, str]:
        return {
            "runtime": self._run.runtime,
            "version": self._torch.__version__,
            "provider": f"{'inductor' if self._compiled else 'eager'}, {self._run.device}",
            "intra_op_threads": str(self._torch.get_num_threads()),
            "denormals": denormals(self._run),
            "tf32": "off",
            **({"mode": self._run.settings.torch_mode} if self._compiled else {}),
            **({"layout": "channels last"} if self._channels_last else {}),
            "cuda_graph": str(self._graph is not None).lower(),
        }
