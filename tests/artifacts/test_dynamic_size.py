"""One file for images of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stmdeploy.artifacts.verification import further_sizes
from stmdeploy.backbones.source import build_model
from stmdeploy.cli.main import main
from stmdeploy.plugins.progress import Silent
from stmdeploy.plugins.registry import exporters
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.model import CLASSIFICATION, DETECTION, ModelSpec, SizeRange
from stmdeploy.spec.run import RunSpec
from tests.fakes import RecordedProgress
from tests.sharing import SharedArtifacts, export_model

#: By day, with the target: the cheapest; those that fill windows up take minutes.
BY_DAY = {("convnext", CLASSIFICATION, "onnx")}
FAMILIES = [
    *((stm, DETECTION) for stm in ("halo", "pvt", "swin", "convnext", "dcn_v3")),
    *((stm, CLASSIFICATION) for stm in ("pvt", "pvt_v2", "convnext", "dcn_v3")),
]


def spec_of(stm: str, task: str) -> ModelSpec:
    size, classes = ((96, 160), None) if task == DETECTION else ((64, 64), 10)
    return ModelSpec(f"unified_{stm}_nano", size, classes, task=task)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stm", "task", "target"),
    [
        pytest.param(*one, marks=[] if one in BY_DAY else [pytest.mark.nightly])
        for target in ("onnx", "openvino")
        for one in ((*family, target) for family in FAMILIES)
    ],
)
def test_it_is_verified_at_sizes_of_all_kinds(
    artifacts: SharedArtifacts, stm: str, task: str, target: str
) -> None:
    """And gives what the module gives at one that nobody verified."""
    model = spec_of(stm, task)
    artifact = artifacts.exported(model, target, dynamic_size=True)
    manifest = artifact.manifest
    assert artifact.path.name.startswith(f"unified_{stm}_nano") and "dynamic" in artifact.path.name
    assert manifest.lowering == "reference" and manifest.cost is None
    assert manifest.inputs[0].shape == ("batch", 3, "height", "width")
    if task == DETECTION:
        assert [one.shape[2:] for one in manifest.outputs] == [
            (f"height/{stride}", f"width/{stride}") for stride in (4, 8, 16, 32)
        ]
    sizes = manifest.dynamic_size
    assert sizes is not None and sizes.step == 32
    assert (sizes.least, sizes.most) == ((64, 64), (1344, 1344))
    seen = [model.image_size, *(one.image_size for one in sizes.verified)]
    assert len(set(seen)) == len(seen) >= 3
    assert any(h != w and h // 32 % 7 and w // 32 % 7 for h, w in seen)
    assert max(one.relative_l2_error for one in sizes.verified) < 1e-5
    built, size = build_model(model, Silent()), (192, 96)
    images = np.random.default_rng(0).standard_normal((2, 3, *size), dtype=np.float32)
    run = RunSpec(exporters()[target].target.runtimes[0], 2, 1)
    runner = exporters()[target].load(artifact.path, run, lambda: built.module)
    runner.prepare(images)
    runner.run()
    with torch.inference_mode():
        given = built.at(size)(torch.from_numpy(images))
    for mine, theirs in zip(
        runner.outputs(), given if task == DETECTION else (given,), strict=True
    ):
        expected = theirs.numpy()
        assert mine.shape == expected.shape
        assert np.linalg.norm(mine - expected) / np.linalg.norm(expected) < 1e-5


@pytest.mark.slow
def test_a_dynamic_file_is_looked_at(
    artifacts: SharedArtifacts, capsys: pytest.CaptureFixture[str]
) -> None:
    path = artifacts.exported(spec_of("convnext", CLASSIFICATION), "onnx", dynamic_size=True).path
    assert main(["inspect", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "64x64 to 1344x1344 px, multiples of 32" in shown
    assert "224x224" in shown and "256x352" in shown


def test_the_sizes_that_are_verified() -> None:
    sizes = SizeRange((64, 64), (800, 1344), (1344, 1344))
    assert further_sizes(sizes) == ((64, 64), (224, 224), (256, 352))
    assert further_sizes(SizeRange((64, 64), (224, 224), (1344, 1344))) == ((64, 64), (256, 352))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--stm", "swin"], "unified_swin_nano takes images of one size only"),
        (
            ["--stm", "convnext", "--target", "torch"],
            "'torch' writes no file for images of any size",
        ),
        (["--stm", "convnext", "--lowering", "tokens"], "form 'tokens' is of one image size"),
        (
            ["--model", "torch.nn:Identity"],
            "takes the catalogue's backbones, not torch.nn:Identity",
        ),
    ],
)
def test_what_has_no_dynamic_size(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["export", *words, *(["--scale", "nano"] if "--stm" in words else [])]
    assert main([*given, "--dynamic-size", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert told in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("stm", ["halo", "pvt", "swin", "convnext", "dcn_v3"])
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_micro_at_the_size_of_the_published_aps(stm: str, target: str, tmp_path: Path) -> None:
    model = ModelSpec(f"unified_{stm}_micro", (800, 1344), task=DETECTION)
    made = export_model(ExportSpec(model, target, tmp_path, dynamic_size=True), RecordedProgress())
    sizes = made.manifest.dynamic_size
    assert sizes is not None and len(sizes.verified) == 3
    assert made.manifest.proof.relative_l2_error < 1e-5


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.parametrize("stm", ["halo", "pvt", "swin", "convnext", "dcn_v3"])
def test_tensorrt_rtx_takes_a_range_of_sizes(stm: str, tmp_path: Path) -> None:
    model = ModelSpec(f"unified_{stm}_nano", (96, 160), task=DETECTION)
    spec = ExportSpec(model, "tensorrt-rtx", tmp_path, "fp16", engine=EngineSpec((1, 1, 2)),
                      dynamic_size=True)  # fmt: skip
    artifact = export_model(spec, RecordedProgress())
    assert artifact.manifest.dynamic_size is not None
    assert artifact.manifest.engine is not None and artifact.path.stat().st_size > 10**5
    assert artifact.manifest.inputs[0].shape[2:] == ("height", "width")
