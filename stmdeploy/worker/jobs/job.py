"""What every job is: a document that a parent sends, and the work that its worker does."""

from __future__ import annotations

import resource
import sys
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar, cast

from pydantic import TypeAdapter

from stmdeploy.errors import Failure
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.schema.artifact import read_manifest
from stmdeploy.schema.document import Document
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.process import ASIDE

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from stmdeploy.artifacts.probe import Probe
    from stmdeploy.measure.session import Model
    from stmdeploy.plugins.exporter import Exporter
    from stmdeploy.plugins.runner import Inputs, Runner

#: What a worker that takes turns is sent when one is its own; nothing more ends them.
TURN = "turn"
#: Seed of the images whose outputs nobody knows.
_SEED = 0
T = TypeVar("T")


@dataclass(frozen=True)
class Parent:
    """Whoever started this worker: a `plugins.progress.Progress` over a pipe, line by line."""

    pipe: TextIO

    def say(self, line: str) -> None:
        """Sends a line that is not the answer; runs of white space become one space."""
        self.pipe.write(f"{ASIDE}{' '.join(line.split())}\n")
        self.pipe.flush()

    def phase(self, name: str, steps: int) -> None:
        """Does nothing: phases are the parent's."""

    def expect(self, steps: int) -> None:
        """Does nothing: the parent knows how many steps there are."""

    def step(self, text: str) -> None:
        """A new piece of work begins."""
        self.say(f"step {text}")

    def detail(self, text: str) -> None:
        """What the present piece of work is doing now."""
        self.say(f"detail {text}")

    def warn(self, text: str) -> None:
        """A line that the user should see, and that stays."""
        self.say(f"warn {text}")

    def next_turn(self, told: str = "ready") -> bool:
        """Tells the parent something, and waits for the next turn; False if there is none."""
        self.say(told)
        return sys.stdin.readline().strip() == TURN


class Job(Document, Generic[T]):
    """Work for one worker; ``T`` is the type of its result."""

    @abstractmethod
    def do(self, parent: Parent) -> T:
        """Does the work, in the worker.

        Raises:
            StmdeployError: it cannot be done; `answer` raises the same in the parent.
        """

    def answer(self, line: str) -> T:
        """The job's result, read from the last line of its worker.

        Raises:
            StmdeployError: what the job raised.
            ValueError: the line is no answer.
        """
        answer = Answer.model_validate_json(line)
        if answer.failure is not None:
            raise answer.failure.error()
        (gives,) = type(self).__mro__[1].__pydantic_generic_metadata__["args"]  # type: ignore[attr-defined]
        return cast("T", TypeAdapter(gives).validate_python(answer.gave))


class ArtifactJob(Job[T], Generic[T]):
    """Work on an artifact of a model, as a run says; the parent has checked its hashes."""

    artifact: Path
    model: ModelSpec
    run: RunSpec

    @property
    def exporter(self) -> Exporter:
        """The exporter of the run's runtime; raises StmdeployError if that is not installed."""
        from stmdeploy.plugins.registry import exporter_for_runtime

        return exporter_for_runtime(self.run.runtime)

    def build(self) -> nn.Module:
        """Builds the module of the model, for runtimes that run it; on a GPU, with fused attention,
        and with kernels of our own where Triton is installed."""
        from stmdeploy.backbones.mixers.attention import fuse_attention
        from stmdeploy.backbones.source import build_module

        module = build_module(self.model)
        if self.run.device == "cuda":
            fuse_attention(module)
            if find_spec("triton"):
                from stmdeploy.backbones.lowering.dcn_kernel import fuse_sampling

                fuse_sampling(module)
        return module

    def random_inputs(self) -> Inputs:
        """A batch of images N 3 H W, standard normal, or what a file from outside takes; the same
        in every process."""
        import numpy as np

        from stmdeploy.measure.inputs import random_inputs

        random = np.random.default_rng(_SEED)
        if (manifest := read_manifest(self.artifact)).verification is None:
            return random_inputs(manifest.inputs, self.run.batch, random)
        shape = (self.run.batch, 3, *self.model.image_size)
        return (random.standard_normal(shape, dtype=np.float32),)

    @cached_property
    def probe(self) -> Probe | None:
        """Images, and the outputs that the manifest says the model gives for them; None of a file
        from outside. Asked for after the runtime is imported, which may share a library with it."""
        from stmdeploy.artifacts.probe import Probe

        known, size = read_manifest(self.artifact).verification, self.model.image_size
        if known is None:
            return None
        return Probe(known.outputs, size, self.run.precision, known.tolerance_relative_l2)

    def loading(
        self, make_inputs: Callable[[], Inputs], check: Callable[[Runner, Inputs], object]
    ) -> Model:
        """How the artifact comes into this process; both arguments as for `Model`."""
        from stmdeploy.measure.session import Model

        exporter = self.exporter
        return Model(
            import_runtime=exporter.import_runtime,
            load=lambda: exporter.load(self.artifact, self.run, self.build),
            make_inputs=make_inputs,
            check=check,
        )


class Answer(Document):
    """The last line of a worker: what its job gave, or why it failed."""

    gave: Any = None
    failure: Failure | None = None


def limit_memory(limit_mib: int | None) -> None:
    """Makes this process the first that Linux ends if memory runs out, and bounds its memory."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    if limit_mib is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * BYTES_PER_MIB,) * 2)


def without_checkpoint(model: ModelSpec) -> ModelSpec:
    """The model without its checkpoint, which nobody needs who has an artifact with the weights."""
    return replace(model, checkpoint=None)
