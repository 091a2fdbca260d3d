"""How long this process's threads were ready to run and had no processor, as Linux counts it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import IO

_TASKS = Path("/proc/self/task")


class RunDelay:
    """Reads ``/proc/self/task/*/schedstat`` of the threads there are now.

    Where the system does not tell, the delay is always 0.
    """

    def __init__(self) -> None:
        self._files: list[IO[bytes]] = []
        with suppress(OSError):
            for task in _TASKS.iterdir():
                with suppress(OSError):
                    self._files.append((task / "schedstat").open("rb", buffering=0))

    def close(self) -> None:
        """Gives the files up."""
        for file in self._files:
            file.close()

    def total_ns(self) -> int:
        """Nanoseconds so far, of all threads together."""
        total = 0
        for file in self._files:
            with suppress(OSError, IndexError, ValueError):
                file.seek(0)
                total += int(file.read().split()[1])
        return total
