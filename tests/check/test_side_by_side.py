"""Workers that take turns: in pairs, one at a time, and what becomes of those that fail."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stmdeploy.check import side_by_side
from stmdeploy.check.side_by_side import TURNS, Pair, Side, SideFailedError, measure_pair
from stmdeploy.errors import ExitCode
from stmdeploy.plugins.progress import Silent
from stmdeploy.schema.artifact import Artifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from stmdeploy.worker.jobs.turns import TurnsJob
from tests.fakes import RecordedProgress
from tests.sharing import export_model

#: Writes when it begins and ends to a file, in one write each, and misbehaves on request.
RIVAL = """
import ctypes
import os
import time

from torch import nn

LOG = os.open("turns.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)
        self.runs = 0
    def forward(self, x):
        self.runs += 1
        if x.shape[0] == 5 and self.runs > 8:
            ctypes.string_at(0)
        if x.shape[0] == 6 and self.runs > 8:
            time.sleep(3600)
        if x.shape[0] == 7 and self.runs > 8:
            raise RuntimeError("the device is gone")
        os.write(LOG, f"{os.getpid()} {time.monotonic_ns()} begins\\n".encode())
        y = self.fc(x.flatten(1))
        os.write(LOG, f"{os.getpid()} {time.monotonic_ns()} ends\\n".encode())
        return y
"""


@pytest.fixture
def artifact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Artifact:
    (tmp_path / "turn_rivals.py").write_text(RIVAL)
    monkeypatch.chdir(tmp_path)
    model = ModelSpec("turn_rivals:Net", image_size=(2, 2))
    return export_model(ExportSpec(model, "torch", tmp_path), RecordedProgress())


def side(artifact: Artifact, batch: int) -> Side:
    model = ModelSpec("turn_rivals:Net", image_size=(2, 2))
    run = RunSpec("torch", batch, 1)
    return Side(TurnsJob(artifact=artifact.path, model=model, run=run))


def measured(artifact: Artifact, batch: int, timeout_s: float = 600.0) -> Pair:
    dice = random.Random(0)
    return measure_pair(side(artifact, 1), side(artifact, batch), timeout_s, dice, Silent())


@pytest.mark.slow
def test_one_process_runs_at_a_time(artifact: Artifact) -> None:
    pair = measured(artifact, 1)
    assert pair.measured_s > 0
    for half in (pair.baseline, pair.candidate):
        assert len(half.turns) == TURNS
        assert all(turn.durations_ns for turn in half.turns)
        assert [len(one) for one in half.run.outputs] == [5]
        assert half.run.memory_peak_mib > 0
        assert half.run.burst_runs / half.run.burst_s > 1
        assert half.run.others_processors >= 0
    assert pair.baseline.run.outputs == pair.candidate.run.outputs
    events = [line.split() for line in Path("turns.log").read_text().splitlines()]
    # Loading is not measured, and done by all at once: a turn is what comes after the last start.
    first = {pid: int(at) for pid, at, _ in reversed(events)}
    everyone_there = max(first.values())
    later = sorted((int(at), pid, what) for pid, at, what in events if int(at) > everyone_there)
    # Warm runs are of both processes at once; the turns are the last part, one process a stretch.
    turns = later[len(later) // 4 :]
    running: set[str] = set()
    for _, pid, what in turns:
        if what == "begins":
            assert not running
            running = {pid}
        else:
            running = set()
    assert len({pid for _, pid, _ in turns}) >= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (5, "candidate: worker died of SIGSEGV"),
        (7, "candidate: RuntimeError: the device is gone"),
    ],
)
def test_a_side_that_fails_says_which_and_why(artifact: Artifact, batch: int, message: str) -> None:
    with pytest.raises(SideFailedError) as failed:
        measured(artifact, batch)
    assert message in str(failed.value)
    assert failed.value.code == 5


@pytest.mark.slow
def test_a_side_that_hangs_is_ended(artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the side that hangs has little time, and from its first turn on: no load matters."""

    def hurried(player: Any) -> None:
        if player.name == "candidate":
            player.player._worker._timeout_s = 2.0
        take_turn(player)

    take_turn = side_by_side._Player.take_turn
    monkeypatch.setattr(side_by_side._Player, "take_turn", hurried)
    with pytest.raises(
        SideFailedError, match="candidate: worker took longer than 2 s and was ended"
    ):
        measured(artifact, 6)


def test_an_interpreter_that_is_not_there(artifact: Artifact) -> None:
    bad = replace(side(artifact, 1), python="/none/python")
    with pytest.raises(SideFailedError, match="baseline: /none/python cannot be started"):
        measure_pair(bad, side(artifact, 1), 600, random.Random(0), Silent())


@pytest.mark.slow
def test_a_worker_that_dies_while_it_waits(
    artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_first(player: Any) -> None:
        os.kill(player.player._worker.pid, signal.SIGKILL)
        player.player._worker._process.wait()
        take_turn(player)

    take_turn = side_by_side._Player.take_turn
    monkeypatch.setattr(side_by_side._Player, "take_turn", killed_first)
    with pytest.raises(SideFailedError, match="SIGKILL"):
        measured(artifact, 1)


def test_words_of_another_version_are_one_line() -> None:
    """A runtime beside another stmdeploy, which tells the durations alone."""
    other = SimpleNamespace(take_turn=lambda: "1000 1001")
    player = side_by_side._Player("candidate", other)  # type: ignore[arg-type]
    with pytest.raises(
        SideFailedError, match=r"candidate: its stmdeploy is another version"
    ) as told:
        player.take_turn()
    assert told.value.code == ExitCode.WORKER_FAILED
