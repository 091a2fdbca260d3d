"""A loaded model, as every runtime shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

#: Images N 3 H W, normalised, or logits N x classes; NumPy itself is not imported for it.
Array: TypeAlias = "npt.NDArray[np.float32]"


@dataclass(frozen=True)
class OnStream:
    """How a runner puts one inference on a CUDA stream without waiting for it.

    ``handle`` is the stream, as a number.
    """

    handle: int
    submit: Callable[[], None]


class Runner(Protocol):
    """A loaded model. It never times itself: `run` returns when the outputs are there.

    A runner that inherits from it runs on a processor, unless it says otherwise.
    """

    def prepare(self, images: Array) -> None:
        """Takes the input, N 3 H W float32, to where the runtime reads it."""

    def feed(self, images: Array) -> None:
        """Copies another input of the same shape over the prepared one."""

    def run(self) -> None:
        """One inference over the prepared input, complete on return."""

    def output(self) -> Array:
        """The logits of the latest run, N x classes, float32, on the host."""

    def facts(self) -> dict[str, str]:
        """``runtime``, ``version``, ``provider``, and the options really in force."""

    def another(self) -> Runner:
        """One more request over the same loaded model; it wants its own `prepare`, and may run
        in a thread of its own."""

    def on_stream(self) -> OnStream | None:
        """For timing by the device; None on a processor, or where the runtime always waits."""
        return None


ModuleFactory = Callable[[], "nn.Module"]
