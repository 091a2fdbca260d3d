"""One measurement at a time on a machine: a lock that every stmdeploy of a user takes."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager

from stmdeploy.files.places import temporary_folder
from stmdeploy.plugins.progress import Progress


@contextmanager
def machine_lock(progress: Progress) -> Iterator[None]:
    """Waits until nothing else of this user is measured here, and tells so if it must.

    The lock is the kernel's: it ends with the process that holds it, however that ends.
    """
    with (temporary_folder() / "measuring.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.warn("waiting: something else is being measured on this machine")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
