"""An exported model on disk: its files, and the manifest that says what they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from stmdeploy.errors import StmdeployError
from stmdeploy.files import sha256_of

#: 1: first version. 2: precisions, fidelity, engines, cost, a seal over the manifest itself.
#: 3: the operations of the graph. 4: known outputs; errors are those of the worst row.
#: 5: the usual length of known outputs.
MANIFEST_SCHEMA_VERSION = 5
_EXPORT_AGAIN = "export it again"


class Document(BaseModel):
    """Base of everything that is stored: immutable, and strict about unknown fields.

    A document's validator is built when it is first used: a worker reads few of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


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


class KnownOutputs(Document):
    """What the model gives in float64 for the three images of a seed (`stmdeploy.probe`).

    ``values``: of every image each ``step``-th output, float32 in little-endian order, base64.
    ``length``: the root mean square of an image's ||r|| over those values.
    """

    seed: int
    step: int
    length: float
    values: str


class Verification(Document):
    """Outputs against the float64 PyTorch reference, over fresh random inputs.

    Errors are those of the worst row of any of `batches`: ``relative_l2_error`` is ||y - r|| /
    ||r|| over the logits of one image, of an unusually small ||r|| over the usual one.
    ``row_dependence`` is how far, relatively, the logits of an image moved by where it stood in a
    batch, or as another one of the batch changed. ``runtime`` is what gave the outputs: the
    artifact's own, or, for an engine that cannot run on the exporting machine, another one with
    the graph it was built from. ``tolerance_relative_l2`` is None for precisions that are reported,
    not judged. ``outputs`` are for whoever runs the artifact.
    """

    runtime: str
    batches: tuple[int, ...]
    input_seed: int
    relative_l2_error: float
    worst_logit_difference: float
    row_dependence: float
    tolerance_relative_l2: float | None
    outputs: KnownOutputs


class Fidelity(Document):
    """How much of the model a low precision keeps, over images no scale was set with (but for
    a folder that holds a single one).

    ``top1_agreement_percent``: images whose highest logit is that of the float64 reference.
    ``source``: ``random`` (noise, far from any photograph) or the name of the folder.
    """

    source: str
    images: int
    relative_l2_error: float
    top1_agreement_percent: float


class Calibration(Document):
    """What the scales of an int8 artifact were set with."""

    source: str
    images: int
    method: str


class EngineInfo(Document):
    """A built engine: by what, for what, and what the builder said of it.

    ``layers_before`` and ``layers_after`` fusion; ``output_dtypes`` counts the fused layers'
    outputs by data type. Absent figures are None: not every builder says them.
    """

    module: str
    version: str
    gpu: str
    compute_capabilities: tuple[str, ...]
    batch: tuple[int, int, int]
    builder_level: int | None
    workspace_mib: int | None
    layers_before: int
    layers_after: int | None
    output_dtypes: dict[str, int]
    weights_bytes: int | None
    activation_bytes: int | None
    onnx_sha256: str
    build_s: float


class Share(Document):
    """What some nodes of a graph cost at batch 1: their number, MACs and bytes."""

    nodes: int
    macs: int
    weight_bytes: int
    activation_bytes: int


class GraphCost(Document):
    """Where the MACs and bytes of the exported graph are, at batch 1, every tensor once per
    use. ``unknown_shapes``: nodes with a tensor whose shape could not be inferred; its bytes are
    missing in the figures."""

    by_operator: dict[str, Share]
    by_part: dict[str, Share]
    unknown_shapes: int


class Operation(Document):
    """Operators of a graph that multiply, so many alike, and what each of them must do.

    ``macs`` and ``activation_elements`` (read and written) are of one image, and grow with the
    batch; ``weight_elements`` do not. How many bytes an element has is the precision's matter.
    """

    operator: str
    part: str
    nodes: int
    macs: int
    weight_elements: int
    activation_elements: int


class Draft(Document):
    """What an exporter knows of the files it has just written.

    ``graph`` names the ONNX file that the artifact is or was made from; empty without one.
    ``graph_is_exact``: its weights are in the artifact's precision, so its bytes are too.
    ``not_run`` says why the artifact cannot run on this machine; empty if it can.
    """

    files: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int | None = None
    operators: dict[str, int] = {}
    versions: dict[str, str] = {}
    calibration: Calibration | None = None
    engine: EngineInfo | None = None
    graph: str = ""
    graph_is_exact: bool = True
    not_run: str = ""


