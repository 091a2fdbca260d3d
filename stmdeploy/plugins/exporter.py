"""The contract between the core and the exporters.

An `Exporter` turns a module into files, with a `Draft` of their manifest, and an artifact into a
`Runner`. Abilities that only some exporters have are protocols of their own; the core asks for
them with `isinstance`. Exporters are found through the entry-point group ``stmdeploy.exporters``;
the core never imports one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from stmdeploy.plugins.runner import Array, Inputs, ModuleFactory, Runner
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.manifest import Draft, ModelInfo, TensorInfo
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    from torch import nn


#: What another machine than the one that exported can use: the artifact itself; its source, from
#: which an `EngineBuilder` makes the artifact where it runs; or nothing.
Travels = Literal["artifact", "source", "nothing"]


@dataclass(frozen=True)
class Target:
    """What is known of a target without loading its library.

    Attributes:
        name: name, as ``--target`` takes it.
        suffix: suffix of the artifact's main file.
        runtimes: runtimes that run the artifacts, as ``--runtime`` takes them; the first one
            verifies them.
        tolerances: precisions that it writes, each with its limit of the relative L2 error against
            float64; None for an error that is reported only.
        holds_code: whether an artifact says what is computed; if not, it holds weights alone, and
            is loaded into the model's Python module.
        travels: what another machine can use.
        dynamic_size: whether its artifacts can take images of any size.
        mixes: precisions in which it can leave parts of a model as they are.
        packages: names under which the library is distributed; the nodes of a cluster must have
            the same version of it.
        devices: what its artifacts run on: ``cpu``, ``cuda``.
    """

    name: str
    suffix: str
    runtimes: tuple[str, ...]
    tolerances: Mapping[str, float | None]
    holds_code: bool = True
    travels: Travels = "artifact"
    dynamic_size: bool = False
    mixes: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu", "cuda")


@dataclass(frozen=True)
class Work:
    """One export to do.

    Attributes:
        module: the model, lowered to `form`, float32, in eval mode; exporters do not change it.
        form: one of `stmdeploy.spec.export.LOWERINGS`.
        info: the model as the manifest describes it.
        outputs: what the module gives, in its order: names and shapes, float32.
        spec: what the user asked for.
        folder: scratch folder that the files are written into.
        images: N 3 H W, normalised, to set int8 scales with; None if none are needed.
        images_source: ``random`` or the name of the folder of images.
        tell: shows what is being done now, as `Progress.detail`.
    """

    module: nn.Module
    form: str
    info: ModelInfo
    outputs: tuple[TensorInfo, ...]
    spec: ExportSpec
    folder: Path
    images: Array | None
    images_source: str
    tell: Callable[[str], None]


@dataclass(frozen=True)
class BuildWork:
    """One engine to build: its settings, the scratch folder for it, and `Progress.detail`."""

    engine: EngineSpec
    folder: Path
    tell: Callable[[str], None]


class Exporter(Protocol):
    """One target: module -> files -> runner. Heavy libraries load inside the methods."""

    @property
    def target(self) -> Target:
        """The target that this exporter writes."""

    @property
    def lowerings(self) -> tuple[str, ...]:
        """Forms of `stmdeploy.spec.export.LOWERINGS` that it takes, the best first.

        Only exports ask for them, because the answer may need the runtime's library.
        """
        return ("reference",)

    def lowerings_on(self, provider: str) -> tuple[str, ...]:
        """The same for one of ONNX Runtime's providers on a GPU; empty for none in particular."""
        return self.lowerings

    def unavailable(self, *, source_only: bool = False) -> str:
        """Why the target cannot be used here and what to install; empty if it can be used.

        Args:
            source_only: only the source of an engine is needed here, not the engine.
        """

    def export(self, work: Work) -> Draft:
        """Writes ``spec.stem + suffix``, and files that belong to it, into the folder."""

    def import_runtime(self) -> None:
        """Imports what `load` needs, so that `load` takes the model's time and memory alone."""

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> Runner:
        """Loads an artifact; `build` makes the module for runtimes that run one."""


@runtime_checkable
class DraftLoader(Protocol):
    """An exporter that verifies a fresh draft with another runner than that of `load`."""

    def load_draft(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """Loads the artifact, or its graph if the artifact cannot run here (``draft.not_run``)."""


@runtime_checkable
class Diagnosis(Protocol):
    """An exporter that can find the cause of outputs that are not finite."""

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """The cause in words; empty if it is not found."""


@runtime_checkable
class OperatorProfiler(Protocol):
    """An exporter whose runtimes can profile their operators."""

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, inputs: Inputs, repeats: int
    ) -> tuple[tuple[OperatorTime, ...], ...]:
        """Times of the operators in the order they ran, for each of `repeats` inferences.

        Raises:
            StmdeployError: the runtime of this run has no profiler.
        """


@runtime_checkable
class ProductMaker(Protocol):
    """An exporter whose first runtime can multiply two matrices, to find a processor's peak."""

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """A function that multiplies two size x size matrices in the precision of a run.

        None if the runtime cannot multiply in that precision.
        """


@runtime_checkable
class EngineBuilder(Protocol):
    """An exporter whose engines are built from a source on the machine that runs them."""

    def engine_key(self, engine: EngineSpec) -> dict[str, str]:
        """What an engine depends on besides its source: builder, version, GPU, settings."""

    def build(self, source: Artifact, work: BuildWork) -> Draft:
        """Builds the engine of a source for this machine.

        Raises:
            StmdeployError: the build failed; the message quotes the builder.
        """


@dataclass(frozen=True)
class Declared:
    """What a file from outside says of itself.

    Attributes:
        inputs, outputs: dimensions that it leaves open are words, in its own or ``?``; no inputs
            if a file of this kind does not name them.
        precision: what it computes in, one of `stmdeploy.spec.export.PRECISIONS`.
        parameters: constant values, single ones.
        sha256: of those values; of the file, where they cannot be told apart.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    precision: str
    parameters: int
    sha256: str


@dataclass(frozen=True)
class Adoption:
    """A file from outside that becomes an artifact.

    Attributes:
        path: the file.
        inputs, outputs: as the file declares them, every dimension known but the batch.
        precision: what it is to compute in.
        engine: settings for targets that build an engine.
        folder: scratch folder that the artifact's files are written into.
        tell: as `Progress.detail`.
    """

    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    precision: str
    engine: EngineSpec
    folder: Path
    tell: Callable[[str], None]


@runtime_checkable
class Adopter(Protocol):
    """An exporter that also takes files that others made."""

    @property
    def adopts(self) -> tuple[str, ...]:
        """Suffixes of such files."""

    def precisions(self, of_file: str) -> tuple[str, ...]:
        """What it may compute a file of a precision in, the usual one first; empty if it cannot."""

    def declared(self, path: Path) -> Declared:
        """What a file says of itself.

        Raises:
            StmdeployError: it cannot be read.
        """

    def adopt(self, work: Adoption) -> Draft:
        """Writes the artifact of a file.

        Raises:
            StmdeployError: the file cannot be taken, or not in that precision.
        """
