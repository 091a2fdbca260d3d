"""One measurement at a time on a machine: a lock that all stmdeploy processes of a user share."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from stmdeploy.files.places import temporary_folder
from stmdeploy.plugins.progress import Progress


@contextmanager
def machine_lock(progress: Progress) -> Iterator[None]:
    """Waits until this user measures nothing else here; `progress` is warned if that takes a wait.

    The kernel releases the lock when the process that holds it ends, however it ends.
    """
    with (temporary_folder() / "measuring.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.warn("waiting: something else is being measured on this machine")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
