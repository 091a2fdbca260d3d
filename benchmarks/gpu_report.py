"""For whoever has an NVIDIA GPU: tests, the main table and a page, and one block to paste.

Run: make gpu-report, or python -m benchmarks.gpu_report [--out FOLDER] [--minutes 20]. A piece that
fails is named with its last lines, and the next one goes on. Nothing is sent anywhere.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stmdeploy import __version__
from stmdeploy.hardware.environment import environment
from stmdeploy.hardware.gpus import installed_gpus, why_no_gpus
from stmdeploy.hardware.nvml import driver_version
from stmdeploy.hardware.profiles import profile_of

#: The mixers of the main table.
STMS = ("halo", "pvt", "swin", "convnext", "dcn")
_TAIL_LINES, _TABLE_COLUMNS = 15, "150"


@dataclass(frozen=True)
class Piece:
    """One thing to do: its name, the command, and what of its output is pasted."""

    name: str
    command: tuple[str, ...]
    shown: Callable[[str], str]


@dataclass(frozen=True)
class Outcome:
    """How a piece went: 0 for well, and what of it is pasted."""

    name: str
    code: int
    seconds: float
    text: str


def _between_marks(output: str) -> str:
    """The summary of the tests, as tests/gpu/conftest.py marks it."""
    _, _, behind = output.partition("paste from here")
    return behind.partition("to here")[0].strip(" =\n") or _tail(output)


def _whole(output: str) -> str:
    return output.strip()


def _tail(output: str) -> str:
    return "\n".join(output.strip().splitlines()[-_TAIL_LINES:])


def pieces(gpu: str, out: Path) -> tuple[Piece, ...]:
    """What the report consists of.

    Args:
        gpu: the GPU, as ``--gpu`` takes it.
        out: folder of the store and the page.
    """
    stmdeploy = (sys.executable, "-m", "stmdeploy")
    tests = (sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests/gpu")
    table = (
        *stmdeploy, "profile", "--gpu", gpu, "--stm", ",".join(STMS), "--scale", "tiny",
        "--out", str(out),
    )  # fmt: skip
    page = (*stmdeploy, "report", "--out", str(out), "--html", str(out / "report.html"))
    return (
        Piece("tests", tests, _between_marks),
        Piece("main table", table, _whole),
        Piece("page", page, _tail),
    )


def run(piece: Piece, deadline: float) -> Outcome:
    """Does one piece, ended at the deadline; whatever it does, this returns."""
    start = time.monotonic()
    left_s = max(deadline - start, 1.0)
    try:
        done = subprocess.run(
            piece.command, capture_output=True, text=True, timeout=left_s, check=False,
            env=_environment(),
        )  # fmt: skip
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired as late:
        code, output = 124, (late.stdout or b"").decode("utf-8", "replace")
        errors = f"ended after {left_s:.0f} s"
    except OSError as error:
        code, output, errors = 127, "", str(error)
    text = piece.shown(output)
    if code:
        text = f"{text}\n{_tail(errors)}".strip()
    return Outcome(piece.name, code, time.monotonic() - start, text)


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "COLUMNS": _TABLE_COLUMNS}


def block(outcomes: Sequence[Outcome]) -> str:
    """What is pasted into an issue."""
    machine = environment()
    lines = ["----- paste from here -----", f"stmdeploy {__version__}, driver {driver_version()}"]
    for gpu in installed_gpus():
        known = profile_of(gpu.name)
        lines.append(f"{gpu.name}, {gpu.mode}, profile {known.name if known else 'none'}")
    lines.append(f"{machine.processor}, {machine.os}, Python {machine.python}")
    lines.append(", ".join(f"{name} {one}" for name, one in sorted(machine.versions.items())))
    for outcome in outcomes:
        went = "done" if outcome.code == 0 else f"FAILED with exit code {outcome.code}"
        lines += ["", f"## {outcome.name}: {went}, {outcome.seconds:.0f} s", "", outcome.text]
    return "\n".join([*lines, "----- to here -----"])


def main(words: Sequence[str] | None = None) -> int:
    """Prints the block; the exit code is 0 if every piece went well, else 5."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-report"))
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args(words)
    gpus = installed_gpus()
    if not gpus:
        print(f"no NVIDIA GPU here{why_no_gpus()}: run it on a machine that has one")
        return 2
    known = profile_of(gpus[0].name)
    name = known.name if known else gpus[0].name
    deadline = time.monotonic() + 60 * options.minutes
    outcomes = []
    for piece in pieces(name, options.out):
        print(f"{piece.name} ...", file=sys.stderr, flush=True)
        outcomes.append(run(piece, deadline))
    print(block(outcomes))
    return 5 if any(outcome.code for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
