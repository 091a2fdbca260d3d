"""The ONNX target: exactness at every batch, what is written, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

from stmdeploy import StmdeployError
from stmdeploy.backbones.catalogue import resolve
from stmdeploy.backbones.source import build_module
from stmdeploy.errors import ExitCode
from stmdeploy.exporters import onnx as target
from stmdeploy.exporters import onnx_graph, ort_session
from stmdeploy.schema.artifact import read_artifact
from stmdeploy.spec.export import ExportSpec
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec
from tests.conftest import relative_l2
from tests.fakes import RecordedProgress
from tests.sharing import SharedArtifacts, export_model

NANO = ModelSpec("unified_convnext_nano", image_size=(64, 64))


def export(model: ModelSpec, folder: Path, **options: object) -> Path:
    spec = ExportSpec(model, "onnx", folder, **options)  # type: ignore[arg-type]
    return export_model(spec, RecordedProgress()).path


def errors_against_float64(path: Path, model: ModelSpec) -> list[float]:
    """The artifact through a bare session, at batches stmdeploy's own check does not use."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    reference = build_module(model).double()
    errors = []
    for batch in (2, 5):
        x = np.random.default_rng(batch).standard_normal((batch, 3, *model.image_size))
        got = session.run(None, {"image": x.astype(np.float32)})[0]
        with torch.inference_mode():
            expected = reference(torch.from_numpy(x.astype(np.float32)).double())
        errors.append(relative_l2(torch.from_numpy(got), expected.numpy()))
    return errors


FAMILIES = ("halo", "swin", "dcn_v3", "pvt", "pvt_v2", "convnext")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "scale"),
    [
        ("convnext", "nano"),  # of the others the table of promises is kept: test_promises.py
        *(pytest.param(family, "micro", marks=pytest.mark.nightly) for family in FAMILIES),
        pytest.param("dcn_v3", "tiny", marks=pytest.mark.nightly),
    ],
)
def test_every_family_is_exact_at_any_batch(family: str, scale: str, tmp_path: Path) -> None:
    model = ModelSpec(f"unified_{family}_{scale}")
    path = export(model, tmp_path)
    assert max(errors_against_float64(path, model)) <= 1e-5
    operators = read_artifact(path).manifest.operators
    special = {"convnext": "RMSNormalization", "dcn_v3": "DeformConv"}.get(family, "Attention")
    assert operators[special] >= sum(resolve(model.name).depths)
    assert "GridSample" not in operators


@pytest.mark.nightly
def test_the_original_swin(tmp_path: Path) -> None:
    model = ModelSpec("official_swin_tiny")
    assert max(errors_against_float64(export(model, tmp_path), model)) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "size"),
    [
        pytest.param("halo", (448, 224), marks=pytest.mark.nightly),
        ("pvt", (96, 160)),
        pytest.param("dcn_v3", (96, 160), marks=pytest.mark.nightly),
    ],
)
def test_other_image_sizes(family: str, size: tuple[int, int], tmp_path: Path) -> None:
    model = ModelSpec(f"unified_{family}_nano", image_size=size, num_classes=10)
    artifact = read_artifact(export(model, tmp_path))
    assert artifact.manifest.proof.relative_l2_error <= 1e-5
    assert artifact.manifest.inputs[0].shape == ("batch", 3, *size)


@pytest.fixture(scope="module")
def nano(artifacts: SharedArtifacts) -> Path:
    return artifacts.exported(NANO, "onnx").path


