"""PyTorch itself: the artifact is the state_dict, run by the module, eagerly or compiled."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.artifact import Draft, TensorInfo
from stmdeploy.contracts import ModuleFactory, OnStream, Travels, Work
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.spec import INPUT_NAME, OUTPUT_NAME, RunSpec

from .operator_times import OTHERS, Inferences, of_torch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stmdeploy.contracts import Array


_WARM_RUNS_BEFORE_CAPTURE = 3
#: torch's names of the precisions.
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class TorchExporter:
    """Exporter of target ``torch``: runtimes ``torch`` (eager) and ``torch-compile``."""

    target = "torch"
    suffix = ".pt"
    runtimes = ("torch", "torch-compile")
    tolerances = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 4e-2}  # noqa: RUF012
    #: The artifact is the state_dict, whose keys are those of the reference form; the module
    #: around it is what this stmdeploy builds.
    lowerings = ("reference",)
    holds_code = False
    travels: Travels = "artifact"

    def unavailable(self, *, source_only: bool = False) -> str:
        """Always empty: torch is a dependency."""
        return ""

    def export(self, work: Work) -> Draft:
        """Writes the state_dict under the key ``model``, as official checkpoints do."""
        import torch

        path = work.folder / (work.spec.stem + self.suffix)
        dtype = getattr(torch, DTYPES[work.spec.precision])
        state = {
            key: value.to(dtype) if value.is_floating_point() else value
            for key, value in work.module.state_dict().items()
        }
        with path.open("wb") as file:
            torch.save({"model": state}, file)
        height, width = work.info.image_size
        return Draft(
            files=(path.name,),
            inputs=(
                TensorInfo(name=INPUT_NAME, dtype="float32", shape=("batch", 3, height, width)),
            ),
            outputs=(
                TensorInfo(
                    name=OUTPUT_NAME, dtype="float32", shape=("batch", work.info.num_classes)
                ),
            ),
            versions={"torch": version("torch")},
        )

    def import_engine(self) -> None:
        """Imports torch."""
        import torch  # noqa: F401

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> TorchRunner:
        """The module that `build` makes, with the artifact's weights."""
        return TorchRunner(path, run, build)

    def check(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> TorchRunner:
        """The artifact itself."""
        return self.load(path, run, build)

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> Inferences:
        """By torch.profiler, eager.

        Raises:
            StmdeployError: compiled code does not say which module it came from.
        """
        if run.runtime != "torch":
            raise StmdeployError(f"{run.runtime} does not tell where its time goes", OTHERS)
        runner = TorchRunner(path, run, build)
        return of_torch(runner.module, runner.prepared(images), run.device, repeats)

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """``torch.mm``, which no integers go through."""
        import torch

        if run.precision not in DTYPES:
            return None
        torch.set_num_threads(run.threads)
        dtype = getattr(torch, DTYPES[run.precision])
        left, right, out = (torch.rand(size, size).to(dtype) for _ in range(3))
        return lambda: torch.mm(left, right, out=out)

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """Empty: the names of modules would not say which operator it was."""
        return ""


class TorchRunner:
    """Inference under ``torch.inference_mode``, eager or through ``torch.compile``."""

    def __init__(self, path: Path, run: RunSpec, build: ModuleFactory) -> None:
        import torch

        if run.device == "cuda" and not torch.cuda.is_available():
            raise StmdeployError(
                "this torch sees no CUDA device", "check the driver", ExitCode.WORKER_FAILED
            )
        self._torch = torch
        self._run = run
        torch.set_num_threads(run.threads)
        # float32 means float32: TensorFloat-32 would be another precision under the same name.
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False
        module = build()
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        module.load_state_dict(state["model"], assign=True)
        self._dtype = getattr(torch, DTYPES[run.precision])
        self.module = module.eval().to(run.device, self._dtype)
        self._compiled = run.runtime == "torch-compile"
        if self._compiled:
            self.module.compile(dynamic=False)
        self._stream = torch.cuda.Stream() if run.device == "cuda" else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._input: Tensor | None = None
        self._output: Tensor | None = None

    def prepared(self, images: Array) -> Tensor:
        """The input on the device."""
        return self._torch.from_numpy(images).to(self._run.device, self._dtype)

    def prepare(self, images: Array) -> None:
        """Copies the input to the device; records the graph, where one is replayed."""
        self._graph = None
        self._input = self.prepared(images)
        if self._stream is not None:
            self._torch.cuda.synchronize()
            if self._run.settings.cuda_graph:
                self._record()

    def feed(self, images: Array) -> None:
        """Copies an input over the one before."""
        if self._input is None:
            raise RuntimeError("prepare() comes before feed()")
        with self._lane():
            self._input.copy_(self._torch.from_numpy(images))
        self._wait()

    def another(self) -> TorchRunner:
        """The same module, with an input and a stream of its own."""
        twin = copy.copy(self)
        if self._stream is not None:
            twin._stream = self._torch.cuda.Stream()  # type: ignore[no-untyped-call]
        return twin

    def _lane(self) -> AbstractContextManager[object]:
        """Where the work goes: this runner's stream, on a GPU."""
        return nullcontext() if self._stream is None else self._torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def _record(self) -> None:
        """Some inferences first: capturing must not meet anything that happens only once."""
        for _ in range(_WARM_RUNS_BEFORE_CAPTURE):
            self.run()
        graph = self._torch.cuda.CUDAGraph()
        with self._torch.inference_mode(), self._torch.cuda.graph(graph, stream=self._stream):
            self._output = self.module(self._input)
        self._graph = graph

    def _submit(self) -> None:
        with self._torch.inference_mode(), self._lane():
            if self._graph is not None:
                self._graph.replay()
            else:
                self._output = self.module(self._input)

    def run(self) -> None:
        """One inference; returns when the device is done."""
        self._submit()
        self._wait()

    def on_stream(self) -> OnStream | None:
        """Its own stream, on a GPU."""
        if self._stream is None:
            return None
        return OnStream(self._stream.cuda_stream, self._submit)

    def output(self) -> Array:
        """The logits of the latest run, on the host."""
        if self._output is None:
            raise RuntimeError("run() comes before output()")
        logits: Array = self._output.float().cpu().numpy()
        return logits

    def facts(self) -> dict[str, str]:
        """Version, threads and the matrix-product settings in force."""
        return {
            "runtime": self._run.runtime,
            "version": self._torch.__version__,
            "provider": f"{'inductor' if self._compiled else 'eager'}, {self._run.device}",
            "intra_op_threads": str(self._torch.get_num_threads()),
            "tf32": "off",
            "cuda_graph": str(self._graph is not None).lower(),
        }
