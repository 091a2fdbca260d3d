"""What `make nightly` runs, one after the other, each part in its own words.

All of it ends in one summary, and in exit code 1 if any part failed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.hostile.attempts import LOG_VARIABLE

ROOT = Path(__file__).parents[1]
PYTEST = [sys.executable, "-m", "pytest", "--numprocesses", "2", "--dist", "worksteal"]
PARTS = {
    "promises at micro and tiny": [sys.executable, "-m", "tests.matrix"],
    "promises of detection at micro": [
        sys.executable,
        "-m",
        "tests.matrix",
        "--task",
        "detection",
        "--scale",
        "micro",
        "--image-size",
        "160x256",
    ],
    "long tests": [*PYTEST, "--durations", "10", "-m", "nightly"],
    "hostile documents": [*PYTEST, "tests/hostile/test_documents.py"],
    "kills": [sys.executable, "-m", "tests.hostile.kills", "200"],
    "the check of itself": [".ci/self-check"],
}
#: A reader without care, whose faults show that faults are seen.
CONTROL = "test_the_mutations_can_break_something"
#: Of every reader; fourteen of them make more than twenty thousand attempts.
HOSTILE_EXAMPLES = "1300"


def main() -> int:
    """Runs every part, whatever the others came to; those named on the command line, if any."""
    lines, failed = [], 0
    with TemporaryDirectory() as folder:
        log = Path(folder) / "attempts"
        variables = {LOG_VARIABLE: str(log), "STMDEPLOY_HOSTILE_EXAMPLES": HOSTILE_EXAMPLES}
        for name, command in PARTS.items():
            if sys.argv[1:] and name not in sys.argv[1:]:
                continue
            begun = time.monotonic()
            print(f"\n== {name}", flush=True)  # noqa: T201
            run = subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, **variables})
            failed += bool(run.returncode)
            minutes = (time.monotonic() - begun) / 60
            lines.append(f"{'FAILED' if run.returncode else 'passed'}  {name}, {minutes:.0f} min")
        if log.exists():
            print(hostile_table(log))  # noqa: T201
    print("\n== nightly\n" + "\n".join(lines))  # noqa: T201
    return int(bool(failed))


def hostile_table(log: Path) -> str:
    """How often every reader was tried, how it ended, and how often as it must not."""
    tried: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        test, code, fault = line.split("\t")
        if test == CONTROL:
            continue
        tried[test] += 1
        refused[test] += code != "0"
        faults[test] += fault == "True"
    lines = ["| reader | attempts | refused | faults |", "| :--- | ---: | ---: | ---: |"]
    lines += [f"| {t} | {tried[t]} | {refused[t]} | {faults[t]} |" for t in sorted(tried)]
    lines.append(f"| all | {tried.total()} | {refused.total()} | {faults.total()} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
