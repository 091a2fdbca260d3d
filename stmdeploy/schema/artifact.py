"""An exported model on disk: its files and its manifest, read and checked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import DOCUMENT_MIB, printable, read_bytes
from stmdeploy.files.writing import publish, sha256_of
from stmdeploy.schema.manifest import FileInfo, Manifest

_EXPORT_AGAIN = "export it again"
_NAME_IT = "give the path of the artifact, as in FOLDER/NAME.onnx; its manifest lies beside it"
#: Once a file is this old, any later change shows in its times: ext4 and XFS tick every 4 ms,
#: network file systems every second or two.
_TICK_S = 3.0


@dataclass(frozen=True)
class Artifact:
    """An exported model on disk: its main file and its manifest."""

    path: Path
    manifest: Manifest
    _seen: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.manifest.files)

    def check(self) -> None:
        """Checks its files against its manifest, and that the manifest is still the same.

        A file that was not written to since it was last hashed is not hashed again, so this is
        cheap enough to call before every process that loads the artifact.

        Raises:
            StmdeployError: as `check_file`, or the manifest was changed.
        """
        for file in self.manifest.files:
            path = self.path.with_name(file.name)
            self._check_if_touched(path, partial(check_file, path, file, _EXPORT_AGAIN))
        self._check_if_touched(manifest_path(self.path), self._check_manifest)

    def _check_manifest(self) -> None:
        if read_manifest(self.path).seal != self.manifest.seal:
            raise StmdeployError(
                f"{manifest_path(self.path)} was changed while it was in use", _EXPORT_AGAIN
            )

    def _check_if_touched(self, path: Path, check: Callable[[], None]) -> None:
        """Runs a check, unless it passed before and the file was not touched since then."""
        state = _state_of(path)
        if state and self._seen.get(path.name) == state:
            return
        check()
        # File systems tick slowly: what was written just now may change again within one tick.
        if state and time.time() - state[-1] / 1e9 > _TICK_S:
            self._seen[path.name] = state


def _state_of(path: Path) -> tuple[int, ...]:
    """Figures that change when a file is written to or replaced; empty where there is no file.

    The last one is the time of the last change in ns, which no program can set.
    """
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def companions(path: Path) -> tuple[str, ...]:
    """Names of the other files that a runtime reads by itself when it loads a main file.

    For ONNX: files of external data or compiled contexts. For OpenVINO's XML: its weights.
    """
    if path.suffix == ".onnx":
        from stmdeploy.schema.onnx_files import external_files

        return external_files(path)
    weights = path.with_suffix(".bin")
    return (weights.name,) if path.suffix == ".xml" and os.path.lexists(weights) else ()


def manifest_path(artifact: Path) -> Path:
    """The path of an artifact's manifest: ``.json`` after the name of the main file."""
    return artifact.with_name(artifact.name + ".json")


def publish_artifact(scratch: Path, manifest: Manifest, folder: Path) -> Artifact:
    """Writes the manifest of the files in a staging folder, and moves all of them into place.

    The manifest comes last: until it is there, the files are not an artifact.
    """
    names = [file.name for file in manifest.files]
    beside = manifest_path(scratch / names[0])
    beside.write_text(manifest.model_dump_json(indent=1), "utf-8")
    publish(scratch, [*reversed(names), beside.name], folder)
    return Artifact(folder / names[0], manifest)


def read_artifact(path: Path) -> Artifact:
    """Reads an artifact's manifest and checks each of its files against the hash there.

    Raises:
        StmdeployError: a manifest that is missing, unreadable, of another schema, edited, or
            of another artifact; a file that is missing, cut short, longer or changed; a file that
            loading would read and that the manifest does not list.
    """
    if path.is_dir() or not path.name:
        raise StmdeployError(f"{printable(str(path))} is a folder", _NAME_IT)
    manifest = read_manifest(path)
    if (main := manifest.files[0].name) != path.name:
        where = printable(str(manifest_path(path)))
        raise StmdeployError(f"{where} is the manifest of {main}, not of this file", _EXPORT_AGAIN)
    artifact = Artifact(path, manifest)
    artifact.check()
    listed = {file.name for file in manifest.files}
    for name in companions(path):
        if name not in listed:
            told = f"{path} refers to {printable(name)!r}, which its manifest does not list"
            raise StmdeployError(told, _EXPORT_AGAIN)
    return artifact


def read_manifest(artifact: Path) -> Manifest:
    """Reads the manifest beside an artifact; the artifact's files are not checked.

    Raises:
        StmdeployError: the manifest is missing, unreadable, of another schema or edited.
    """
    path = manifest_path(artifact)
    text, where = read_bytes(path, "", _NAME_IT, DOCUMENT_MIB), printable(str(path))
    return Manifest.parse_sealed(text, where, _EXPORT_AGAIN)


def check_file(path: Path, expected: FileInfo, hint: str) -> None:
    """Checks a file against its size and hash.

    Raises:
        StmdeployError: with `hint`: the file is missing, cut short, longer or changed.
    """
    if not path.is_file():
        raise StmdeployError(f"{path} is missing", hint)
    size, whole = path.stat().st_size, expected.size_bytes
    if size < whole:
        raise StmdeployError(f"{path} is cut short: {size} of {whole} bytes", hint)
    if size > whole:
        raise StmdeployError(f"{path} has {size} bytes, not {whole} as in its manifest", hint)
    if sha256_of(path) != expected.sha256:
        raise StmdeployError(f"{path} was changed: its hash is not the one in its manifest", hint)


def file_info(path: Path) -> FileInfo:
    """A file as a manifest describes it."""
    return FileInfo(name=path.name, sha256=sha256_of(path), size_bytes=path.stat().st_size)
