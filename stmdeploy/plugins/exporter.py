"""What the core and the exporters promise each other.

An `Exporter` turns a module into files, with a `Draft` of their manifest, and an artifact into a
`Runner`. What only some of them can do is a protocol of its own; whoever wants it asks with
`isinstance`. Exporters are found through the entry-point group ``stmdeploy.exporters``; the core
never imports one by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

from stmdeploy.plugins.runner import Array, ModuleFactory, Runner
from stmdeploy.schema.artifact import Artifact
from stmdeploy.schema.manifest import Draft, ModelInfo
from stmdeploy.schema.measurement import OperatorTime
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.run import RunSpec

if TYPE_CHECKING:
    from torch import nn


#: What can be used on another machine than the one that wrote it: the artifact itself; its source,
#: from which an `EngineBuilder` makes the artifact where it runs; or nothing.
Travels = Literal["artifact", "source", "nothing"]


@dataclass(frozen=True)
class Target:
    """What is known of a target without its library.

    Attributes:
        name: what ``--target`` takes.
        suffix: of the artifact's main file.
        runtimes: what runs the artifacts, as ``--runtime`` takes it; the first verifies them.
        tolerances: the precisions that it writes, each with its bound on the relative L2 error
            against float64; None for one that is reported, not judged.
        holds_code: whether an artifact says what is computed; otherwise it holds weights alone,
            and the code that loads it does.
        travels: what can be used on another machine.
        packages: what the library is distributed as, under one name or another: nodes of a
            cluster must have the same version.
    """

    name: str
    suffix: str
    runtimes: tuple[str, ...]
    tolerances: Mapping[str, float | None]
    holds_code: bool = True
    travels: Travels = "artifact"
    packages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Work:
    """One export: what goes in, where it goes, and who is told.

    Attributes:
        module: in the form `form`, float32, in eval mode; never changed.
        form: one of `stmdeploy.spec.export.LOWERINGS`.
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


class Exporter(Protocol):
    """One target: module -> files -> runner. Heavy libraries load inside the methods."""

    @property
    def target(self) -> Target:
        """What the target is."""

    @property
    def lowerings(self) -> tuple[str, ...]:
        """The forms of `stmdeploy.spec.export.LOWERINGS` that it takes, the best first. Asked of an
        export alone: the answer may need the runtime's library."""
        return ("reference",)

    def unavailable(self, *, source_only: bool = False) -> str:
        """Why the target cannot be used here and what to install; empty if it can.

        ``source_only``: no engine is built here, only what it is built from.
        """

    def export(self, work: Work) -> Draft:
        """Writes ``spec.stem + suffix`` (and what belongs to it) into the folder."""

    def import_runtime(self) -> None:
        """Imports what `load` needs, so that its time and memory are the model's alone."""

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> Runner:
        """A runner for an artifact; `build` makes the module, for runtimes that run it."""


@runtime_checkable
class DraftLoader(Protocol):
    """An exporter that verifies a draft by more, or something else, than `load` gives."""

    def load_draft(self, path: Path, draft: Draft, run: RunSpec, build: ModuleFactory) -> Runner:
        """A runner of the artifact, or of the graph it was made from where it cannot run here
        (``draft.not_run``)."""


@runtime_checkable
class Diagnosis(Protocol):
    """An exporter that can say where outputs come from that are not finite."""

    def explain(self, path: Path, draft: Draft, images: Array) -> str:
        """The cause in words; empty if it cannot tell."""


@runtime_checkable
class OperatorProfiler(Protocol):
    """An exporter whose runtimes tell where their time goes."""

    def operator_times(
        self, path: Path, run: RunSpec, build: ModuleFactory, images: Array, repeats: int
    ) -> tuple[tuple[OperatorTime, ...], ...]:
        """The operators of so many inferences, in the order they ran.

        Raises:
            StmdeployError: this one of its runtimes does not tell.
        """


@runtime_checkable
class ProductMaker(Protocol):
    """An exporter whose first runtime can multiply two matrices, to find a processor's peak."""

    def product(self, run: RunSpec, size: int) -> Callable[[], object] | None:
        """The product of two square matrices in the precision of a run, ready to be repeated; None
        where the runtime has none in that precision."""


@runtime_checkable
class EngineBuilder(Protocol):
    """An exporter whose artifacts travel as their source."""

    def engine_key(self, engine: EngineSpec) -> dict[str, str]:
        """What an engine depends on beside its source: the builder, its version, the GPU, the
        settings."""

    def build(self, source: Artifact, work: BuildWork) -> Draft:
        """Builds the engine of a source, for the machine this is.

        Raises:
            StmdeployError: a build that failed, with the builder's own words.
        """
