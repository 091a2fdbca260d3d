"""A worker that crashes, hangs, or answers: each costs one reply and no more."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from stmdeploy.measure.process import run_worker

WORKERS = {
    "answers": "import os, sys; print(sys.stdin.read().strip() + os.environ['SETTING'])",
    "raises": "raise RuntimeError('no such kernel')",
    "segfaults": "import ctypes; ctypes.string_at(0)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "hangs": "import time; time.sleep(3600)",
    "exits": "raise SystemExit(3)",
    "tells": "print('> step one', flush=True); print('> warn two'); print('done')",
    "environment": "import json, os; print(json.dumps(dict(os.environ)))",
}


@pytest.fixture
def workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, code in WORKERS.items():
        (tmp_path / f"worker_{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.usefixtures("workers")
def test_an_answer() -> None:
    reply = run_worker("worker_answers", "job", settings={"SETTING": "3"}, timeout_s=600)
    assert (reply.answer, reply.failure) == ("job3", "")


@pytest.mark.usefixtures("workers")
def test_asides_are_told_and_are_no_answer() -> None:
    told: list[str] = []
    reply = run_worker("worker_tells", "", {}, 600, tell=told.append)
    assert told == ["step one", "warn two"]
    assert reply.answer == "done"


@pytest.mark.usefixtures("workers")
def test_a_worker_starts_with_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    monkeypatch.setenv("KMP_BLOCKTIME", "0")
    reply = run_worker("worker_environment", "", {"MKL_NUM_THREADS": "2"}, 600)
    seen = json.loads(reply.answer)
    assert seen["MKL_NUM_THREADS"] == "2"
    assert "PATH" in seen
    assert not {"OMP_NUM_THREADS", "KMP_BLOCKTIME"} & seen.keys()


@pytest.mark.usefixtures("workers")
def test_another_interpreter() -> None:
    reply = run_worker("worker_answers", "job", {"SETTING": ""}, 600, python=sys.executable)
    assert reply.answer == "job"
    assert "cannot be started" in run_worker("x", "", {}, 600, python="/no/python").failure


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("raises", "code 1: RuntimeError: no such kernel"),
        ("segfaults", "died of SIGSEGV"),
        ("killed", "most likely out of memory"),
        ("exits", "code 3: no message"),
    ],
)
def test_a_failure_has_a_reason(name: str, says: str) -> None:
    reply = run_worker(f"worker_{name}", "job", settings={}, timeout_s=600)
    assert says in reply.failure


@pytest.mark.usefixtures("workers")
def test_a_hang_is_ended() -> None:
    reply = run_worker("worker_hangs", "job", settings={}, timeout_s=0.5)
    assert "longer than 0.5 s" in reply.failure
