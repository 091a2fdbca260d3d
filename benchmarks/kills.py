"""Kills a sweep again and again, parent or worker, resumes it, and looks for what was lost.

Run: python -m benchmarks.kills [COUNT]; 200 kills take about a quarter of an hour. The process
that is killed, and when, is random.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from stmdeploy.results.state import DONE, FAILED
from stmdeploy.results.store import Store

MODEL = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Flatten(), nn.Linear(128, 10))
"""
#: Mean time between kills, and how often a worker is struck where there is one.
MEAN_S, WORKER_SHARE = 1.5, 0.6
BATCHES = ",".join(map(str, range(1, 41)))
SWEEP = ["--model", "killed_net:net", "--image-size", "32", "--budget-s", "0.15",
         "--processes", "3", "--warmup-limit-s", "0.3"]  # fmt: skip


def profile(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A profile in a process of its own."""
    command = [sys.executable, "-m", "stmdeploy", "profile", *arguments]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def workers_of(parent: int) -> list[int]:
    """The children of a process."""
    try:
        text = Path(f"/proc/{parent}/task/{parent}/children").read_text("ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def strike(process: subprocess.Popen[bytes], dice: random.Random) -> str:
    """Kills the parent or one of its workers."""
    workers = workers_of(process.pid)
    victim = workers[0] if workers and dice.random() < WORKER_SHARE else process.pid
    try:
        os.kill(victim, signal.SIGKILL)
    except ProcessLookupError:
        return "nothing"
    return "parent" if victim == process.pid else "worker"


def finished(store: Store, sweep: str) -> dict[int, int]:
    """The finished rows, each with how many processes it has."""
    return {
        row.position: len(store.processes(sweep, row.position))
        for row in store.planned(sweep)
        if row.state == DONE
    }


def check(folder: Path, before: dict[str, dict[int, int]]) -> dict[str, dict[int, int]]:
    """What is finished by now, sweep by sweep.

    Raises:
        AssertionError: a finished row was lost, changed or doubled, or the database is damaged.
    """
    path = folder / "stmdeploy-results" / "results.db"
    if not path.exists():
        return before
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store = Store(path)
    now = {info.id: finished(store, info.id) for info in store.sweeps()}
    for sweep, rows in before.items():
        lost = {place: n for place, n in rows.items() if now[sweep].get(place) != n}
        assert not lost, (sweep, lost, now[sweep])
        batches = [row.batch for row in store.rows(sweep)]
        assert len(set(batches)) == len(batches)
    store.close()
    return now


def prepared(folder: Path) -> bool:
    """Whether the model of the first sweep is exported; a kill before would cost all its rows."""
    path = folder / "stmdeploy-results"
    if not (path / "results.db").exists():
        return False
    store = Store(path)
    return any(store.prepared(info.id) for info in store.sweeps())


def unfinished(folder: Path) -> bool:
    """Whether there is a sweep to go on with."""
    path = folder / "stmdeploy-results"
    return (path / "results.db").exists() and any(info.unfinished for info in Store(path).sweeps())


def main() -> None:
    """Prints how many kills of which kind there were, and what became of the rows."""
    kills, dice = int(sys.argv[1]) if len(sys.argv) > 1 else 200, random.Random(0)
    struck: Counter[str] = Counter()
    before: dict[str, dict[int, int]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "killed_net.py").write_text(MODEL)
        sweep = [*SWEEP, "--batch", BATCHES]
        process = profile(folder, *sweep)
        while not prepared(folder):
            time.sleep(0.1)
        while struck["parent"] + struck["worker"] < kills:
            time.sleep(dice.expovariate(1 / MEAN_S))
            struck[strike(process, dice)] += 1
            time.sleep(0.05)
            before = check(folder, before)
            if process.poll() is not None:
                process = profile(
                    folder, *(["--resume", "--trust"] if unfinished(folder) else sweep)
                )
            if sum(struck.values()) % 20 == 0:
                print(dict(struck), file=sys.stderr, flush=True)
        process.wait()
        while unfinished(folder):
            profile(folder, "--resume", "--trust").wait()
        check(folder, before)
        states: Counter[str] = Counter()
        sweeps = Store(folder / "stmdeploy-results").sweeps()
        for info in sweeps:
            states.update(info.states)
        assert states.keys() <= {DONE, FAILED}, states
    print(
        f"{struck['parent']} kills of the parent, {struck['worker']} of a worker: no finished row "
        f"lost, changed or doubled, databases intact; {len(sweeps)} sweeps finished on resume: "
        f"{states[DONE]} rows done, {states[FAILED]} failed, each with a killed worker"
    )


if __name__ == "__main__":
    main()
