"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stmdeploy.errors import StmdeployError

_CHUNK_BYTES = 1 << 20
#: How scratch folders begin that stand beside what they become.
_PARTIAL = ".stmdeploy-partial-"
#: ... and those in the temporary folder.
_SCRATCH = "scratch-"
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

    What a killed process left of the kind in `folder` goes first.

    Raises:
        StmdeployError: as `writable`.
    """
    with writable(folder), _owned(folder, _PARTIAL, "") as scratch:
        yield scratch


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A scratch folder in this user's `temporary_folder`, gone afterwards, as `staging`'s is.

    Raises:
        StmdeployError: as `temporary_folder`; or there is no room for it.
    """
    folder = temporary_folder()
    with writable(folder), _owned(folder, _SCRATCH, f"-{purpose}") as scratch:
        yield scratch


def user_folder(variable: str, usual: str) -> Path:
    """A folder of the user's, by the XDG specification: as a variable says, or below the home.

    Raises:
        StmdeployError: nothing says where the user's home is.
    """
    if configured := os.environ.get(variable):
        return Path(configured)
    try:
        return Path.home() / usual
    except RuntimeError as error:
        raise DestinationError(
            f"neither {variable} nor HOME says where the user's files are", f"set {variable}"
        ) from error


def temporary_folder() -> Path:
    """Where stmdeploy keeps what lasts no longer than it runs: nobody else can write there.

    Raises:
        StmdeployError: somebody else has made it, or it cannot be made.
    """
    folder = _temporary_place()
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        raise DestinationError(
            f"cannot write to {folder.parent}: {(error.strerror or '').lower()}",
            "set TMPDIR to a folder that can be written to",
        ) from error
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not mine or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DestinationError(
            f"{folder} is not this user's alone", "remove it, or set TMPDIR to another folder"
        )
    return folder


def _temporary_place() -> Path:
    return Path(_system_temporary()) / f"stmdeploy-{os.getuid()}"


def _system_temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError as error:
        raise DestinationError(
            "there is no folder for temporary files", "set TMPDIR to one that can be written to"
        ) from error


@contextmanager
def _owned(folder: Path, prefix: str, suffix: str) -> Iterator[Path]:
    """A new folder in another one, and a lock on it that ends with this process, however it ends;
    by that the leftovers of killed processes are known, and removed."""
    with _locked(folder):
        _remove_left(folder, prefix)
        scratch = Path(tempfile.mkdtemp(suffix, prefix, folder))
        held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # a file system without locks: nothing is ever swept there
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        os.close(held)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """So that nobody takes a folder that was just made for one that was left behind."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Removes what `staging` left in a folder because its process was killed."""
    with suppress(OSError), _locked(folder):
        _remove_left(folder, _PARTIAL)


def remove_scratch() -> None:
    """Removes what `scratch_folder` left in the temporary folder because its process was killed."""
    with suppress(OSError, StmdeployError):
        folder = _temporary_place()
        if folder.is_dir():  # else nobody has worked here yet
            with _locked(temporary_folder()):
                _remove_left(folder, _SCRATCH)


def _remove_left(folder: Path, prefix: str) -> None:
    for entry in os.scandir(folder):
        if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
            _remove_if_left(folder / entry.name)


def _remove_if_left(scratch: Path) -> None:
    with suppress(OSError):
        held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(scratch, ignore_errors=True)
        finally:
            os.close(held)


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
