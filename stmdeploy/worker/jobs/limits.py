"""What a worker that measures may take of the machine."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path

from stmdeploy.files.reading import BYTES_PER_MIB


def limit_memory(limit_mib: int | None) -> None:
    """Makes this process the first that a full machine ends, and bounds what it allocates."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    if limit_mib is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit_mib * BYTES_PER_MIB,) * 2)
