"""From flags to a sweep."""

from __future__ import annotations

import pytest

from stmdeploy.cli import flags
from stmdeploy.cli.flags import SweepFlags, sweep_spec
from stmdeploy.hardware import Gpu
from stmdeploy.processors import profiles


@pytest.fixture
def an_l4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with that GPU."""
    found = (Gpu("NVIDIA L4", "GPU-1"), profiles()["l4"])
    monkeypatch.setattr(flags, "find_gpu", lambda _: found)


@pytest.mark.usefixtures("an_l4")
def test_a_gpu_has_batches_and_precisions_of_its_own() -> None:
    spec = sweep_spec(SweepFlags(stm=["dcn"], gpu="l4"))
    assert [run.batch for run in spec.runs] == [1, 8, 32]
    assert spec.precisions == ("fp16",)
    assert {(run.device, run.gpu_uuid, run.gpu_name) for run in spec.runs} == {
        ("cuda", "GPU-1", "NVIDIA L4")
    }
    assert spec.engine.batch == (1, 32, 32)


@pytest.mark.usefixtures("an_l4")
def test_what_is_asked_for_is_stronger() -> None:
    spec = sweep_spec(SweepFlags(stm=["dcn"], gpu="l4", batch=["4"], precision=["fp32,int8"]))
    assert [run.batch for run in spec.runs] == [4]
    assert spec.precisions == ("fp32", "int8")


def test_on_the_cpu() -> None:
    spec = sweep_spec(SweepFlags(stm=["dcn"]))
    assert [(run.device, run.batch) for run in spec.runs] == [("cpu", 1), ("cpu", 8)]
    assert spec.precisions == ("fp32",)
