"""Kills every command that writes, again and again at random moments, and looks at what is left.

Run: python -m tests.hostile.kills [COUNT]; 200 take about half an hour. Nothing that was there may
be lost, doubled or half-written, and nothing may lie about after the next command. Ends in a table.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from stmdeploy.check.bundle import open_bundle
from stmdeploy.check.sides import is_manifest
from stmdeploy.results.database import FILE_NAME
from stmdeploy.results.state import DONE, FAILED
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import read_artifact

NET = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.Linear(128, 10))
"""
MODEL = ["--model", "net:net", "--image-size", "32", "--batch", "1,2", "--budget-s", "0.1"]
FEW = ["--processes", "2", "--warmup-limit-s", "0.2"]
#: Names of what is only there while somebody works on it.
SCRATCH = (".stmdeploy-partial-*", "scratch-*", "*.partial", "*-journal")


@dataclass(frozen=True)
class Target:
    """A command that is killed: the next one after it, and what must hold in between."""

    words: list[str]
    following: list[str]
    whole: Callable[[Path, Path], None]


def stmdeploy(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """A command in a folder, with a temporary folder of its own there."""
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, "-m", "stmdeploy", *words], cwd=folder, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
    )  # fmt: skip


def done(folder: Path, words: list[str]) -> float:
    """Runs a command to its end; how long it took."""
    begun = time.monotonic()
    process = stmdeploy(folder, words)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, f"{words} ended with {process.returncode}: {said[-1500:]}"
    return time.monotonic() - begun


