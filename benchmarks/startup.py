"""How much CPU time `stmdeploy --help` takes beyond an interpreter that does nothing.

Run: python -m benchmarks.startup. The two commands take turns, so that a drifting clock
speed falls on both.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys

ROUNDS = 15


def cpu_s(command: list[str]) -> float:
    """User and system seconds of one child process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Prints both medians, their ratio and their difference."""
    nothing = [sys.executable, "-c", "pass"]
    help_ = [sys.executable, "-m", "stmdeploy", "--help"]
    pairs = [(cpu_s(nothing), cpu_s(help_)) for _ in range(ROUNDS + 1)][1:]
    base = statistics.median(pair[0] for pair in pairs)
    ours = statistics.median(pair[1] for pair in pairs)
    ratio = statistics.median(b / a for a, b in pairs)
    print(f"CPU seconds, median of {ROUNDS} interleaved pairs")
    print(f"  python -c pass    {base:.3f}")
    print(f"  stmdeploy --help  {ours:.3f}   ratio {ratio:.1f}   difference {ours - base:.3f}")


if __name__ == "__main__":
    main()
