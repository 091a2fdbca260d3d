"""What ONNX Runtime's CUDA provider would leave to the CPU, told without a GPU."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from stmdeploy import StmdeployError
from stmdeploy.exporters.placement import check_on_gpu, has_kernel, misplaced
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from tests.fakes import RecordedProgress
from tests.sharing import FEW, SharedArtifacts, export_model

#: The form that each mixer takes on CUDA: DCNv3 has no DeformConv there.
FORMS = {"halo": "tokens", "pvt": "tokens", "swin": "tokens", "convnext": "tokens",
         "dcn_v3": "tokens-plain"}  # fmt: skip


def graph_of(path: Path, operator: str, kind: int, opset: int, inputs: int = 1) -> Path:
    """A file with one node, of values of a type."""
    shape = [1, 2, 4, 4]
    names = [f"x{i}" for i in range(inputs)]
    node = helper.make_node(operator, names, ["y"], name="planted")
    values = [helper.make_tensor_value_info(name, kind, shape) for name in names]
    graph = helper.make_graph([node], "g", values, [helper.make_tensor_value_info("y", kind, None)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)]), path)
    return path


@pytest.mark.parametrize(
    ("operator", "kind", "opset", "inputs", "told"),
    [
        ("GridSample", TensorProto.FLOAT16, 20, 2, "GridSample of opset 20, float16"),
        ("GridSample", TensorProto.FLOAT, 20, 2, ""),
        ("Pad", TensorProto.FLOAT, 19, 2, "Pad of opset 19, float"),
        ("Pad", TensorProto.FLOAT, 18, 2, ""),
        ("DeformConv", TensorProto.FLOAT, 22, 3, "DeformConv of opset 22, float"),
        ("DynamicQuantizeLinear", TensorProto.FLOAT, 20, 1, "DynamicQuantizeLinear of opset 11"),
        ("MatMulInteger", TensorProto.UINT8, 20, 2, "MatMulInteger of opset 10, uint8"),
        ("Softmax", TensorProto.FLOAT16, 20, 1, ""),
    ],
)
def test_planted_nodes(
    operator: str, kind: int, opset: int, inputs: int, told: str, tmp_path: Path
) -> None:
    path = graph_of(tmp_path / "planted.onnx", operator, kind, opset, inputs)
    found = misplaced(path)
    assert [one.name for one in found] == (["planted"] if told else [])
    assert all(one.operator.startswith(told) for one in found)
    if told:
        with pytest.raises(StmdeployError, match="'planted' in an unknown part of net"):
            check_on_gpu(path, "net")
    else:
        check_on_gpu(path, "net")


def test_an_open_end_is_of_one_definition_alone() -> None:
    assert has_kernel("Conv", 11, "float16") and has_kernel("Conv", 22, "bfloat16")
    assert not has_kernel("Conv", 11, "bfloat16")
    assert not has_kernel("Conv", 24, "float"), "whoever changes Conv looks at its kernels again"
    assert not has_kernel("QLinearConv", 10, "int8")
    assert has_kernel("HardSwish", 22, "float"), "of a user's own model: not judged here"


def off_gpu(
    name: str, task: str, precision: str, form: str, artifacts: SharedArtifacts
) -> list[tuple[str, str]]:
    size = (64, 64) if task == "detection" or not name.startswith(WINDOWED) else (224, 224)
    path = artifacts.exported(ModelSpec(name, size, task=task), "onnx", precision, lowering=form)
    return [(one.operator, one.part) for one in misplaced(path.path)]


#: The two whose forms differ most; every mixer and scale follows at night.
BY_DAY = {("dcn_v3", "fp16"), ("pvt", "fp16")}
WINDOWED = ("unified_halo", "unified_swin")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mixer", "precision"),
    [
        pytest.param(*one, marks=[] if one in BY_DAY else [pytest.mark.nightly])
        for one in product(FORMS, ("fp16", "fp32"))
    ],
)
def test_everything_runs_on_the_gpu(mixer: str, precision: str, artifacts: SharedArtifacts) -> None:
    name = f"unified_{mixer}_nano"
    assert off_gpu(name, "detection", precision, FORMS[mixer], artifacts) == []


@pytest.mark.nightly
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("task", ["classification", "detection"])
@pytest.mark.parametrize("scale", ["micro", "tiny"])
@pytest.mark.parametrize("mixer", FORMS)
def test_everything_of_every_scale_runs_on_the_gpu(
    mixer: str, scale: str, task: str, precision: str, artifacts: SharedArtifacts
) -> None:
    name = f"unified_{mixer}_{scale}"
    assert off_gpu(name, task, precision, FORMS[mixer], artifacts) == []


def test_an_export_for_cuda_takes_a_form_that_runs_there(tmp_path: Path) -> None:
    """Of DCNv3, `tokens` have a DeformConv: named if asked for, passed over if not."""
    model = ModelSpec("unified_dcn_v3_nano", (32, 32), num_classes=10)
    spec = ExportSpec(model, "onnx", tmp_path, provider="cuda", calibration=FEW)
    made = export_model(spec, RecordedProgress())
    assert made.manifest.lowering == "tokens-plain"
    assert "-cuda" in made.path.name
    asked = ExportSpec(model, "onnx", tmp_path, lowering="tokens", provider="cuda")
    with pytest.raises(StmdeployError, match="no kernel for CUDA of DeformConv of opset 22"):
        export_model(asked, RecordedProgress())


def test_int8_on_cuda_is_refused(tmp_path: Path) -> None:
    model = ModelSpec("unified_convnext_nano", (32, 32), num_classes=10)
    spec = ExportSpec(model, "onnx", tmp_path, "int8", provider="cuda", calibration=FEW)
    with pytest.raises(StmdeployError, match="int8 on ONNX Runtime's CUDA provider is not int8"):
        export_model(spec, RecordedProgress())
