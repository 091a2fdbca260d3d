"""An exported model on disk: its files and its manifest, read and checked."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files.reading import (
    DOCUMENT_MIB,
    printable,
    read_bytes,
)
from stmdeploy.files.writing import publish, sha256_of
from stmdeploy.schema.manifest import FileInfo, Manifest

_EXPORT_AGAIN = "export it again"
_NAME_IT = "name the artifact itself, as in FOLDER/NAME.onnx; its manifest lies beside it"
#: After this long, another change of a file shows in its times: ext4 and XFS tick every 4 ms,
#: network file systems every second or two.
_TICK_S = 3.0


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
        from stmdeploy.schema.onnx_files import external_files

        return external_files(path)
    weights = path.with_suffix(".bin")
    return (weights.name,) if path.suffix == ".xml" and os.path.lexists(weights) else ()


def manifest_path(artifact: Path) -> Path:
    """Where the manifest of an artifact lies."""
    return artifact.with_name(artifact.name + ".json")


def publish_artifact(scratch: Path, manifest: Manifest, folder: Path) -> Artifact:
    """Writes a manifest beside its files, which lie in a staging folder, and moves all of them
    into place. The manifest comes last: until it is there, the files are not an artifact."""
    names = [file.name for file in manifest.files]
    beside = manifest_path(scratch / names[0])
    beside.write_text(manifest.model_dump_json(indent=1), "utf-8")
    publish(scratch, [*reversed(names), beside.name], folder)
    return Artifact(folder / names[0], manifest)


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
    return Manifest.parse_sealed(text, where, _EXPORT_AGAIN)


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
