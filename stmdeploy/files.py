"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stmdeploy.errors import StmdeployError

_CHUNK_BYTES = 1 << 20
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: What a full, read-only or wrongly named destination gives; any other OSError is a defect.
_DESTINATION_ERRNOS = _FULL_ERRNOS | frozenset(
    {
        errno.EROFS, errno.EACCES, errno.EPERM,
        errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG,
        errno.ENOENT,
    }
)  # fmt: skip


class DestinationError(StmdeployError):
    """What was asked for cannot be written where it was asked for."""


class DiskFullError(DestinationError):
    """There is no room for it; something smaller may still fit."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _missing_parents(folder: Path) -> list[Path]:
    """The folders that have to be made for `folder` to exist, deepest first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes `folder`; if the body fails, removes again what was made and is still empty.

    Raises:
        StmdeployError: the folder cannot be made or written to, or the disk is full.
    """
    made = _missing_parents(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for path in made:
            try:
                path.rmdir()
            except OSError:
                break
        if cause := _destination_fault(error, folder):
            kind = DiskFullError if cause.errno in _FULL_ERRNOS else DestinationError
            raise kind(
                f"cannot write to {folder}: {(cause.strerror or str(cause)).lower()}",
                "choose another folder or free some space",
            ) from error
        raise


def _destination_fault(error: BaseException | None, folder: Path) -> OSError | None:
    """What is wrong with the destination; libraries wrap the OSError in errors of theirs."""
    if isinstance(error, StmdeployError) or not isinstance(error, Exception):
        return None
    while error is not None:
        if isinstance(error, OSError) and _concerns(error, folder):
            return error
        error = error.__cause__ or error.__context__
    return None


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether an error is of writing below `folder`; a failed write names no file."""
    if error.filename is None:
        return error.errno in _FULL_ERRNOS
    path, folder = Path(str(error.filename)).absolute(), folder.absolute()
    return error.errno in _DESTINATION_ERRNOS and (
        path == folder or folder in path.parents or path in folder.parents
    )


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A scratch folder inside `folder`, gone afterwards; files in it can be renamed out.

    Raises:
        StmdeployError: as `writable`.
    """
    with writable(folder):
        scratch = Path(tempfile.mkdtemp(prefix=".stmdeploy-partial-", dir=folder))
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def publish(scratch: Path, names: list[str], folder: Path) -> None:
    """Renames files from a staging folder into place, in the order given."""
    for name in names:
        with (scratch / name).open("rb") as file:
            os.fsync(file.fileno())
        (scratch / name).replace(folder / name)


def write_atomically(path: Path, data: bytes) -> None:
    """Writes one file whole or not at all.

    Raises:
        StmdeployError: as `writable`.
    """
    with staging(path.parent) as scratch:
        (scratch / path.name).write_bytes(data)
        publish(scratch, [path.name], path.parent)
