"""A baseline on disk: artifacts, the sweep that measured them, and the machine it ran on.

A folder, or the same packed into one ``.tar.gz``:

    baseline.json             its contents; sealed, with the hash of every other file
    objects/HASH/...          artifacts with their manifests, by the hash of their content
    results.db                the sweep, raw samples included
"""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from stmdeploy.errors import StmdeployError
from stmdeploy.files.archives import ARCHIVES, unpack
from stmdeploy.files.reading import DOCUMENT_MIB, printable, read_bytes
from stmdeploy.files.writing import publish, scratch_folder, staging
from stmdeploy.results.database import FILE_NAME
from stmdeploy.schema.artifact import Artifact, check_file, file_info, manifest_path, read_artifact
from stmdeploy.schema.document import Document, PlainPath, PlainText, Sealed
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.manifest import FileInfo
from stmdeploy.schema.row import Row
from stmdeploy.spec.sweep import RowSpec, SweepSpec

#: 1: first version. 2: rows say of which kind their failure is. 3: rows are measured by turns.
BUNDLE_SCHEMA_VERSION = 4
DOCUMENT = "baseline.json"
_AGAIN = "make it again: stmdeploy baseline create; or use the stmdeploy version that wrote it"
_HASH_DIGITS = 24


class MemberInfo(FileInfo):
    """One file of a bundle, by its path in the bundle."""

    name: PlainPath


class MachineKey(Document):
    """What must be equal for stored numbers to be compared with new ones."""

    processor: str
    cores: int
    gpu: str
    driver: str
    power_limit_w: float | None

    def differences(self, other: MachineKey) -> tuple[str, ...]:
        """Each difference in words, such as ``cores was 2, is 4``; empty without any."""
        return tuple(
            f"{name} was {getattr(self, name)}, is {getattr(other, name)}"
            for name in MachineKey.model_fields
            if getattr(self, name) != getattr(other, name)
        )


class BaselineRow(Document):
    """One row of a baseline.

    ``spec`` is a `RowSpec` as JSON; ``artifact`` and ``workload`` are main files in the bundle.
    ``runtime_version`` is that of the runtime that measured it. ``calibrated`` holds, for every
    pair, the logarithm of its typical latency over that of the calibration workload beside it.
    ``outputs`` are those of the first image, which is the same in every process; of large ones,
    evenly spaced values.
    """

    name: PlainText
    spec: str
    artifact: PlainPath
    workload: PlainPath
    runtime_version: str
    row: Row
    calibrated: tuple[float, ...]
    outputs: tuple[tuple[float, ...], ...]

    @property
    def row_spec(self) -> RowSpec:
        """The row's specification; raises StmdeployError if it is damaged."""
        return RowSpec.from_json(self.spec, f"row {self.name} of the baseline")


class Baseline(Sealed):
    """The document of a bundle. ``sweep_spec`` is a `SweepSpec` as JSON."""

    schema_version: int = BUNDLE_SCHEMA_VERSION
    kind: Literal["stmdeploy-baseline"] = "stmdeploy-baseline"
    created_utc: PlainText
    sweep: PlainText
    sweep_spec: str
    machine: MachineKey
    environment: Environment
    rows: Annotated[tuple[BaselineRow, ...], Field(min_length=1)]
    files: tuple[MemberInfo, ...]

    @property
    def id(self) -> str:
        """The first digits of the seal: baselines with the same id have the same content."""
        return self.seal[:_HASH_DIGITS]

    @model_validator(mode="after")
    def _rows_are_whole(self) -> Self:
        """Every row has a name of its own, was measured, and has its files in the bundle."""
        listed = {file.name for file in self.files}
        if len(listed) != len(self.files):
            raise ValueError("a file is listed twice")
        if len({row.name for row in self.rows}) != len(self.rows):
            raise ValueError("two rows have one name")
        for row in self.rows:
            if listed and not {row.artifact, row.workload} <= listed:
                raise ValueError(f"row {row.name} has an artifact that is not listed")
            if row.row.measurement is None or not row.calibrated:
                raise ValueError(f"row {row.name} was not measured")
        return self

    @property
    def sweep_asked(self) -> SweepSpec:
        """The specification of the sweep that measured it; raises StmdeployError if damaged."""
        return SweepSpec.from_json(self.sweep_spec, "the sweep of the baseline")


@dataclass(frozen=True)
class Bundle:
    """An opened baseline."""

    folder: Path
    baseline: Baseline

    def artifact(self, name: str) -> Artifact:
        """An artifact by its path in the bundle; raises StmdeployError if its hashes differ."""
        return read_artifact(self.folder / name)


