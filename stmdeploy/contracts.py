"""What the core and the exporters promise each other.

An exporter turns a module into files and a `Draft` of their manifest, and an artifact into a
`Runner`. Exporters are found through the entry-point group ``stmdeploy.exporters``; the core
never imports one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from stmdeploy.artifact import Artifact, Document, Draft, ModelInfo
from stmdeploy.spec import EngineSpec, ExportSpec, RunSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Array = npt.NDArray[np.float32]


class Progress(Protocol):
    """Where long work says what it is doing."""

    def expect(self, steps: int) -> None:
        """So many more steps will follow."""

    def step(self, text: str) -> None:
        """A new piece of work begins; the one before it is done."""

    def detail(self, text: str) -> None:
        """What the present piece of work is doing now; seen only while it does."""

    def warn(self, text: str) -> None:
        """A line that the user should see, and that stays."""


class Silent:
    """A `Progress` that says nothing."""

    def expect(self, steps: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def detail(self, text: str) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class OnStream:
    """How a runner puts one inference on a CUDA stream without waiting for it.

    ``handle`` is the stream, as a number.
    """

    handle: int
    submit: Callable[[], None]


class Runner(Protocol):
    """A loaded model. It never times itself: `run` returns when the outputs are there."""

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


ModuleFactory = Callable[[], "nn.Module"]


@dataclass(frozen=True)
class Work:
    """One export: what goes in, where it goes, and who is told.

    Attributes:
        module: in the form `form`, float32, in eval mode; never changed.
        form: one of `stmdeploy.spec.LOWERINGS`.
        info: what the module is.
        spec: what is asked for.
        folder: a scratch folder that the files are written into.
        images: N 3 H W, normalised, to set int8 scales with; None where none are needed.
        images_source: ``random`` or the name of a folder.
        tell: takes what is going on inside, as `Progress.detail`.
    """

    module: nn.Module
    form: str
    info: ModelInfo
    spec: ExportSpec
    folder: Path
    images: Array | None
    images_source: str
    tell: Callable[[str], None]


@dataclass(frozen=True)
class BuildWork:
    """One engine to build: by what settings, into which scratch folder, and who is told."""

    engine: EngineSpec
    folder: Path
    tell: Callable[[str], None]


class OperatorTime(Document):
    """One operator of one inference. ``part`` is as in "stage 2 mixer"; other if unknown."""

    name: str
    operator: str
    part: str
    start_ms: float
    duration_ms: float


#: The artifact itself; its source, from which an `EngineBuilder` makes the artifact where it
#: runs; or nothing.
Travels = Literal["artifact", "source", "nothing"]


class Exporter(Protocol):
    """One target: module -> files -> runner. Heavy libraries load inside the methods."""

    @property
    def target(self) -> str:
        """The name that ``--target`` takes."""

    @property
    def suffix(self) -> str:
        """Of the artifact's main file."""

    @property
    def runtimes(self) -> tuple[str, ...]:
        """What runs the artifacts; the first verifies them."""

    @property
    def tolerances(self) -> Mapping[str, float | None]:
        """The precisions it can write, each with its bound on the relative L2 error against
        float64; None for one that is reported, not judged."""

    @property
    def lowerings(self) -> tuple[str, ...]:
        """The forms of `stmdeploy.spec.LOWERINGS` it can take, the best first."""

    @property
    def holds_code(self) -> bool:
        """Whether an artifact says what is computed; otherwise it holds weights alone, and the
        code that loads it does."""

    @property
    def travels(self) -> Travels:
        """What can be used on another machine than the one that wrote it."""

    def unavailable(self, *, source_only: bool = False) -> str:
        """Why the target cannot be used here and what to install; empty if it can.

        ``source_only``: no engine is built here, only what it is built from.
        """

    def export(self, work: Work) -> Draft:
        """Writes ``spec.stem + suffix`` (and what belongs to it) into the folder."""

    def import_engine(self) -> None:
        """Imports what `load` needs, so that its time and memory are the model's alone."""

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> Runner:
        """A runner for an artifact; `build` makes the module, for runtimes that run it."""

    def check(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """A runner to verify a draft with: of the artifact, or of the graph it was made from
        where the artifact cannot run here (``draft.not_run``)."""

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> tuple[tuple[OperatorTime, ...], ...]:
        """The operators of so many inferences, in the order they ran.

        Raises:
            StmdeployError: the runtime does not tell.
        """

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """The product of two square matrices in the precision of a run, ready to be repeated: what
        the runtime can get out of the processor. None where it has none in that precision."""

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """Where outputs that are not finite come from, in words; empty if it cannot tell."""


@runtime_checkable
class EngineBuilder(Protocol):
    """What an exporter also is whose artifacts travel as their source."""

    def engine_key(self, engine: EngineSpec) -> dict[str, str]:
        """What an engine depends on beside its source: the builder, its version, the GPU, the
        settings."""

    def build(self, source: Artifact, work: BuildWork) -> Draft:
        """Builds the engine of a source, for the machine this is.

        Raises:
            StmdeployError: a build that failed, with the builder's own words.
        """
