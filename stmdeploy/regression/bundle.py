"""A baseline: artifacts, the sweep that measured them and the machine it ran on, to be kept.

A folder, or the same packed into one ``.tar.gz``:

    baseline.json             what is in it; sealed, with the hash of every other file
    objects/HASH/...          artifacts with their manifests, by the hash of their content
    results.db                the sweep, raw samples included
"""

from __future__ import annotations

import errno
import json
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import ValidationError

from stmdeploy.artifact import (
    Artifact,
    Document,
    FileInfo,
    Sealed,
    check_file,
    file_info,
    manifest_path,
    read_artifact,
)
from stmdeploy.errors import StmdeployError
from stmdeploy.files import publish, staging
from stmdeploy.results.database import FILE_NAME
from stmdeploy.results.row import Environment, Row
from stmdeploy.sweep import RowSpec

#: 1: first version.
BUNDLE_SCHEMA_VERSION = 1
DOCUMENT, OBJECTS = "baseline.json", "objects"
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
_AGAIN = "make it again: stmdeploy baseline create"
_HASH_DIGITS = 24


class MachineKey(Document):
    """What must be equal for stored numbers to be compared with new ones."""

    processor: str
    cores: int
    gpu: str
    driver: str
    power_limit_w: float | None

    def differences(self, other: MachineKey) -> tuple[str, ...]:
        """What is different there, in words; empty if nothing is."""
        return tuple(
            f"{name} was {getattr(self, name)}, is {getattr(other, name)}"
            for name in MachineKey.model_fields
            if getattr(self, name) != getattr(other, name)
        )


class BaselineRow(Document):
    """One row of a baseline.

    ``spec`` is a `RowSpec` as JSON; ``artifact`` its file in the bundle. ``runtime_version`` is
    what measured it. ``calibrated`` are logarithms of its latency over that of the calibration
    workload beside it, the mean of every wave. ``logits`` are of the first image that all are
    measured with.
    """

    name: str
    spec: str
    artifact: str
    workload: str
    runtime_version: str
    row: Row
    calibrated: tuple[float, ...]
    logits: tuple[float, ...]

    @property
    def row_spec(self) -> RowSpec:
        """What the row is."""
        return RowSpec.from_json(self.spec)


class Baseline(Sealed):
    """The document of a bundle. ``sweep_spec`` is a `SweepSpec` as JSON."""

    schema_version: int = BUNDLE_SCHEMA_VERSION
    kind: Literal["stmdeploy-baseline"] = "stmdeploy-baseline"
    created_utc: str
    sweep: str
    sweep_spec: str
    machine: MachineKey
    environment: Environment
    rows: tuple[BaselineRow, ...]
    files: tuple[FileInfo, ...]

    @property
    def id(self) -> str:
        """Of the content: two baselines with the same id are the same."""
        return self.seal[:_HASH_DIGITS]


@dataclass(frozen=True)
class Bundle:
    """An opened baseline."""

    folder: Path
    baseline: Baseline

    def artifact(self, name: str) -> Artifact:
        """An artifact of the bundle, by its path in it; every hash is checked."""
        return read_artifact(self.folder / name)


def row_names(specs: tuple[RowSpec, ...]) -> tuple[str, ...]:
    """``MODEL/RUNTIME/PRECISION/batchN``, with the threads where that alone would not do."""
    names = [
        f"{spec.model.label}/{spec.run.runtime}/{spec.run.precision}/batch{spec.run.batch}"
        for spec in specs
    ]
    return tuple(
        name if names.count(name) == 1 else f"{name}/threads{spec.run.threads}"
        for name, spec in zip(names, specs, strict=True)
    )


def add_object(artifact: Artifact, folder: Path) -> str:
    """Copies an artifact into a bundle being made, once; its path in there.

    It lies under its manifest's seal, which covers the hashes of all of its files.
    """
    place = folder / OBJECTS / artifact.manifest.seal[:_HASH_DIGITS]
    if not place.exists():
        place.mkdir(parents=True)
        for file in artifact.manifest.files:
            shutil.copyfile(artifact.path.with_name(file.name), place / file.name)
        beside = manifest_path(artifact.path)
        shutil.copyfile(beside, place / beside.name)
    return str((place / artifact.path.name).relative_to(folder))


