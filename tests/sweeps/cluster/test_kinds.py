"""Which nodes run what: by accelerator type, by the GPU that is really there, by version."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cluster.facts import NodeFacts
from stmdeploy.cluster.kinds import (
    Kind,
    check_runtimes,
    differences,
    expected,
    kind_of,
    nodes_for,
)
from stmdeploy.hardware.profiles import profiles
from stmdeploy.spec.run import RunSpec
from tests.sweeps.cluster.simulated import environment, facts, nodes

A100 = Kind("a100", gpu=True, accelerator_type="A100")
SMALL, LARGE = "NVIDIA A100-SXM4-40GB", "NVIDIA A100-SXM4-80GB"


def test_a_run_says_its_kind() -> None:
    assert kind_of(RunSpec("onnxruntime", 1, 1, "cuda", node="a100")) == A100
    forty = kind_of(RunSpec("onnxruntime", 1, 1, "cuda", node="a100-40gb"))
    assert forty == Kind("a100-40gb", gpu=True, accelerator_type="A100")
    cpu = kind_of(RunSpec("onnxruntime", 1, 1, node="EPYC"))
    assert cpu == Kind("EPYC", gpu=False, accelerator_type="EPYC")
    assert (A100.flag, cpu.flag) == ("--gpu a100", "--nodes EPYC")


def test_every_profile_has_the_type_that_ray_finds() -> None:
    """By Ray's own function, for the names that NVML gives (private: it has no other)."""
    nvidia = pytest.importorskip("ray._private.accelerators.nvidia_gpu")
    detect = nvidia.NvidiaGPUAcceleratorManager._gpu_name_to_accelerator_type
    for profile in profiles().values():
        assert detect(profile.names[0]) == profile.accelerator_type, profile.name


def test_nodes_are_left_out_with_the_reason() -> None:
    fleet = nodes(A100=4, T4=1)
    said: dict[str, NodeFacts | str] = {
        fleet[0].id: facts(LARGE),
        fleet[1].id: facts("Tesla T4"),
        fleet[2].id: facts(LARGE, sliced=True),
        fleet[3].id: "it does not answer",
        fleet[4].id: facts("Tesla T4"),
    }
    found = nodes_for(A100, fleet, said)
    assert [node.name for node in found.nodes] == ["A100-0"]
    assert found.profile == "a100-80gb"
    assert [reason.partition(": ")[2] for reason in found.avoided.values()] == [
        "it has Tesla T4", "MIG divides its GPUs", "it does not answer",
    ]  # fmt: skip


def test_a_node_without_gpus_to_lend_is_left_out() -> None:
    """NVML sees its GPU, but Ray would never find a free one."""
    (node,) = nodes(A100=1)
    unlent = replace(node, gpus=0)
    with pytest.raises(StmdeployError, match="it lends the cluster no GPU"):
        nodes_for(A100, [unlent], {node.id: facts(LARGE)})


def test_one_name_is_one_gpu() -> None:
    fleet = nodes(A100=2)
    said: dict[str, NodeFacts | str] = {fleet[0].id: facts(SMALL), fleet[1].id: facts(LARGE)}
    with pytest.raises(StmdeployError, match=r"a100-40gb \(A100-0\) and a100-80gb \(A100-1\)"):
        nodes_for(A100, fleet, said)
    forty = Kind("a100-40gb", gpu=True, accelerator_type="A100")
    found = nodes_for(forty, fleet, said)
    assert [node.name for node in found.nodes] == ["A100-0"] and found.profile == "a100-40gb"


def test_nobody_can_is_said_with_the_reason() -> None:
    fleet = nodes(A100=1)
    said: dict[str, NodeFacts | str] = {fleet[0].id: "No module named 'stmdeploy'"}
    with pytest.raises(StmdeployError, match=r"--gpu a100: A100-0 .* No module named 'stmdeploy'"):
        nodes_for(A100, fleet, said)
    with pytest.raises(StmdeployError, match="there are 1 nodes, none with an accelerator_type"):
        nodes_for(A100, [fleet[0].__class__("x", "x", frozenset())], {})


def test_runtimes_must_be_installed() -> None:
    kind = Kind("T4", gpu=False, accelerator_type="T4")
    fleet = nodes(T4=1)
    without = facts().model_copy(update={"unavailable": {"openvino": "pip install openvino"}})
    chosen = nodes_for(kind, fleet, {fleet[0].id: without}).nodes
    check_runtimes(chosen, ["onnxruntime"])
    with pytest.raises(StmdeployError, match=r"T4-0 .* cannot run openvino: pip"):
        check_runtimes(chosen, ["onnxruntime", "openvino"])


def test_versions() -> None:
    """Of the runtimes that are used alone; a GPU's package is the same library as the CPU's."""
    kind = Kind("T4", gpu=False, accelerator_type="T4")
    fleet = nodes(T4=2)
    both = {"onnxruntime-gpu": "1.2", "stmdeploy": "1"}
    first, second = environment(**both, torch="2.1"), environment(**both, torch="2.2")
    said: dict[str, NodeFacts | str] = {
        fleet[0].id: facts().model_copy(update={"environment": first}),
        fleet[1].id: facts().model_copy(update={"environment": second}),
    }
    chosen = nodes_for(kind, fleet, said).nodes
    here = environment(onnxruntime="1.2", stmdeploy="1")
    assert differences(chosen, ["onnxruntime"], here) == ()
    assert expected(chosen, ["onnxruntime"]) == {"onnxruntime-gpu": "1.2", "stmdeploy": "1"}
    assert differences(chosen, ["torch"], here) == ("torch 2.1 (T4-0) and 2.2 (T4-1)",)
    with pytest.raises(StmdeployError, match=r"stmdeploy 2 \(this machine\) and 1 \(T4-0, T4-1\)"):
        differences(chosen, [], environment(stmdeploy="2"))
