"""The interface of a loaded model, the same for every runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

#: Images N 3 H W, normalised, or an output: logits N x classes, a map N C H W. The alias does not
#: import NumPy.
Array: TypeAlias = "npt.NDArray[np.float32]"
#: What a model is run with: images alone, or whatever a file from outside takes.
Inputs: TypeAlias = "tuple[Array, ...]"


@dataclass(frozen=True)
class OnStream:
    """Puts inferences on a CUDA stream without waiting for them.

    Attributes:
        handle: address of the stream.
        submit: enqueues one inference on the stream.
        wait: waits until the stream has done all that was enqueued.
    """

    handle: int
    submit: Callable[[], None]
    wait: Callable[[], None]


class Runner(Protocol):
    """A loaded model. It never times itself: `run` returns when the outputs are there.

    A runner that inherits from this one runs on the CPU, unless it overrides `on_stream`.
    """

    def prepare(self, *inputs: Array) -> None:
        """Puts the inputs where the runtime reads them: images N 3 H W float32, or whatever a file
        from outside takes, in its order."""

    def feed(self, *inputs: Array) -> None:
        """Copies other inputs of the same shapes over the prepared ones."""

    def run(self) -> None:
        """Runs one inference over the prepared input, and waits for its end."""

    def outputs(self) -> tuple[Array, ...]:
        """The outputs of the latest run, on the host, float32: logits, or a detector's maps; of a
        file from outside in its own types."""

    def facts(self) -> dict[str, str]:
        """``runtime``, ``version``, ``provider``, and the settings in force."""

    def another(self) -> Runner:
        """A second request over the same loaded model, to be prepared and run in another thread."""

    def on_stream(self) -> OnStream | None:
        """For timing by the device; None on the CPU, or if the runtime always waits."""
        return None


ModuleFactory = Callable[[], "nn.Module"]
