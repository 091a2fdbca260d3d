"""What the core and the exporters promise each other.

An exporter turns a module into an `Artifact` (files and a `Manifest`), and an artifact into
a `Runner`. Exporters are found through the entry-point group ``stmdeploy.exporters``; the
core never imports one by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from stmdeploy.errors import StmdeployError
from stmdeploy.files import sha256_of
from stmdeploy.spec import ExportSpec, RunSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    Array = npt.NDArray[np.float32]

#: 1: first version.
MANIFEST_SCHEMA_VERSION = 1


class Document(BaseModel):
    """Base of everything that is stored: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WeightsInfo(Document):
    """Where the weights came from.

    ``kind``: ``checkpoint``; ``synthetic`` (made from a seed, not trained); ``own`` (a
    user's model, as its callable returned it). ``sha256`` is of the state_dict's content,
    ``checkpoint_sha256`` of the checkpoint file.
    """

    kind: Literal["checkpoint", "synthetic", "own"]
    source: str
    sha256: str
    checkpoint_sha256: str | None = None


class ModelInfo(Document):
    """The model inside an artifact."""

    name: str
    stm: str
    scale: str
    image_size: tuple[int, int]
    num_classes: int
    parameters: int
    weights: WeightsInfo


class TensorInfo(Document):
    """A named input or output; the free dimension is the string ``batch``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FileInfo(Document):
    """One file of an artifact."""

    name: str
    sha256: str
    size_bytes: int


class Verification(Document):
    """Outputs of the artifact against the float64 PyTorch reference, fresh random inputs.

    Errors are the worst over `batches`; ``relative_l2_error`` is ||y - r|| / ||r|| over all
    logits of a batch.
    """

    runtime: str
    batches: tuple[int, ...]
    input_seed: int
    relative_l2_error: float
    worst_logit_difference: float
    tolerance_relative_l2: float


class Draft(Document):
    """What an exporter knows of the files it has just written."""

    files: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int | None = None
    operators: dict[str, int] = {}
    versions: dict[str, str] = {}


class Manifest(Document):
    """The document beside an artifact: what it is, how it was made and how exact it is."""

    schema_version: int = MANIFEST_SCHEMA_VERSION
    kind: Literal["stmdeploy-artifact"] = "stmdeploy-artifact"
    target: str
    precision: str
    lowering: str
    model: ModelInfo
    files: tuple[FileInfo, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int | None
    operators: dict[str, int]
    versions: dict[str, str]
    verification: Verification
    created_utc: str
    export_s: float


@dataclass(frozen=True)
class Artifact:
    """An exported model on disk: its main file and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.manifest.files)


class Progress(Protocol):
    """Where long work says what it is doing."""

    def expect(self, steps: int) -> None:
        """So many more steps will follow."""

    def step(self, text: str) -> None:
        """A new piece of work begins; the one before it is done."""


class Runner(Protocol):
    """A loaded model. It never times itself: `run` returns when the outputs are there."""

    def prepare(self, images: Array) -> None:
        """Takes the input, N 3 H W float32, to where the runtime reads it."""

    def run(self) -> None:
        """One inference over the prepared input, complete on return."""

    def output(self) -> Array:
        """The logits of the latest run, N x classes, on the host."""

    def facts(self) -> dict[str, str]:
        """``runtime``, ``version``, ``provider``, and the options really in force."""


ModuleFactory = Callable[[], "nn.Module"]


class Exporter(Protocol):
    """One target: module -> files -> runner. Heavy libraries load inside the methods.

    ``lowerings`` are the forms of `stmdeploy.spec.LOWERINGS` it can take, the best first.
    """

    target: str
    suffix: str
    runtimes: tuple[str, ...]
    tolerance_relative_l2: float
    lowerings: tuple[str, ...]

    def unavailable(self) -> str:
        """Why the target cannot be used here and what to install; empty if it can."""

    def export(self, module: nn.Module, info: ModelInfo, spec: ExportSpec, folder: Path) -> Draft:
        """Writes ``spec.stem + suffix`` (and what belongs to it) into `folder`."""

    def import_engine(self) -> None:
        """Imports what `load` needs, so that its time and memory are the model's alone."""

    def load(self, path: Path, run: RunSpec, build: ModuleFactory) -> Runner:
        """A runner for an artifact; `build` makes the module, for runtimes that run it."""


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact lies."""
    return artifact.with_name(artifact.name + ".json")


def read_artifact(path: Path) -> Artifact:
    """Reads an artifact's manifest and checks every file of it against its hash.

    Raises:
        StmdeployError: a missing, unreadable or newer manifest; a missing or changed file.
    """
    hint = "export it again"
    try:
        text = manifest_path(path).read_text("utf-8")
        manifest = Manifest.model_validate_json(text)
    except OSError as error:
        raise StmdeployError(f"{manifest_path(path)}: {error.strerror}", hint) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise StmdeployError(f"{manifest_path(path)} is not a manifest", hint) from error
    if manifest.schema_version != MANIFEST_SCHEMA_VERSION:
        raise StmdeployError(
            f"{manifest_path(path)} has schema {manifest.schema_version}, "
            f"this stmdeploy reads {MANIFEST_SCHEMA_VERSION}",
            hint,
        )
    for file in manifest.files:
        at = path.with_name(file.name)
        if not at.is_file():
            raise StmdeployError(f"{at} is missing", hint)
        if sha256_of(at) != file.sha256:
            raise StmdeployError(f"{at} does not match the hash in its manifest", hint)
    return Artifact(path, manifest)
