"""An exported model on disk: its files, and the manifest that says what they are."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from stmdeploy.errors import StmdeployError
from stmdeploy.files import sha256_of
from stmdeploy.reading import (
    DOCUMENT_MIB,
    parse_document,
    parse_json,
    plain_name,
    plain_path,
    plain_text,
    printable,
    read_bytes,
)
from stmdeploy.spec import MAX_CLASSES, MAX_SIDE_PX

#: 1: first version. 2: precisions, fidelity, engines, cost, a seal over the manifest itself.
#: 3: the operations of the graph. 4: known outputs; errors are those of the worst row.
#: 5: the usual length of known outputs.
MANIFEST_SCHEMA_VERSION = 5
_KIND: Final = "stmdeploy-artifact"
_EXPORT_AGAIN = "export it again"
_NAME_IT = "name the artifact itself, as in FOLDER/NAME.onnx; its manifest lies beside it"
#: After this long, another change of a file shows in its times: ext4 and XFS tick every 4 ms,
#: network file systems every second or two.
_TICK_S = 3.0
#: No backbone comes near; a file without end must not be hashed for ever.
_MOST_BYTES = 16 * 2**30

#: The name of a file, of no folder.
PlainName = Annotated[str, AfterValidator(plain_name)]
#: The path of a file below the folder of whatever lists it.
PlainPath = Annotated[str, AfterValidator(plain_path)]
#: A name that is shown to people.
PlainText = Annotated[str, AfterValidator(plain_text)]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PX)]


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

    name: PlainText
    stm: PlainText
    scale: PlainText
    image_size: tuple[Side, Side]
    num_classes: Annotated[int, Field(ge=1, le=MAX_CLASSES)]
    parameters: int
    weights: WeightsInfo


class TensorInfo(Document):
    """A named input or output; the free dimension is the string ``batch``."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class FileInfo(Document):
    """One file of an artifact."""

    name: PlainName
    sha256: Sha256
    size_bytes: Annotated[int, Field(ge=0, le=_MOST_BYTES)]


class KnownOutputs(Document):
    """What the model gives in float64 for the three images of a seed (`stmdeploy.probe`).

    ``values``: of every image each ``step``-th output, float32 in little-endian order, base64.
    ``length``: the root mean square of an image's ||r|| over those values.
    """

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    step: Annotated[int, Field(ge=1)]
    length: Annotated[float, Field(gt=0)]
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


class FusedLayer(Document):
    """A layer of an engine, as its builder names it: of which nodes, in which data types."""

    name: str
    kind: str
    onnx_nodes: tuple[str, ...]
    input_dtypes: tuple[str, ...]
    weight_dtypes: tuple[str, ...]
    output_dtypes: tuple[str, ...]


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
    kind: Literal["stmdeploy-artifact"] = _KIND
    state: Literal["verified", "built, not run"]
    not_run: str
    target: PlainText
    precision: PlainText
    lowering: PlainText
    notes: tuple[str, ...]
    model: ModelInfo
    files: Annotated[tuple[FileInfo, ...], Field(min_length=1)]
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
    _seen: dict[str, _State] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.manifest.files)

    def check(self) -> None:
        """Checks that its files are what its manifest says, and its manifest what it was.

        A file that the system says was not written to since it was last hashed is not hashed
        again, so this can stand before every process that loads the artifact.

        Raises:
            StmdeployError: as `check_file`, or the manifest is another one now.
        """
        for file in self.manifest.files:
            path = self.path.with_name(file.name)
            if not self._is_as_seen(path):
                self._remember(path, partial(check_file, path, file, _EXPORT_AGAIN))
        beside = manifest_path(self.path)
        if not self._is_as_seen(beside):
            self._remember(beside, self._check_manifest)

    def _check_manifest(self) -> None:
        if read_manifest(self.path).seal != self.manifest.seal:
            raise StmdeployError(
                f"{manifest_path(self.path)} was changed while it was in use", _EXPORT_AGAIN
            )

    def _is_as_seen(self, path: Path) -> bool:
        return path.name in self._seen and self._seen[path.name] == _State.of(path)

    def _remember(self, path: Path, check: Callable[[], None]) -> None:
        """Runs a check; what it found holds until the file's state is another one."""
        before = _State.of(path)
        check()
        # The clock of a file system ticks slowly: what was written just now may be again, unseen.
        if before is not None and before.age_s > _TICK_S:
            self._seen[path.name] = before


