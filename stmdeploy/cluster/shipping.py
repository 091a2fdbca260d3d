"""Artifacts on their way to the nodes, each file once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stmdeploy.errors import StmdeployError
from stmdeploy.files import places
from stmdeploy.files.writing import publish, staging
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.schema.document import Document
from stmdeploy.schema.manifest import FileInfo

#: Returns the content of a file, given its SHA-256.
Fetch = Callable[[str], bytes]


class Shipped(Document):
    """An artifact sent to a node: the text of its manifest, and the files listed there."""

    manifest: str
    files: tuple[FileInfo, ...]


def cache_folder() -> Path:
    """The folder of a node's artifacts and engines: ``$XDG_CACHE_HOME/stmdeploy/node``."""
    return places.cache_folder() / "node"


def ship(path: Path, share: Callable[[str, Path], None]) -> Shipped:
    """Shares an artifact's files with the nodes.

    Args:
        share: makes a file available to every node under its hash.
    """
    manifest = read_artifact(path).manifest
    for file in manifest.files:
        share(file.sha256, path.with_name(file.name))
    return Shipped(manifest=manifest_path(path).read_text("utf-8"), files=manifest.files)


def place_artifact(shipped: Shipped, fetch: Fetch) -> Path:
    """Puts an artifact into this node's cache, fetching what is not there; returns its main file.

    Raises:
        StmdeployError: the cache cannot be written to, or a hash does not match.
    """
    main = shipped.files[0]
    content = "".join(file.sha256 for file in shipped.files)
    folder = cache_folder() / "artifacts" / hashlib.sha256(content.encode()).hexdigest()
    path = folder / main.name
    with suppress(StmdeployError):
        return read_artifact(path).path
    with staging(folder) as scratch:  # it is not there yet, or not whole
        for file in shipped.files:
            (scratch / file.name).write_bytes(fetch(file.sha256))
        manifest = manifest_path(scratch / main.name)
        manifest.write_text(shipped.manifest, "utf-8")
        names = [file.name for file in shipped.files]
        publish(scratch, [*reversed(names), manifest.name], folder)
    return read_artifact(path).path