def test_manifest_says_what_was_made(nano: Path) -> None:
    manifest = json.loads(nano.with_name(nano.name + ".json").read_text())
    assert manifest["opset"] == 23
    assert manifest["lowering"] == "tokens"
    assert manifest["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": ["batch", 3, 64, 64]}
    ]
    assert manifest["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 1000]}]
    assert manifest["verification"]["batches"] == [1, 3]
    assert manifest["verification"]["runtime"].startswith("onnxruntime 1.")
    assert 0 < manifest["verification"]["relative_l2_error"] <= 1e-5
    assert manifest["verification"]["worst_difference"] > 0
    assert {"stmdeploy", "torch", "onnx", "onnxscript"} <= manifest["versions"].keys()
    assert manifest["operators"]["Conv"] > 10
    assert manifest["model"]["weights"]["kind"] == "synthetic"


def test_the_file_carries_its_name_and_no_local_paths(nano: Path) -> None:
    model = onnx.load(nano)
    notes = {prop.key: prop.value for prop in model.metadata_props}
    assert notes["stmdeploy.model"] == "unified_convnext_nano"
    assert notes["stmdeploy.scale"] == "nano"
    assert notes["stmdeploy.image_size"] == "64x64"
    assert notes["stmdeploy.version"]
    assert len(notes["stmdeploy.weights_sha256"]) == 64
    content = nano.read_bytes()
    for place in (
        str(Path.home()),
        str(Path(__file__).parent.parent),
        str(Path(torch.__file__).parent),
    ):
        assert place.encode() not in content


def test_every_value_has_a_shape(nano: Path) -> None:
    inferred = onnx.shape_inference.infer_shapes(onnx.load(nano), strict_mode=True)
    shaped = {v.name for v in inferred.graph.value_info if v.type.tensor_type.HasField("shape")}
    produced = {name for node in inferred.graph.node for name in node.output if name}
    assert produced - shaped - {"logits"} == set()


@pytest.mark.parametrize("opset", [0, 17, 99])
def test_opsets_that_cannot_be_written(opset: int, tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="choose 19 to 23"):
        export(NANO, tmp_path / "new", opset=opset)
    assert not (tmp_path / "new").exists()


def test_the_lowest_opset(tmp_path: Path) -> None:
    """The highest is the default."""
    path = export(NANO, tmp_path, opset=19)
    assert onnx.load(path).opset_import[0].version == 19
    assert read_artifact(path).manifest.lowering == "tokens-plain"


def test_a_form_that_needs_a_newer_opset(tmp_path: Path) -> None:
    with pytest.raises(StmdeployError, match="has no form 'tokens' for onnx"):
        export(NANO, tmp_path / "new", opset=20, lowering="tokens")


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "EXTERNAL_DATA_BYTES", 1_000_000)
    path = export(NANO, tmp_path)
    artifact = read_artifact(path)
    assert [file.name for file in artifact.manifest.files] == [path.name, path.name + ".data"]
    assert path.stat().st_size < 2_000_000 < (tmp_path / (path.name + ".data")).stat().st_size
    (tmp_path / (path.name + ".data")).write_bytes(b"")
    with pytest.raises(StmdeployError, match="is cut short: 0 of"):
        read_artifact(path)


def test_traces_are_forgotten_where_they_grow_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graph, "_traces", {})
    monkeypatch.setattr(onnx_graph, "_trace", lambda *_: object())
    module = torch.nn.Linear(4, 4, bias=False)
    monkeypatch.setattr(onnx_graph, "_KEPT_BYTES", 2 * 4 * module.weight.numel())

    def traced(form: str) -> object:
        weights = SimpleNamespace(sha256="")
        work: Any = SimpleNamespace(
            spec=SimpleNamespace(model=NANO, dynamic_size=False),
            info=SimpleNamespace(weights=weights), form=form,
            module=module,
        )  # fmt: skip
        return onnx_graph._traced(work, 23)

    first, second = traced("a"), traced("b")
    assert traced("a") is first
    traced("c")
    assert traced("b") is second
    assert traced("a") is not first, "the oldest one"


