"""From flags to a sweep."""

from __future__ import annotations

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cli import devices, requests
from stmdeploy.cli.options import SweepOptions
from stmdeploy.cli.requests import sweep_spec
from stmdeploy.hardware.nvml import Gpu
from stmdeploy.hardware.profiles import profiles


@pytest.fixture
def an_l4(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with that GPU."""
    found = (Gpu("NVIDIA L4", "GPU-1"), profiles()["l4"])
    monkeypatch.setattr(devices, "find_gpu", lambda _: found)


@pytest.mark.usefixtures("an_l4")
def test_a_gpu_has_batches_and_precisions_of_its_own() -> None:
    spec = sweep_spec(SweepOptions(stm=("dcn",), gpu=("l4",)))
    assert [run.batch for run in spec.runs] == [1, 8, 32]
    assert spec.precisions == ("fp16", "fp32")
    assert {(run.device, run.gpu_uuid, run.gpu_name) for run in spec.runs} == {
        ("cuda", "GPU-1", "NVIDIA L4")
    }
    assert spec.engine.batch == (1, 32, 32)


@pytest.mark.usefixtures("an_l4")
def test_a_gpu_is_measured_in_tensorrt_where_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And in ONNX Runtime, by graphs where a model can be recorded; several requests have none."""
    monkeypatch.setattr(requests, "find_spec", lambda name: name == "tensorrt" or None)
    spec = sweep_spec(SweepOptions(stm=("dcn",), gpu=("l4",)))
    assert [run.runtime for run in spec.runs] == ["tensorrt"] * 3 + ["onnxruntime"] * 3
    settings = {(run.settings.cuda_graph, run.settings.cuda_graph_optional) for run in spec.runs}
    assert settings == {(True, True)}
    asked = SweepOptions(stm=("dcn",), gpu=("l4",), batch=(1,), in_flight=(1, 2),
                         runtime=("torch",))  # fmt: skip
    assert [run.settings.cuda_graph for run in sweep_spec(asked).runs] == [True, False]
    without = SweepOptions(stm=("dcn",), gpu=("l4",), use_cuda_graph=False)
    assert not any(run.settings.cuda_graph for run in sweep_spec(without).runs)


def test_what_a_v100_can_still_do(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (Gpu("Tesla V100-SXM2-32GB", "GPU-1"), profiles()["v100"])
    monkeypatch.setattr(devices, "find_gpu", lambda _: found)
    monkeypatch.setattr(requests, "find_spec", lambda name: name == "tensorrt" or None)
    spec = sweep_spec(SweepOptions(stm=("dcn",), gpu=("v100",)))
    assert {run.runtime for run in spec.runs} == {"onnxruntime"}
    with pytest.raises(StmdeployError, match=r"7\.5 or later; NVIDIA V100 .* has 7\.0"):
        sweep_spec(SweepOptions(stm=("dcn",), gpu=("v100",), runtime=("tensorrt",)))


def test_what_is_of_a_gpu_alone() -> None:
    for options in (SweepOptions(stm=("dcn",), cold_l2=True),
                    SweepOptions(stm=("dcn",), lock_clocks=1200)):  # fmt: skip
        with pytest.raises(StmdeployError, match=r"(--cold-l2|--lock-clocks) is of a GPU"):
            sweep_spec(options)
    with pytest.raises(StmdeployError, match="unknown --torch-mode 'fast'"):
        sweep_spec(SweepOptions(stm=("dcn",), torch_mode="fast"))


@pytest.mark.usefixtures("an_l4")
def test_what_is_asked_for_is_stronger() -> None:
    spec = sweep_spec(
        SweepOptions(
            stm=("dcn",),
            gpu=("l4",),
            batch=(4,),
            precision=(
                "fp32",
                "int8",
            ),
        )
    )
    assert [run.batch for run in spec.runs] == [4]
    assert spec.precisions == ("fp32", "int8")


def test_on_the_cpu() -> None:
    spec = sweep_spec(SweepOptions(stm=("dcn",)))
    assert [(run.device, run.batch) for run in spec.runs] == [("cpu", 1), ("cpu", 8)]
    assert spec.precisions == ("fp32",)


def test_a_cluster_has_places_instead_of_devices() -> None:
    """Nobody looks at this machine; what is measured suits all kinds."""
    spec = sweep_spec(
        SweepOptions(
            stm=("dcn",),
            gpu=(
                "A100",
                "l4",
            ),
        ),
        on_cluster=True,
    )
    assert spec.nodes == ("a100", "l4")
    assert {(run.device, run.gpu_uuid, run.gpu_name) for run in spec.runs} == {("cuda", "", "")}
    assert {run.batch for run in spec.runs} == {1, 8, 32} and spec.precisions == ("fp16", "fp32")
    cpu = sweep_spec(SweepOptions(nodes=("EPYC",), threads=(4,)), on_cluster=True)
    assert {(run.device, run.node, run.threads) for run in cpu.runs} == {("cpu", "EPYC", 4)}


@pytest.mark.parametrize(
    ("given", "on_cluster", "says"),
    [
        (
            SweepOptions(
                gpu=(
                    "a100",
                    "l4",
                )
            ),
            False,
            "needs a cluster; add --cluster",
        ),
        (SweepOptions(nodes=("EPYC",)), False, "needs a cluster; add --cluster"),
        (SweepOptions(), True, "--cluster needs to know which nodes"),
        (SweepOptions(nodes=("EPYC",)), True, "--nodes needs --threads"),
        (SweepOptions(gpu=("a1000",)), True, "unknown GPU 'a1000'"),
    ],
)
def test_what_does_not_say_where(given: SweepOptions, on_cluster: bool, says: str) -> None:
    with pytest.raises(StmdeployError, match=says):
        sweep_spec(given, on_cluster=on_cluster)
