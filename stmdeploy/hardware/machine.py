"""This machine's processor and memory."""

from __future__ import annotations

import math
import os
import platform
from pathlib import Path

from stmdeploy.files.reading import BYTES_PER_MIB

#: Further kinds of work, where a system tells them.
_OTHER_WORK = ("nice", "irq", "softirq", "steal")


def available_threads() -> int:
    """Processors that this process may use: its affinity, cut by a container's CPU quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        limit = math.ceil(int(quota) / int(period))
    except (OSError, ValueError):
        return count or 1
    return max(1, min(count or 1, limit))


def processor_name() -> str:
    """The processor's marketing name, or its architecture if the system does not tell it."""
    return proc_field("cpuinfo", "model name") or platform.processor() or platform.machine()


def proc_field(file: str, key: str) -> str | None:
    """The first value of a key in a file below ``/proc``; None if there is none."""
    try:
        lines = Path("/proc", file).read_text("utf-8").splitlines()
    except OSError:
        return None
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for field, _, value in fields if field.strip() == key), None)


def memory_available_mib() -> float:
    """MiB of memory that programs can still take without swapping."""
    import psutil

    return float(psutil.virtual_memory().available) / BYTES_PER_MIB


def processors_busy_s() -> float:
    """Seconds that all processors have worked so far, or were taken by other virtual machines."""
    import psutil

    times = psutil.cpu_times()
    return float(times.user + times.system + sum(getattr(times, n, 0.0) for n in _OTHER_WORK))


def load_average() -> float | None:
    """The mean number of runnable processes over the last minute; None if unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
