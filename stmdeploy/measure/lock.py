"""One measurement at a time on a machine: a lock that every stmdeploy of a user takes."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stmdeploy.files import temporary_folder


@contextmanager
def machine_lock(on_wait: Callable[[], None]) -> Iterator[None]:
    """Waits until nothing else of this user is measured here; `on_wait` is told if it must.

    The lock is the kernel's: it ends with the process that holds it, however that ends.
    """
    with (temporary_folder() / "measuring.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