@dataclass(frozen=True)
class _State:
    """What changes whenever a file is written to or exchanged; its last field nobody can set."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @staticmethod
    def of(path: Path) -> _State | None:
        """Of a file as it is now; None without one."""
        try:
            found = path.stat()
        except OSError:
            return None
        return _State(
            found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
        )

    @property
    def age_s(self) -> float:
        """How long ago the file was last changed, by the clock of this machine."""
        return time.time() - self.changed_ns / 1e9


def companions(path: Path) -> tuple[str, ...]:
    """The files that a runtime reads of its own accord as it loads a main file.

    Of ONNX, whatever holds external data or a compiled context; of OpenVINO's XML, the weights
    beside it.
    """
    if path.suffix == ".onnx":
        from stmdeploy.external import external_files

        return external_files(path)
    weights = path.with_suffix(".bin")
    return (weights.name,) if path.suffix == ".xml" and os.path.lexists(weights) else ()


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact lies."""
    return artifact.with_name(artifact.name + ".json")


def read_artifact(path: Path) -> Artifact:
    """Reads an artifact's manifest and checks every file of it against its hash.

    Raises:
        StmdeployError: a manifest that is missing, unreadable, of another schema, edited, or
            of another artifact; a file that is missing, cut short, longer or changed; a file that
            loading would touch and that the manifest does not list.
    """
    if path.is_dir() or not path.name:
        raise StmdeployError(f"{printable(str(path))} is a folder", _NAME_IT)
    manifest = read_manifest(path)
    if manifest.files[0].name != path.name:
        raise StmdeployError(
            f"{printable(str(manifest_path(path)))} is the manifest of {manifest.files[0].name}, "
            "not of this file",
            _EXPORT_AGAIN,
        )
    artifact = Artifact(path, manifest)
    artifact.check()
    listed = {file.name for file in manifest.files}
    for name in companions(path):
        if name not in listed:
            raise StmdeployError(
                f"{path} makes its runtime read {printable(name)!r}, which its manifest does not "
                "list",
                _EXPORT_AGAIN,
            )
    return artifact


def read_manifest(artifact: Path) -> Manifest:
    """The manifest beside an artifact, whose files are not looked at.

    Raises:
        StmdeployError: it is missing, unreadable, of another schema or edited.
    """
    path = manifest_path(artifact)
    text, where = read_bytes(path, "", _NAME_IT, DOCUMENT_MIB), printable(str(path))
    table = parse_json(text, where, _EXPORT_AGAIN)
    if not isinstance(table, dict) or table.get("kind") != _KIND:
        raise StmdeployError(f"{where} is not a manifest", _EXPORT_AGAIN)
    if table.get("schema_version") != MANIFEST_SCHEMA_VERSION:
        raise StmdeployError(
            f"{where} has schema {printable(str(table.get('schema_version')))[:20]}, "
            f"this stmdeploy reads {MANIFEST_SCHEMA_VERSION}",
            _EXPORT_AGAIN,
        )
    manifest = parse_document(Manifest.model_validate_json, text, where, _EXPORT_AGAIN)
    if not manifest.seal_is_whole:
        raise StmdeployError(f"{where} was edited: its seal does not match", _EXPORT_AGAIN)
    return manifest


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


def file_info(path: Path) -> FileInfo:
    """A file as a manifest describes it."""
    return FileInfo(name=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)
