"""What every job is: a document that a parent sends, and the work that its worker then does."""

from __future__ import annotations

import resource
from abc import abstractmethod
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TextIO, TypeVar, cast

from pydantic import TypeAdapter

from stmdeploy.errors import Failure
from stmdeploy.files.reading import BYTES_PER_MIB
from stmdeploy.plugins.runner import ModuleFactory
from stmdeploy.schema.document import Document
from stmdeploy.spec.model import ModelSpec
from stmdeploy.worker.process import ASIDE

if TYPE_CHECKING:
    from torch import nn


T = TypeVar("T")


@dataclass(frozen=True)
class Parent:
    """Whoever started this worker: a `plugins.progress.Progress` over a pipe, line by line."""

    pipe: TextIO

    def say(self, line: str) -> None:
        """A line that is not the answer."""
        self.pipe.write(f"{ASIDE}{line}\n")
        self.pipe.flush()

    def expect(self, steps: int) -> None:
        """Nothing: the parent knows."""

    def step(self, text: str) -> None:
        """A new piece of work begins."""
        self.say(f"step {' '.join(text.split())}")

    def detail(self, text: str) -> None:
        """What the present piece of work is doing now."""
        self.say(f"detail {' '.join(text.split())}")

    def warn(self, text: str) -> None:
        """A line that the user should see, and that stays."""
        self.say(f"warn {' '.join(text.split())}")


class Job(Document, Generic[T]):
    """Work for one worker; ``T`` is what it gives."""

    @abstractmethod
    def do(self, parent: Parent) -> T:
        """Does the work, in the worker.

        Raises:
            StmdeployError: it cannot be done; the parent gets the same.
        """

    def answer(self, line: str) -> T:
        """What a worker's last line says that the job gave.

        Raises:
            StmdeployError: what the worker raised.
            ValueError: the line is no answer.
        """
        answer = Answer.model_validate_json(line)
        if answer.failure is not None:
            raise answer.failure.error()
        (gives,) = type(self).__mro__[1].__pydantic_generic_metadata__["args"]  # type: ignore[attr-defined]
        return cast("T", TypeAdapter(gives).validate_python(answer.gave))


class Answer(Document):
    """The last line of a worker: what its job gave, or why it gave nothing."""

    gave: Any = None
    failure: Failure | None = None


def limit_memory(limit_mib: int | None) -> None:
    """Makes this process the first that a full machine ends, and bounds what it allocates."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    if limit_mib is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * BYTES_PER_MIB,) * 2)


def without_checkpoint(model: ModelSpec) -> ModelSpec:
    """A model whose artifact holds the weights: whoever runs it has no use for the checkpoint."""
    return replace(model, checkpoint=None)


def builder(model: ModelSpec) -> ModuleFactory:
    """What builds the module of a model, for runtimes that run it."""

    def build() -> nn.Module:
        from stmdeploy.backbones.source import build_module

        return build_module(model)

    return build
