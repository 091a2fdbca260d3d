"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path

from stmdeploy.errors import DestinationError, DiskFullError, StmdeployError
from stmdeploy.files.places import temporary_folder, temporary_place

#: How names of scratch folders begin, beside what is written and in the temporary folder.
_PARTIAL, _SCRATCH = ".stmdeploy-partial-", "scratch-"
_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Errors of a full, read-only or wrongly named destination; any other OSError is a defect.
_DESTINATION_ERRNOS = _FULL_ERRNOS | {
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
    errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ENOENT,
}  # fmt: skip


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes `folder`; if the body fails, removes again what was made and is still empty.

    Raises:
        StmdeployError: the folder cannot be made or written to, or the disk is full.
    """
    made = list(takewhile(lambda path: not path.exists(), (folder, *folder.parents)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        with suppress(OSError):
            for path in made:
                path.rmdir()
        if cause := _destination_fault(error, folder):
            kind = DiskFullError if cause.errno in _FULL_ERRNOS else DestinationError
            raise kind(
                f"cannot write to {folder}: {(cause.strerror or str(cause)).lower()}",
                "choose another folder or free some space",
            ) from error
        raise


def _destination_fault(error: BaseException | None, folder: Path) -> OSError | None:
    """The OSError that concerns the destination, if any; libraries wrap it in their own errors."""
    if isinstance(error, StmdeployError) or not isinstance(error, Exception):
        return None
    while error is not None:
        if isinstance(error, OSError) and _concerns(error, folder):
            return error
        error = error.__cause__ or error.__context__
    return None


def _concerns(error: OSError, folder: Path) -> bool:
    """Whether an error comes from writing below `folder`; a failed write names no file."""
    if error.filename is None:
        return error.errno in _FULL_ERRNOS
    path, folder = Path(str(error.filename)).absolute(), folder.absolute()
    return error.errno in _DESTINATION_ERRNOS and (
        path == folder or folder in path.parents or path in folder.parents
    )


def staging(folder: Path) -> AbstractContextManager[Path]:
    """A scratch folder inside `folder`, removed afterwards; files in it can be renamed out.

    First removes those that killed processes left in `folder`.

    Raises:
        StmdeployError: as `writable`.
    """
    return _owned(folder, _PARTIAL, "files")


def scratch_folder(purpose: str) -> AbstractContextManager[Path]:
    """A scratch folder in this user's `temporary_folder`, removed afterwards.

    Args:
        purpose: its name.

    Raises:
        StmdeployError: as `temporary_folder`; or there is no room for it.
    """
    return _owned(temporary_folder(), _SCRATCH, purpose)


@contextmanager
def _owned(folder: Path, prefix: str, name: str) -> Iterator[Path]:
    """A folder of that name inside a new one that is locked until this process ends, however it
    ends; a folder that nobody holds is known as a killed process's leftover, and removed."""
    with writable(folder), ExitStack() as held:
        with _locked(folder):  # so that nobody takes the new one for a leftover
            _remove_left(folder, prefix)
            scratch = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            held.enter_context(_locked(scratch))
        held.callback(shutil.rmtree, scratch, ignore_errors=True)
        (scratch / name).mkdir()
        yield scratch / name  # not the locked one: others may stage files in it


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for the lock on a folder, and holds it; goes on without one where the file system has
    no locks, so that no leftovers are ever removed there."""
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
        folder = temporary_place()
        if folder.is_dir():  # else nobody has worked here yet
            with _locked(temporary_folder()):
                _remove_left(folder, _SCRATCH)


def _remove_left(folder: Path, prefix: str) -> None:
    for entry in os.scandir(folder):
        if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
            with suppress(OSError):
                _remove_if_left(folder / entry.name)


def _remove_if_left(scratch: Path) -> None:
    """Removes a scratch folder; raises OSError if somebody holds it, or it is no folder."""
    held = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(scratch, ignore_errors=True)
    finally:
        os.close(held)


def publish(scratch: Path, names: list[str], folder: Path) -> None:
    """Renames files from a staging folder into `folder`, in the order given, each synced first."""
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
