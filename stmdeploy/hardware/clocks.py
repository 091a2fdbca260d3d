"""A GPU's clock, locked for as long as it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from stmdeploy.hardware.nvml import lock_clocks, unlock_clocks


@contextmanager
def locked_clocks(uuid: str, mhz: int | None) -> Iterator[None]:
    """Locks the clock of a GPU's processors, and gives it back whatever happens inside.

    It is for the process that starts the workers: a worker that is killed restores nothing.

    Args:
        uuid: the GPU.
        mhz: the clock; None to leave it alone.

    Raises:
        StmdeployError: the driver refuses, for which it mostly wants root.
    """
    if mhz is None:
        yield
        return
    lock_clocks(uuid, mhz)
    try:
        yield
    finally:
        unlock_clocks(uuid)