def rows_of(store: Path) -> dict[str, dict[int, int]]:
    """Of every sweep the finished rows, each with how many processes it has."""
    with closing(sqlite3.connect(store / FILE_NAME)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    opened = Store(store)
    found = {}
    for info in opened.sweeps():
        planned = opened.planned(info.id)
        assert not any(row.state == FAILED for row in planned), "a kill has failed a row"
        finished = [row.position for row in planned if row.state == DONE]
        found[info.id] = {p: len(opened.processes(info.id, p)) for p in finished}
        batches = [row.batch for row in opened.rows(info.id)]
        assert len(set(batches)) == len(batches), "a row is there twice"
    opened.close()
    return found


def artifacts_are_whole(folder: Path) -> None:
    """Whatever has a manifest is what it says, but for what the next command sweeps away."""
    for path in folder.rglob("*.json"):
        scratch = any(part.startswith(".stmdeploy-partial-") for part in path.parts)
        if not scratch and is_manifest(path):
            read_artifact(path.with_suffix(""))


def nothing_is_lost(before: Path, after: Path) -> None:
    """Every store holds what it held."""
    for store in ("store", "other"):
        then, now = rows_of(before / store), rows_of(after / store)
        for sweep, rows in then.items():
            assert now.get(sweep, {}).items() >= rows.items(), f"{store} has lost rows of {sweep}"
    artifacts_are_whole(after)


def is_whole_or_absent(name: str) -> Callable[[Path, Path], None]:
    """A file that appears at once."""

    def check(before: Path, after: Path) -> None:
        nothing_is_lost(before, after)
        path = after / name
        if path.exists():
            assert path.stat().st_size > 1000, f"{name} is cut short"
            if name.endswith(".html"):
                assert path.read_text("utf-8").rstrip().endswith("</html>")

    return check


def bundle_is_whole_or_absent(before: Path, after: Path) -> None:
    nothing_is_lost(before, after)
    if (after / "new.tar.gz").exists():
        with open_bundle(after / "new.tar.gz") as bundle:
            assert bundle.baseline.rows


def pruned_whole_or_not(before: Path, after: Path) -> None:
    """A sweep goes with all its rows."""
    then, now = rows_of(before / "store"), rows_of(after / "store")
    assert now in ({}, then)


TARGETS = {
    "export": Target(["export", *MODEL[:4], "--out", "artifacts"],
                     ["export", *MODEL[:4], "--target", "torch", "--out", "artifacts"],
                     nothing_is_lost),
    "profile": Target(["profile", *MODEL, *FEW, "--no-explain", "--out", "store"],
                      ["profile", *MODEL[:4], "--batch", "1", "--budget-s", "0.1", *FEW,
                       "--no-explain", "--out", "store"], nothing_is_lost),
    "profile --resume": Target(["profile", "--resume", "--trust", "--out", "begun"],
                               ["profile", "--resume", "--trust", "--out", "begun"],
                               nothing_is_lost),
    "baseline create": Target(["baseline", "create", *MODEL[:4], "--batch", "1", "--budget-s",
                               "0.1", "--out", "new.tar.gz"],
                              ["report", "--out", "store", "--html", "next.html"],
                              bundle_is_whole_or_absent),
    "results merge": Target(["results", "merge", "store", "--out", "other"],
                            ["results", "merge", "store", "--out", "other"], nothing_is_lost),
    "results export": Target(["results", "export", "rows.csv", "--out", "store"],
                             ["results", "export", "next.csv", "--out", "store"],
                             is_whole_or_absent("rows.csv")),
    "results prune": Target(["results", "prune", "--keep", "0", "--out", "store"],
                            ["results", "list", "--out", "store"], pruned_whole_or_not),
    "report": Target(["report", "--out", "store", "--html", "page.html", "--figures", "figures"],
                     ["report", "--out", "store", "--html", "next.html", "--figures", "figures"],
                     is_whole_or_absent("page.html")),
    "evaluate": Target(["evaluate", "given/net-net-32x32-fp32.onnx", "--data", "images", "--out",
                        "store"],
                       ["results", "list", "--out", "store"], nothing_is_lost),
}  # fmt: skip
#: A kill is the more telling the longer a command writes.
SHARES = {"export": 3, "profile": 4, "profile --resume": 4, "baseline create": 3}


def prepare(folder: Path) -> None:
    """Stores with a sweep each, a sweep that was begun, an artifact and images."""
    from PIL import Image

    (folder / "net.py").write_text(NET)
    done(folder, ["profile", *MODEL, *FEW, "--no-explain", "--out", "store"])
    done(folder, ["profile", *MODEL, *FEW, "--no-explain", "--out", "other"])
    done(folder, ["export", *MODEL[:4], "--out", "given"])
    shutil.copytree(folder / "store", folder / "begun")
    with closing(sqlite3.connect(folder / "begun" / FILE_NAME)) as connection, connection:
        connection.execute("UPDATE rows SET state = 'planned' WHERE position = 1")
        connection.execute("DELETE FROM processes WHERE position = 1")
    for label in range(10):
        place = folder / "images" / f"class{label}"
        place.mkdir(parents=True)
        for number in range(4):
            Image.effect_noise((40, 40), 10.0 * (number + 1)).convert("RGB").save(
                place / f"{number}.png"
            )


def kill(folder: Path, words: list[str], after_s: float) -> bool:
    """Starts a command and kills it; whether it was still there to be killed."""
    process = stmdeploy(folder, words)
    time.sleep(after_s)
    there = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return there


def following(target: Target, folder: Path) -> list[str]:
    """The next command; what was killed after its last row has nothing left to go on with."""
    if "--resume" in target.following:
        store = Store(folder / "begun")
        finished = all(row.state == DONE for s in store.sweeps() for row in store.planned(s.id))
        store.close()
        if finished:
            return ["results", "list", "--out", "begun"]
    return target.following


def left_over(folder: Path) -> list[str]:
    """Scratch that lies about."""
    return [str(p.relative_to(folder)) for mark in SCRATCH for p in folder.rglob(mark)]


def strike(pristine: Path, target: Target, longest_s: float, dice: random.Random) -> str:
    """One kill in a copy of a folder; ``killed``, ``missed``, or what was wrong afterwards."""
    with TemporaryDirectory() as name:
        folder = Path(name) / "work"
        shutil.copytree(pristine, folder, symlinks=True)
        there = kill(folder, target.words, dice.uniform(0, longest_s))
        try:
            target.whole(pristine, folder)
            done(folder, following(target, folder))
            if target.whole is not pruned_whole_or_not:
                nothing_is_lost(pristine, folder)
            assert not left_over(folder), f"left over: {left_over(folder)}"
        except Exception as error:  # noqa: BLE001
            return f"{type(error).__name__}: {error}"
    return "killed" if there else "missed"


def main(count: int) -> int:
    """Prints a line for every command; how many faults there were."""
    dice = random.Random(0)
    names = [name for name in TARGETS for _ in range(SHARES.get(name, 1))]
    found: dict[str, list[str]] = {name: [] for name in TARGETS}
    with TemporaryDirectory() as name:
        pristine = Path(name)
        prepare(pristine)
        longest: dict[str, float] = {}
        for which, target in TARGETS.items():
            with TemporaryDirectory() as other:
                shutil.copytree(pristine, Path(other) / "work")
                longest[which] = done(Path(other) / "work", target.words)
        struck = 0
        for turn in range(10 * count):
            if struck >= count:
                break
            which = names[turn % len(names)]
            found[which].append(strike(pristine, TARGETS[which], longest[which], dice))
            struck += found[which][-1] != "missed"
            print(f"\r{struck} of {count} ({turn + 1} tried)", end="", file=sys.stderr)  # noqa: T201
            if found[which][-1] not in ("killed", "missed"):
                print(f"{which}: {found[which][-1]}", flush=True)  # noqa: T201
    print("| command | kills | faults |\n| :--- | ---: | ---: |")  # noqa: T201
    faults = 0
    for which, all_ in found.items():
        wrong = [what for what in all_ if what not in ("killed", "missed")]
        faults += len(wrong)
        print(f"| {which} | {all_.count('killed') + len(wrong)} | {len(wrong)} |")  # noqa: T201
    return faults


if __name__ == "__main__":
    sys.exit(bool(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)))
