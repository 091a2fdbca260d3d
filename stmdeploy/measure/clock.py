"""The clock that the sampling loop reads; tests inject another one."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """A monotonic clock."""

    def now_ns(self) -> int:
        """Nanoseconds since some fixed moment."""


class HostClock:
    """The host's monotonic clock with the highest resolution."""

    def now_ns(self) -> int:
        return time.perf_counter_ns()
