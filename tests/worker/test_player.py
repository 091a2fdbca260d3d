"""A worker between its turns."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from stmdeploy.errors import FailureKind
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.worker.jobs.measure import MeasureJob
from stmdeploy.worker.player import Player
from stmdeploy.worker.process import WorkerError
from tests.fakes import RecordedProgress
from tests.sharing import export_model

#: A model with a thread of its own, in a worker alone: in the tests' process it would never end.
RESTLESS = """
import __main__, threading
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)
        if getattr(__main__.__spec__, "name", "") == "stmdeploy.worker.__main__":
            threading.Thread(target=self.work, daemon=True).start()
    def work(self):
        while True:
            sum(range(1000))
    def forward(self, x):
        return self.fc(x.flatten(1))
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeasureJob:
    (tmp_path / "restless_rival.py").write_text(RESTLESS)
    monkeypatch.chdir(tmp_path)
    model = ModelSpec("restless_rival:Net", image_size=(2, 2))
    artifact = export_model(ExportSpec(model, "torch", tmp_path), RecordedProgress())
    sampling = SamplingSpec(budget_s=0.1, processes=1, warmup_s=0.01)
    run = RunSpec("torch", 1, 1)
    return MeasureJob(artifact=artifact.path, model=model, run=run, sampling=sampling)


def states(process: int) -> list[str]:
    """What Linux says of every thread."""
    return [(task / "status").read_text() for task in Path(f"/proc/{process}/task").iterdir()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_it_is_stopped_between_its_turns_with_all_its_threads(job: MeasureJob) -> None:
    with Player(job, {}, 600) as player:
        for step in (player.listen, player.take_turn, player.take_turn):
            step()
            deadline = time.monotonic() + 600
            while not all("T (stopped)" in state for state in states(player._worker.pid)):
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert len(states(player._worker.pid)) > 1, "its own, too"
        assert len(player.end().turns) == 2


@pytest.mark.slow
def test_one_that_waits_can_be_killed(job: MeasureJob) -> None:
    with Player(job, {}, 600) as player:
        player.listen()
        os.kill(player._worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError) as failed:
            player.take_turn()
    assert failed.value.kind is FailureKind.KILLED
