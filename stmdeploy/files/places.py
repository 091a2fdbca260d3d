"""Folders of the user and the system: where caches, profiles and scratch files go."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stmdeploy.errors import DestinationError

_NAME = "stmdeploy"
_SET_TMPDIR = "set TMPDIR to a folder that you can write to, as in export TMPDIR=$HOME/tmp"


def cache_folder() -> Path:
    """The user's caches: ``$XDG_CACHE_HOME/stmdeploy``, by default ``~/.cache/stmdeploy``.

    Raises:
        StmdeployError: nothing says where the user's home is.
    """
    from platformdirs import user_cache_path

    return _of_user(user_cache_path, "XDG_CACHE_HOME")


def config_folder() -> Path:
    """The user's settings: ``$XDG_CONFIG_HOME/stmdeploy``, by default ``~/.config/stmdeploy``.

    Raises:
        StmdeployError: nothing says where the user's home is.
    """
    from platformdirs import user_config_path

    return _of_user(user_config_path, "XDG_CONFIG_HOME")


def _of_user(find: Callable[[str], Path], variable: str) -> Path:
    """A folder of the user's. Without a home, older versions of platformdirs give a relative path,
    ``~``, and newer ones raise RuntimeError."""
    with suppress(RuntimeError):
        if (folder := find(_NAME)).is_absolute():
            return folder
    raise DestinationError(
        f"neither {variable} nor HOME says where the user's files are",
        f"set {variable} to a folder, as in export {variable}=/some/folder",
    )


def temporary_folder() -> Path:
    """This user's folder for scratch files, where nobody else can write; made if need be.

    Raises:
        StmdeployError: it is somebody else's, others can write to it, or it cannot be made.
    """
    folder = temporary_place()
    try:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError as error:
        reason = (error.strerror or "").lower()
        raise DestinationError(f"cannot write to {folder.parent}: {reason}", _SET_TMPDIR) from error
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    if not mine or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise DestinationError(f"{folder} is not this user's alone", f"remove it, or {_SET_TMPDIR}")
    return folder


def temporary_place() -> Path:
    """The path of `temporary_folder`, ``$TMPDIR/stmdeploy-UID``, whether or not it exists.

    Raises:
        StmdeployError: the system has no folder for temporary files.
    """
    try:
        return Path(tempfile.gettempdir()) / f"{_NAME}-{os.getuid()}"
    except OSError as error:
        raise DestinationError("there is no folder for temporary files", _SET_TMPDIR) from error
