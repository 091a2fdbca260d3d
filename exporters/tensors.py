"""What the targets built on torch share: the draft of their file, and a runner over tensors."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Self

from stmdeploy.errors import StmdeployError
from stmdeploy.plugins.exporter import Work
from stmdeploy.plugins.runner import Array, OnStream, Runner
from stmdeploy.schema.manifest import Draft, TensorInfo
from stmdeploy.spec.model import INPUT_NAME
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WARM_RUNS_BEFORE_CAPTURE = 3


def torch_draft(work: Work, name: str) -> Draft:
    """The draft of a single file written by torch: float32 in and out, any batch size."""
    image = TensorInfo(name=INPUT_NAME, dtype="float32", shape=("batch", 3, *work.info.pixels))
    return Draft(
        files=(name,), inputs=(image,), outputs=work.outputs, versions={"torch": version("torch")}
    )


def set_up_threads(run: RunSpec) -> None:
    """Sets torch's threads, all of which inherit whether they keep denormals."""
    import torch

    if run.settings.flush_denormals:
        torch.set_flush_denormal(True)
    torch.set_num_threads(run.threads)


def denormals(run: RunSpec) -> str:
    """What becomes of them, for the facts of a row."""
    return "flushed" if run.settings.flush_denormals else "kept"


class TensorRunner(Runner):
    """A runner whose input and outputs are torch tensors; on a GPU, on a stream of its own.

    A subclass sets ``_inputs`` in `prepare`, and ``_outputs`` there or in `_execute`.
    """

    def __init__(self, run: RunSpec, *, on_gpu: bool) -> None:
        import torch

        self._torch = torch
        self._run = run
        self._stream: Any = torch.cuda.Stream() if on_gpu else None  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._pinned: tuple[Tensor, ...] = ()
        self._outputs: Tensor | Sequence[Tensor] = ()

    @abstractmethod
    def _execute(self) -> None:
        """Runs one inference; on a GPU, puts it on the stream and does not wait."""

    def feed(self, *inputs: Array) -> None:
        """As `Runner.feed`; to a GPU from pinned memory, as a server keeps its inputs."""
        if not self._inputs:
            raise RuntimeError("prepare() comes before feed()")
        given = tuple(map(self._torch.from_numpy, inputs))
        if self._stream is not None:
            if [one.shape for one in self._pinned] != [one.shape for one in given]:
                self._pinned = tuple(self._torch.empty_like(one, pin_memory=True) for one in given)
            given = tuple(
                pinned.copy_(one) for pinned, one in zip(self._pinned, given, strict=True)
            )
        with self._lane():
            for mine, one in zip(self._inputs, given, strict=True):
                mine.copy_(one, non_blocking=True)
        self._wait()

    def another(self) -> Self:
        """The same loaded model, with an input and a stream of its own."""
        twin = copy.copy(self)
        if self._stream is not None:
            twin._stream = self._torch.cuda.Stream()  # type: ignore[no-untyped-call]
        twin._pinned = ()
        return twin

    def run(self) -> None:
        self._submit()
        self._wait()

    def on_stream(self) -> OnStream | None:
        """Its own stream on a GPU, else None."""
        own = self._stream
        return None if own is None else OnStream(own.cuda_stream, self._submit, self._wait)

    def outputs(self) -> tuple[Array, ...]:
        given = self._outputs
        if isinstance(given, self._torch.Tensor):
            given = (given,)
        if not given:
            raise RuntimeError("prepare() and run() come before outputs()")
        return tuple(
            (one.float() if one.is_floating_point() else one).cpu().numpy() for one in given
        )

    def _lane(self) -> AbstractContextManager[object]:
        """Sends the work inside it to this runner's stream, on a GPU."""
        return nullcontext() if self._stream is None else self._torch.cuda.stream(self._stream)

    def _wait(self) -> None:
        if self._stream is not None:
            self._stream.synchronize()

    def _submit(self) -> None:
        if self._graph is not None:
            with self._lane():
                self._graph.replay()
        else:
            self._execute()

    def _record(self) -> None:
        """Captures an inference as a CUDA graph, after some that do whatever happens only once.

        A model that cannot be captured goes on without, unless the graph was asked for.
        """
        for _ in range(_WARM_RUNS_BEFORE_CAPTURE):
            self.run()
        try:
            self._check_capturable()
            graph = self._torch.cuda.CUDAGraph()
            with self._torch.cuda.graph(graph, stream=self._stream):
                self._execute()
        except (RuntimeError, StmdeployError):
            if not self._run.settings.cuda_graph_optional:
                raise
            self._torch.cuda.synchronize()
            return
        self._graph = graph

    def _check_capturable(self) -> None:
        """Raises StmdeployError if the warm model cannot be recorded as a CUDA graph."""