def is_archive(path: Path) -> bool:
    """Whether a baseline of that name is one file."""
    return path.name.endswith(_ARCHIVES)


@contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """A scratch folder that becomes the bundle `path` when the body ends well.

    Raises:
        StmdeployError: something is there already, or it cannot be written.
    """
    _refuse_existing(path)
    with staging(path.absolute().parent) as scratch:
        made = scratch / "content"
        made.mkdir()
        yield made
        _refuse_existing(path)  # somebody else may have made it meanwhile
        if is_archive(path):
            mode: Literal["w", "w:gz"] = "w" if path.name.endswith(".tar") else "w:gz"
            with tarfile.open(scratch / path.name, mode) as archive:
                archive.add(made, arcname=".")
        else:
            made.rename(scratch / path.name)
            (scratch / path.name).rename(path.absolute())
            return
        publish(scratch, [path.name], path.absolute().parent)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise StmdeployError(f"{path} is there already", "choose another --out, or remove it")


def write_baseline(baseline: Baseline, folder: Path) -> Baseline:
    """Seals a baseline over the files that are in its folder, and writes its document."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    files = tuple(file_info(folder / name, name) for name in names)
    sealed = baseline.model_copy(update={"files": files}).sealed()
    (folder / DOCUMENT).write_text(sealed.model_dump_json(indent=1), "utf-8")
    return sealed


@contextmanager
def open_bundle(path: Path) -> Iterator[Bundle]:
    """Opens a baseline, a folder or an archive, and checks every file of it.

    Raises:
        StmdeployError: there is none, it is cut short, edited, incomplete or of a newer schema.
    """
    with ExitStack() as stack:
        folder = path
        if path.is_file():
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="stmdeploy-baseline-")))
            _unpack(path, folder)
        elif not path.is_dir():
            raise StmdeployError(f"there is no baseline {path}", "stmdeploy baseline create")
        baseline = _read(folder / DOCUMENT, path)
        for file in baseline.files:
            check_file(folder / file.name, file, _AGAIN)
        yield Bundle(folder, baseline)


def is_bundle(path: Path) -> bool:
    """Whether a path looks like a baseline."""
    return (path.is_file() and is_archive(path)) or (path / DOCUMENT).is_file()


def _unpack(path: Path, folder: Path) -> None:
    try:
        with tarfile.open(path) as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise StmdeployError(
                f"{path} cannot be unpacked: {folder} is full", "free some space, or set TMPDIR"
            ) from error
        raise StmdeployError(f"{path} is no baseline, or is cut short: {error}", _AGAIN) from error


def _read(document: Path, shown: Path) -> Baseline:
    try:
        text = document.read_text("utf-8")
        table = json.loads(text)
    except OSError as error:
        raise StmdeployError(
            f"{shown} is no baseline: it has no {DOCUMENT}", "name what baseline create wrote"
        ) from error
    except ValueError as error:
        raise StmdeployError(f"{shown}: {DOCUMENT} is damaged", _AGAIN) from error
    if not isinstance(table, dict) or table.get("kind") != "stmdeploy-baseline":
        raise StmdeployError(f"{shown}: {DOCUMENT} is something else's", _AGAIN)
    if table.get("schema_version") != BUNDLE_SCHEMA_VERSION:
        raise StmdeployError(
            f"{shown} has schema {table.get('schema_version')}, this stmdeploy reads "
            f"{BUNDLE_SCHEMA_VERSION}",
            "use the stmdeploy that wrote it, or make it again",
        )
    try:
        baseline = Baseline.model_validate_json(text)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"]))
        raise StmdeployError(f"{shown}: {DOCUMENT} is damaged at {where}", _AGAIN) from error
    if not baseline.seal_is_whole:
        raise StmdeployError(f"{shown} was edited: its seal does not match", _AGAIN)
    if FILE_NAME not in {file.name for file in baseline.files}:
        raise StmdeployError(f"{shown} holds no {FILE_NAME}", _AGAIN)
    return baseline