def row_names(specs: tuple[RowSpec, ...]) -> tuple[str, ...]:
    """``MODEL/RUNTIME/PRECISION/batchN``, plus ``/threadsN`` where that occurs twice."""
    names = [spec.name for spec in specs]
    return tuple(
        name if names.count(name) == 1 else f"{name}/threads{spec.run.threads}"
        for name, spec in zip(names, specs, strict=True)
    )


def add_object(artifact: Artifact, folder: Path) -> str:
    """Copies an artifact into a bundle's folder, unless it is there, and gives its path in it.

    The path has the manifest's seal in it, which covers the hashes of all of the files.
    """
    place = folder / "objects" / artifact.manifest.seal[:_HASH_DIGITS]
    if not place.exists():
        place.mkdir(parents=True)
        for file in artifact.manifest.files:
            shutil.copyfile(artifact.path.with_name(file.name), place / file.name)
        beside = manifest_path(artifact.path)
        shutil.copyfile(beside, place / beside.name)
    return str((place / artifact.path.name).relative_to(folder))


def is_archive(path: Path) -> bool:
    """Whether a baseline of that name is an archive rather than a folder."""
    return path.name.endswith(ARCHIVES)


@contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """A scratch folder that becomes the bundle `path` when the body ends without an error.

    Raises:
        StmdeployError: `path` exists already, or cannot be written.
    """
    _refuse_existing(path)
    with staging(path.absolute().parent) as scratch:
        made = scratch / "content"
        made.mkdir()
        yield made
        _refuse_existing(path)  # somebody else may have made it meanwhile
        if not is_archive(path):
            made.rename(path.absolute())
            return
        mode: Literal["w", "w:gz"] = "w" if path.name.endswith(".tar") else "w:gz"
        with tarfile.open(scratch / path.name, mode) as archive:
            archive.add(made, arcname=".")
        publish(scratch, [path.name], path.absolute().parent)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise StmdeployError(f"{path} exists already", "choose another --out, or remove it")


def member_info(folder: Path, name: str) -> MemberInfo:
    """A file of a bundle as its document lists it; `name` is its path in `folder`."""
    return MemberInfo(**{**file_info(folder / name).model_dump(), "name": name})


def write_baseline(baseline: Baseline, folder: Path) -> Baseline:
    """Lists the files in a bundle's folder, seals the baseline, and writes its document there."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = tuple(member_info(folder, name) for name in names)
    sealed = baseline.model_copy(update={"files": files}).sealed()
    (folder / DOCUMENT).write_text(sealed.model_dump_json(indent=1), "utf-8")
    return sealed


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Opens a baseline, a folder or an archive, and checks every file of it.

    Raises:
        StmdeployError: it is missing, cut short, edited, incomplete or of another schema, or an
            archive that holds anything but the files that its document lists.
    """
    shown = printable(str(path))
    with ExitStack() as stack:
        if path.is_dir():
            folder, hint = path, "name what stmdeploy baseline create wrote"
            if not (folder / DOCUMENT).exists():
                raise StmdeployError(f"{shown} is no baseline: it has no {DOCUMENT}", hint)
            baseline = _read(read_bytes(folder / DOCUMENT, "", hint, DOCUMENT_MIB), shown)
            _refuse_links(folder, baseline, shown)
        elif path.is_file():
            folder = stack.enter_context(scratch_folder("baseline"))
            with path.open("rb") as file, unpack(file, shown, _AGAIN) as archive:
                text = archive.document(DOCUMENT)
                baseline = _read(text, shown)
                sizes = {member.name: member.size_bytes for member in baseline.files}
                (folder / DOCUMENT).write_bytes(text)
                archive.take(sizes, folder)
        else:
            hint = "make one: stmdeploy baseline create"
            raise StmdeployError(f"there is no baseline {shown}", hint)
        for member in baseline.files:
            check_file(folder / member.name, member, _AGAIN)
        yield Bundle(folder, baseline)


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a baseline: by its name, or by the document in it."""
    return (path.is_file() and is_archive(path)) or (path / DOCUMENT).is_file()


def _refuse_links(folder: Path, baseline: Baseline, shown: str) -> None:
    """Raises StmdeployError for a file of a bundle that is a link."""
    inside = folder.resolve()
    for member in baseline.files:
        place = inside / PurePosixPath(member.name)
        if place.resolve() != place:
            raise StmdeployError(f"{shown}: {member.name} is a link to somewhere else", _AGAIN)


def _read(text: bytes, shown: str) -> Baseline:
    """Parses a bundle's document; raises as `Sealed.parse_sealed`, or if it lists no results."""
    baseline = Baseline.parse_sealed(text, f"{shown}: {DOCUMENT}", _AGAIN)
    if FILE_NAME not in {file.name for file in baseline.files}:
        raise StmdeployError(f"{shown} holds no {FILE_NAME}", _AGAIN)
    return baseline
