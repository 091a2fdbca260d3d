"""One attempt on the tool, in a forked process: bounded and watched, without a start."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stmdeploy.cli.main import main

#: What no document may cost: seconds of a processor, and memory; and after how long one that waits
#: for something is taken to wait for ever.
MOST_S, MOST_MIB, PATIENCE_S = 10.0, 768.0, 120.0
#: What a command may end with that was given a document from outside.
ALLOWED = frozenset({0, 2, 3, 4, 5})


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended; ``code`` is negative for a signal, None for one that hung."""

    code: int | None
    told: str
    more_mib: float
    took_s: float

    @property
    def fault(self) -> str:
        """What is wrong with that; empty if nothing is."""
        if self.code is None:
            return f"it hung for {PATIENCE_S:g} s"
        if self.took_s > MOST_S:
            return f"it computed for {self.took_s:.1f} s"
        if "Traceback (most recent call last)" in self.told:
            return f"a traceback: {self.told[-1500:]}"
        if self.code not in ALLOWED:
            return f"it ended with {self.code}: {self.told[-500:]}"
        if self.more_mib > MOST_MIB:
            return f"it took {self.more_mib:.0f} MiB more"
        if self.code and not self.told.strip():
            return f"it ended with {self.code} and without a word"
        if any(line.startswith("::") or "\x1b" in line for line in self.told.splitlines()):
            return f"what it said is a command: {self.told[-500:]!r}"
        return ""


#: Names a file that gets a line for every attempt: which reader, and how it ended.
LOG_VARIABLE = "STMDEPLOY_HOSTILE_LOG"


def attempt(work: Callable[[], int], folder: Path) -> Outcome:
    """Runs some work in a fork of this process, its words caught in a file of `folder`."""
    outcome = _attempt(work, folder)
    if path := os.environ.get(LOG_VARIABLE):
        test = os.environ.get("PYTEST_CURRENT_TEST", "").partition("::")[2].partition(" ")[0]
        with Path(path).open("a") as file:
            file.write(f"{test}\t{outcome.code}\t{bool(outcome.fault)}\n")
    return outcome


def _attempt(work: Callable[[], int], folder: Path) -> Outcome:
    told = folder / "told.txt"
    before_mib = _resident_mib()  # a fork begins with what its parent holds
    pid = os.fork()
    if pid == 0:
        _child(work, told)
    handle = os.pidfd_open(pid)
    try:
        ended, _, _ = select.select([handle], [], [], PATIENCE_S)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
    finally:
        os.close(handle)
    code = os.waitstatus_to_exitcode(status) if ended else None
    took_s = usage.ru_utime + usage.ru_stime
    more_mib = usage.ru_maxrss / 1024 - before_mib
    return Outcome(code, told.read_text("utf-8", "replace"), more_mib, took_s)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _child(work: Callable[[], int], told: Path) -> None:
    code = 99
    try:
        words = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(words, 1)
        os.dup2(words, 2)
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
        code = work()
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def command(*words: str) -> Callable[[], int]:
    """A command line as work."""
    return lambda: main(list(words))
