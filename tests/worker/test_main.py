"""The worker process: one job in, one answer out, whatever the model prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import pytest

from stmdeploy.errors import ExitCode, FailureKind, StmdeployError
from stmdeploy.plugins.progress import Silent
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.worker import jobs
from stmdeploy.worker.__main__ import JOBS
from stmdeploy.worker.client import WORKER, run_job
from stmdeploy.worker.jobs.job import Job
from stmdeploy.worker.jobs.measure import MeasureJob
from stmdeploy.worker.player import Player
from stmdeploy.worker.process import WorkerError, run_worker
from tests.fakes import RecordedProgress
from tests.sharing import export_model

CHATTY = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)
    def forward(self, x):
        print("forward!")
        return self.fc(x.flatten(1))
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MeasureJob:
    (tmp_path / "chatty_rival.py").write_text(CHATTY)
    monkeypatch.chdir(tmp_path)
    model = ModelSpec("chatty_rival:Net", image_size=(2, 2))
    artifact = export_model(ExportSpec(model, "torch", tmp_path), RecordedProgress())
    sampling = SamplingSpec(budget_s=0.1, processes=1, warmup_s=0.01)
    run = RunSpec("torch", 3, 1)
    return MeasureJob(artifact=artifact.path, model=model, run=run, sampling=sampling)


def test_a_model_that_prints(job: MeasureJob) -> None:
    with Player(job, {}, 600) as player:
        player.listen()
        player.take_turn()
        process = player.end()
    assert process.turns == (len(process.samples_ms),)
    assert process.runtime_facts["intra_op_threads"] == "1"
    assert process.environment.versions["torch"]


def test_a_worker_that_is_given_no_turn_says_so(job: MeasureJob) -> None:
    with pytest.raises(StmdeployError, match="no turn was given"):
        run_job(job, {}, 600, Silent())


def test_an_answer_of_another_version_is_no_answer() -> None:
    with pytest.raises(WorkerError, match="code 1"):
        run_worker(WORKER, '{"kind": "later"}', {}, 600)


def test_memory_is_bounded(job: MeasureJob) -> None:
    bounded = job.model_copy(update={"run": RunSpec("torch", 10**8, 1), "memory_limit_mib": 2000})
    with pytest.raises(StmdeployError, match="MemoryError") as failed:
        run_job(bounded, {}, 600, Silent())
    assert failed.value.kind is FailureKind.OUT_OF_MEMORY


def test_a_failure_is_an_answer(job: MeasureJob) -> None:
    broken = job.model_copy(update={"run": RunSpec("torch", 10**12, 1)})
    with pytest.raises(StmdeployError, match="MemoryError") as failed:
        run_job(broken, {}, 600, Silent())
    assert not isinstance(failed.value, WorkerError), "the worker lived on to tell"
    assert failed.value.code is ExitCode.WORKER_FAILED


@pytest.mark.skipif(sys.platform != "linux", reason="asks the Linux kernel")
def test_a_worker_does_not_outlive_its_parent(job: MeasureJob, tmp_path: Path) -> None:
    endless = job.model_copy(
        update={"sampling": SamplingSpec(budget_s=500.0, warmup_s=500.0, warmup_limit_s=500.0)}
    )
    (tmp_path / "job.json").write_text(endless.model_dump_json())
    program = (
        "import subprocess, sys\n"
        "worker = subprocess.Popen([sys.executable, '-m', 'stmdeploy.worker'],\n"
        "    stdin=open('job.json'), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)\n"
        "worker.stderr.readline()\n"
        "print(worker.pid, flush=True)\n"
        "worker.wait()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 600
    while _alive(worker):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return "Z (zombie)" not in Path(f"/proc/{process}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_every_kind_of_job_is_known() -> None:
    """By the name that it writes into what it sends."""
    for module in iter_modules(jobs.__path__):
        import_module(f"{jobs.__name__}.{module.name}")
    kinds = {
        one.model_fields["kind"].default: (one.__module__.rpartition(".")[2], one.__name__)
        for one in _subclasses(Job)
        if "kind" in one.model_fields and one.__module__.startswith(jobs.__name__)
    }
    assert kinds == JOBS


def _subclasses(parent: type[Any]) -> set[type[Any]]:
    direct = set(parent.__subclasses__())
    return direct.union(*map(_subclasses, direct))


def test_measuring_imports_no_other_job() -> None:
    script = (
        "import sys, stmdeploy.worker.__main__, stmdeploy.worker.jobs.measure\n"
        "print([name for name in sys.modules if name.startswith('stmdeploy.')])"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert "stmdeploy.worker.jobs.measure" in told
    assert "stmdeploy.worker.jobs.engine" not in told and "stmdeploy.schema.row" not in told
