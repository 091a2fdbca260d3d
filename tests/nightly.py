"""What `make nightly` runs, one after the other: promises, long tests, the check of itself.

Each ends in its own words; all of them end in one summary, and in exit code 1 if any failed.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARTS = {
    "promises at micro and tiny": [sys.executable, "-m", "tests.matrix"],
    "long tests": [
        sys.executable, "-m", "pytest", "--numprocesses", "2", "--dist", "worksteal",
        "--durations", "10", "-m", "nightly",
    ],
    "the check of itself": [".ci/self-check"],
}  # fmt: skip


def main() -> int:
    """Runs every part, whatever the others came to."""
    lines, failed = [], 0
    for name, command in PARTS.items():
        begun = time.monotonic()
        print(f"\n== {name}", flush=True)  # noqa: T201
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        failed += bool(code)
        minutes = (time.monotonic() - begun) / 60
        lines.append(f"{'FAILED' if code else 'passed'}  {name}, {minutes:.0f} min")
    print("\n== nightly\n" + "\n".join(lines))  # noqa: T201
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