class Sealed(Document):
    """A document that carries a hash over everything else in it."""

    seal: str = ""

    def sealed(self) -> Self:
        """The document with its seal."""
        return self.model_copy(update={"seal": self._digest()})

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"seal"}).encode()).hexdigest()

    @property
    def seal_is_whole(self) -> bool:
        """Whether nothing in the document was changed since it was sealed."""
        return self.seal == self._digest()


class Manifest(Sealed):
    """The document beside an artifact: what it is, how it was made and how exact it is.

    ``state``: ``verified`` (the artifact itself ran, and agreed), or ``built, not run``.
    ``notes`` say why a better form was not taken.
    ``operations`` are those of the graph it was made from; empty where there was none.
    ``seal`` is a hash over everything else in the manifest.
    """

    schema_version: int = MANIFEST_SCHEMA_VERSION
    kind: Literal["stmdeploy-artifact"] = "stmdeploy-artifact"
    state: Literal["verified", "built, not run"]
    not_run: str
    target: str
    precision: str
    lowering: str
    notes: tuple[str, ...]
    model: ModelInfo
    files: tuple[FileInfo, ...]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int | None
    operators: dict[str, int]
    versions: dict[str, str]
    verification: Verification
    fidelity: Fidelity | None
    calibration: Calibration | None
    engine: EngineInfo | None
    cost: GraphCost | None
    operations: tuple[Operation, ...]
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


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact lies."""
    return artifact.with_name(artifact.name + ".json")


def read_artifact(path: Path) -> Artifact:
    """Reads an artifact's manifest and checks every file of it against its hash.

    Raises:
        StmdeployError: a manifest that is missing, unreadable, of another schema, edited, or
            of another artifact; a file that is missing, cut short, longer or changed.
    """
    if path.is_dir() or not path.name:
        raise StmdeployError(f"{path} is a folder", "name an artifact, as in FOLDER/NAME.onnx")
    manifest = read_manifest(path)
    if manifest.files[0].name != path.name:
        raise StmdeployError(
            f"{manifest_path(path)} is the manifest of {manifest.files[0].name}, not of this file",
            _EXPORT_AGAIN,
        )
    for file in manifest.files:
        check_file(path.with_name(file.name), file, _EXPORT_AGAIN)
    return Artifact(path, manifest)


def read_manifest(artifact: Path) -> Manifest:
    """The manifest beside an artifact, whose files are not looked at.

    Raises:
        StmdeployError: it is missing, unreadable, of another schema or edited.
    """
    path = manifest_path(artifact)
    try:
        text = path.read_text("utf-8")
        schema = _Schema.model_validate_json(text)
        if schema.schema_version != MANIFEST_SCHEMA_VERSION:
            raise StmdeployError(
                f"{path} has schema {schema.schema_version}, "
                f"this stmdeploy reads {MANIFEST_SCHEMA_VERSION}",
                _EXPORT_AGAIN,
            )
        manifest = Manifest.model_validate_json(text)
    except OSError as error:
        hint = "name the artifact itself, as in FOLDER/NAME.onnx; its manifest lies beside it"
        raise StmdeployError(f"{path}: {error.strerror}", hint) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise StmdeployError(f"{path} is not a manifest", _EXPORT_AGAIN) from error
    if not manifest.seal_is_whole or not manifest.files:
        raise StmdeployError(f"{path} was edited: its seal does not match", _EXPORT_AGAIN)
    return manifest


class _Schema(BaseModel):
    """The part of a manifest that every version of it has."""

    kind: Literal["stmdeploy-artifact"]
    schema_version: int


def check_file(path: Path, expected: FileInfo, hint: str) -> None:
    """Checks a file against its size and hash.

    Raises:
        StmdeployError: with `hint`: the file is missing, cut short, longer or changed.
    """
    if not path.is_file():
        raise StmdeployError(f"{path} is missing", hint)
    size = path.stat().st_size
    if size < expected.size_bytes:
        raise StmdeployError(f"{path} is cut short: {size} of {expected.size_bytes} bytes", hint)
    if size > expected.size_bytes:
        raise StmdeployError(
            f"{path} has {size} bytes, its manifest describes a file of {expected.size_bytes}", hint
        )
    if sha256_of(path) != expected.sha256:
        raise StmdeployError(
            f"{path} was changed: it does not match the hash in its manifest", hint
        )


def file_info(path: Path, name: str = "") -> FileInfo:
    """A file as a manifest describes it, under its own name or another."""
    return FileInfo(name=name or path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)