@pytest.mark.nightly
def test_a_wrong_artifact_is_never_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate = onnx_graph._annotate

    def spoil(model: object, info: object, spec: object) -> None:
        annotate(model, info, spec)
        bias = model.graph.initializers["head.bias"]  # type: ignore[attr-defined]
        values = bias.const_value.numpy().copy()
        values[7] += 1e-2
        bias.const_value = onnx_ir.tensor(values, name="head.bias")

    monkeypatch.setattr(onnx_graph, "_traces", {})  # The spoilt trace is not kept.
    monkeypatch.setattr(onnx_graph, "_annotate", spoil)
    with pytest.raises(StmdeployError, match="differ from PyTorch float64") as error:
        export(NANO, tmp_path / "new")
    assert error.value.code == ExitCode.OUTPUTS_DIFFER
    assert not (tmp_path / "new").exists()


def test_a_model_that_freezes_the_batch_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frozen_rival.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = torch.nn.Linear(12, 5)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1)) if x.shape[0] == 2 else self.fc(-x.flatten(1))\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StmdeployError, match="only exports for 2 images"):
        export(ModelSpec("frozen_rival:Net", image_size=(2, 2)), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_runner_binds_its_buffers(nano: Path) -> None:
    runner = target.OnnxExporter().load(nano, RunSpec("onnxruntime", 2, 1), lambda: None)
    with pytest.raises(RuntimeError, match="prepare"):
        runner.outputs()[0]
    images = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    runner.prepare(images)
    runner.run()
    first = runner.outputs()[0]
    runner.prepare(-images)
    runner.run()
    assert not np.allclose(runner.outputs()[0], first)
    plain = onnxruntime.InferenceSession(nano, providers=["CPUExecutionProvider"])
    assert np.allclose(plain.run(None, {"image": images})[0], first, atol=1e-5)
    assert runner.facts()["provider"] == "CPUExecutionProvider"
    assert runner.facts()["intra_op_threads"] == "1"


def test_inputs_go_to_a_gpu_by_pinned_memory(nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is made once; shown on the processor, to which the runner is told to copy so."""
    made: list[Any] = []

    def pinned(array: Any) -> Any:
        made.append(np.zeros_like(array))
        return made[-1]

    monkeypatch.setattr(ort_session, "pinned_like", pinned)
    runner = ort_session.OnnxRuntimeRunner(nano, RunSpec("onnxruntime", 2, 1))
    first, second = np.random.default_rng(0).standard_normal((2, 2, 3, 64, 64), dtype=np.float32)
    runner.prepare(first)
    runner._run = replace(runner._run, device="cuda")
    runner.feed(first)
    runner.feed(second)
    runner.run()
    assert len(made) == 1 and np.array_equal(made[0], second)
    plain = onnxruntime.InferenceSession(nano, providers=["CPUExecutionProvider"])
    assert np.allclose(plain.run(None, {"image": second})[0], runner.outputs()[0], atol=1e-5)


def test_a_missing_provider_is_an_error(nano: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    with pytest.raises(StmdeployError, match="has no CUDAExecutionProvider") as error:
        ort_session.OnnxRuntimeRunner(nano, RunSpec("onnxruntime", 1, 1, "cuda"))
    assert error.value.code == ExitCode.WORKER_FAILED


@pytest.mark.parametrize(
    ("scopes", "part"),
    [
        (["", "stages.1", "stages.1.blocks.0", "stages.1.blocks.0.mlp", "gelu"], "stage 2 mlp"),
        (["", "stages.0", "stages.0.2", "stages.0.2.attn", "matmul"], "stage 1 mixer"),
        (["", "entries.0", "entries.0.norm", "sqrt"], "stem"),
        (["", "downsample_layers.3", "conv"], "stage 4 downsample"),
        (["", "head", "linear"], "head"),
        (["", "mean"], "top level"),
        (["", "stages", "stages.low", "conv2d"], "stages"),
        (["", "stages", "add"], "stages"),
        (["", "downsample_layers.down", "conv"], "downsample_layers"),
        ([], "top level"),
    ],
)
def test_where_a_node_belongs(scopes: list[str], part: str) -> None:
    assert onnx_graph.part_of(scopes) == part
