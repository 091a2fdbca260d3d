"""Models that users have already, made by other tools, through the commands."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from stmdeploy.cli.main import main
from stmdeploy.results.store import Store
from tests.check.known import KnownPairs
from tests.foreign import SIZED, write_classifier, write_two_inputs

QUICK = ["--budget-s", "0.3", "--processes", "3", "--no-explain", "--threads", "1", "--json"]


@pytest.fixture
def model(here: Path) -> Path:
    """A file of two inputs, open sizes and two outputs."""
    return write_two_inputs(here / "cameras.onnx")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[Any, str]:
    """What a command gives as JSON, and what it said beside it."""
    assert main([*words]) == code
    out, err = capsys.readouterr()
    return json.loads(out) if out else None, err


def test_inspect_says_what_a_file_takes_and_costs(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, _ = said(capsys, "inspect", str(model), "--input", SIZED, "--json")
    assert found["state"] == "not verified" and found["verification"] is None
    assert [one["shape"] for one in found["inputs"]] == [["batch", 3, 64, 96], ["batch"]]
    assert [one["dtype"] for one in found["outputs"]] == ["float32", "int64"]
    first, second = 16 * 3 * 49 * 16 * 24, 32 * 16 * 9 * 8 * 12
    macs = {name: share["macs"] for name, share in found["cost"]["by_operator"].items()}
    assert macs["Conv"] == first + second and macs["MatMul"] == 320
    assert found["model"]["parameters"] == 16 * 3 * 49 + 32 * 16 * 9 + 320 + 128
    assert main(["inspect", str(model), "--input", SIZED]) == 0
    out = capsys.readouterr().out
    assert "photo, batchx3x64x96, float32" in out and "best, batch, int64" in out
    assert "not verified" in out and not list(model.parent.glob("*.json"))


def test_what_a_file_leaves_open_must_be_said(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, told in (
        ([], "leaves height, width open; give --input photo:1x3xHEIGHTxWIDTH"),
        (["--input", "foto:1x3x64x96"], "has no input 'foto'"),
        (["--input", "photo:1x3x64"], "has 4 dimensions, not 3"),
        (["--input", "photo:1x4x64x96"], "has a side of 3, not 4"),
        (["--input", f"{SIZED}:float16"], "takes float32, not float16"),
        (["--input", "photo"], "is not understood; write NAME:1x3x224x224"),
    ):
        _, err = said(capsys, "inspect", str(model), *words, code=2)
        assert told in err, words


@pytest.mark.slow
def test_profile_measures_files_beside_each_other(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deeper = write_two_inputs(model.with_name("deeper.onnx"), deeper=4)
    words = ["profile", model.name, deeper.name, "--input", SIZED, "--batch", "1,3"]
    found, err = said(capsys, *words, "--runtime", "onnxruntime,openvino", *QUICK)
    rows = found["rows"]
    assert len(rows) == 8 and all(row["failure"] is None for row in rows)
    assert {row["model"] for row in rows} == {model.name, deeper.name}
    assert {row["weights"] for row in rows} == {"file"}
    assert {(row["image_height_px"], row["image_width_px"]) for row in rows} == {(64, 96)}
    assert all(row["latency_ms_p50"] > 0 for row in rows)
    assert {row["lowering"] for row in rows} == {"file"}
    assert all(ratio["reference"].startswith(model.name) for ratio in found["ratios"])
    store = Store(Path("stmdeploy-results"))
    made = store.prepared(found["sweep"])[0].artifacts
    notes = [json.loads(Path(f"{one.path}.json").read_text())["notes"] for one in made if one.path]
    (compared,) = (note for some in notes for note in some)
    assert "outputs differ from ONNX Runtime's by" in compared
    assert f"{model.name} 64x96 on onnxruntime, fp32, batch 3: " in err


def test_a_precision_that_a_file_does_not_have_is_left_out(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--runtime", "onnxruntime,openvino", "--precision", "fp32,bf16"]
    words = ["profile", model.name, "--input", SIZED, "--batch", "1", "--dry-run", *both]
    found, err = said(capsys, *words, "--json")
    assert [(row["runtime"], row["precision"]) for row in found["rows"]] == [
        ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16"),
    ]  # fmt: skip
    assert "left out: cameras.onnx on onnxruntime in bf16" in err
    _, err = said(capsys, *words[:-4], "--precision", "int8", code=2)
    assert "cameras.onnx does not run on int8; it runs on: onnxruntime in fp32" in err


def test_a_combination_that_a_target_lacks_is_left_out_or_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["profile", "--stm", "convnext", "--precision", "fp32,bf16", "--dry-run"]
    words += ["--runtime", "onnxruntime,openvino", "--batch", "1"]
    found, err = said(capsys, *words, "--json")
    assert len(found["rows"]) == 3 and "left out: onnxruntime in bf16" in err
    assert "scale tiny, as none was given (--scale)" in err
    _, err = said(capsys, *words, "--strict", code=2)
    assert "bf16" in err and not list(here.iterdir())


def test_an_export_leaves_out_what_a_target_lacks(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--stm", "convnext", "--scale", "nano", "--image-size", "32"]
    words += ["--num-classes", "10", "--target", "onnx,openvino", "--precision", "bf16"]
    _, err = said(capsys, *words, "--strict", code=2)
    assert "bf16" in err and not list(here.iterdir())
    found, err = said(capsys, *words, "--json")
    assert [one["target"] for one in found["artifacts"]] == ["openvino"]
    assert "left out: onnx in bf16" in err


def test_a_file_of_one_batch_keeps_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_classifier(here / "four.onnx", batch=4)
    words = ["profile", path.name, "--dry-run", "--json"]
    found, _ = said(capsys, *words)
    assert [row["batch"] for row in found["rows"]] == [4]
    _, err = said(capsys, *words, "--batch", "8", code=2)
    assert "four.onnx takes 4 images per inference; leave --batch out" in err
    found, _ = said(capsys, "inspect", path.name, "--json")
    (conv,) = (one for one in found["operations"] if one["operator"] == "Conv")
    assert conv["macs"] == 2 * 3 * 32 * 32, "of one image"


@pytest.mark.slow
def test_check_compares_two_files(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    deeper = write_two_inputs(model.with_name("deeper.onnx"), deeper=8)
    words = ["--input", SIZED, "--threads", "1", "--json"]
    found, _ = said(capsys, "check", model.name, deeper.name, *words, code=1)
    (row,) = found["rows"]
    assert found["way"] == "files" and row["verdict"] == "regression"
    assert row["name"] == "cameras.onnx > deeper.onnx/onnxruntime/fp32/batch1"
    assert row["slowdown_percent_low"] > 5 and "relative L2 apart" in " ".join(row["advice"])
    KnownPairs().install(monkeypatch)
    found, _ = said(capsys, "check", model.name, model.name, *words)
    (row,) = found["rows"]
    assert row["verdict"] == "no change" and "outputs are equal" in " ".join(row["advice"])


@pytest.mark.nightly
def test_a_file_of_logits_races_within_limits_and_with_more_threads(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenVINO's 16 bits are tested over images; rows that differ in threads alone are two."""
    openvino = pytest.importorskip("openvino")
    path = write_classifier(here / "colours.onnx")
    words = ["tune", path.name, "--runtime", "onnxruntime,openvino", "--max-error", "0.05"]
    words += ["--held-out", "64", "--no-settings", "--threads", "1", "--budget-s", "10", "--json"]
    (one,) = said(capsys, *words)[0]["tuned"]
    low = [c for c in one["candidates"] if c["precision"] == "bf16"]
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert low and all(c["limits"]["images"] == 64 for c in low)
    else:
        assert {c["state"] for c in low} == {"failed"}
    words = ["check", path.name, path.name, "--threads", "1,2", "--threshold-percent", "300"]
    rows = said(capsys, *words, "--budget-s", "10", "--json")[0]["rows"]
    assert [row["name"].split("/")[-1] for row in rows] == ["threads1", "threads2"]


@pytest.mark.slow
def test_a_baseline_of_a_file(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once, and compared with what the file has become."""
    with monkeypatch.context() as patch:
        KnownPairs().install(patch)
        make_and_check_again(model, capsys)
    deeper = write_two_inputs(model.with_name("deeper.onnx"), deeper=8)
    found, _ = said(capsys, "check", "kept.tar.gz", deeper.name, "--json", code=1)
    assert found["way"] == "artifacts" and found["rows"][0]["verdict"] == "regression"


def make_and_check_again(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["baseline", "create", model.name, "--input", SIZED, "--batch", "1", "--threads", "1"]
    made, _ = said(capsys, *words, "--budget-s", "0.3", "--out", "kept.tar.gz", "--json")
    assert [row["name"] for row in made["rows"]] == ["cameras.onnx/onnxruntime/fp32/batch1"]
    # Exported again it reads the file of that name, which whoever gave us the baseline chose.
    _, err = said(capsys, "check", "kept.tar.gz", code=2)
    assert "kept.tar.gz wants to read a file: cameras.onnx" in err
    found, _ = said(capsys, "check", "kept.tar.gz", "--trust", "--json")
    assert found["rows"][0]["verdict"] == "no change"


def test_check_says_what_two_files_need(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, err = said(capsys, "check", model.name, code=2)
    assert "name the file to compare it with" in err
    other = write_classifier(model.with_name("colours.onnx"))
    _, err = said(capsys, "check", other.name, model.name, "--input", SIZED, code=2)
    assert "colours.onnx has no input 'photo'" in err or "takes" in err
    _, err = said(capsys, "check", "stmdeploy-baseline", "--batch", "2", code=2)
    assert "--batch is of two files" in err


@pytest.mark.slow
def test_tune_races_the_ways_of_a_file(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tune", model.name, "--input", SIZED, "--runtime", "onnxruntime,openvino"]
    words += ["--threads", "1", "--no-settings", "--within-percent", "100", "--budget-s", "30"]
    found, _ = said(capsys, *words, "--json")
    (one,) = found["tuned"]
    assert {c["runtime"] for c in one["candidates"]} == {"onnxruntime", "openvino"}
    assert {c["precision"] for c in one["candidates"]} == {"fp32"}
    told = tomllib.loads(Path(one["config"]).read_text())
    assert told["runtime"] == one["candidates"][0]["runtime"] and "stm" not in told
    again = ["profile", model.name, "--input", SIZED, "--config", one["config"]]
    rows, _ = said(capsys, *again, "--budget-s", "0.3", "--no-explain", "--json")
    assert [row["runtime"] for row in rows["rows"]] == [told["runtime"]]
    _, err = said(capsys, *words, "--max-error", "0.02", code=2)
    assert "does not map images to logits alone, so no limit can be tested" in err


@pytest.mark.slow
def test_evaluate_measures_the_accuracy_of_a_file(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_classifier(here / "colours.onnx")
    for name, colour in (("blue", (0, 0, 255)), ("red", (255, 0, 0))):
        (here / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 40), colour).save(here / "photos" / name / f"{i}.png")
    Path("classes.json").write_text(json.dumps({"red": 0, "blue": 1}))
    words = ["evaluate", path.name, "--data", "photos", "--class-map", "classes.json", "--json"]
    for runtime in ("onnxruntime", "openvino"):
        found, _ = said(capsys, *words, "--runtime", runtime)
        (one,) = found["evaluations"]
        assert one["top1"]["percent"] == 100.0 and one["images"] == 8
        assert one["model"] == "colours.onnx" and one["runtime"] == runtime
    _, err = said(
        capsys, "evaluate", str(write_two_inputs(here / "two.onnx")), "--data", "photos",
        "--input", SIZED, code=2,
    )  # fmt: skip
    assert "does not map one input to one row of logits per image" in err


@pytest.mark.slow
def test_files_of_openvino_and_artifacts_are_files_too(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import openvino

    graph = openvino.convert_model(model)
    openvino.save_model(graph, "saved.xml", compress_to_fp16=False)
    found, _ = said(capsys, "inspect", "saved.xml", "--input", SIZED, "--json")
    assert found["target"] == "openvino" and found["inputs"][0]["shape"] == ["batch", 3, 64, 96]
    rows, _ = said(capsys, "profile", "saved.xml", "--input", SIZED, "--batch", "2", *QUICK)
    assert [row["runtime"] for row in rows["rows"]] == ["openvino"]
    assert [row["failure"] for row in rows["rows"]] == [None]
    shape = ["--stm", "convnext", "--scale", "nano", "--image-size", "32", "--num-classes", "10"]
    assert main(["export", *shape, "--out", "mine"]) == 0
    capsys.readouterr()
    (mine,) = Path("mine").glob("*.onnx")
    rows, _ = said(capsys, "profile", str(mine), "--batch", "1", *QUICK)
    (row,) = rows["rows"]
    assert (row["stm"], row["scale"], row["weights"]) == ("convnext", "nano", "synthetic")
    assert row["relative_l2_error"] < 1e-5
    _, err = said(capsys, "profile", str(mine), "--input", "image:1x3x32x32", code=2)
    assert "is an artifact whose manifest says what it takes" in err


def test_a_program_runs_only_if_it_is_one(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "thing.pt2").write_bytes(b"no archive")
    _, err = said(capsys, "inspect", "thing.pt2", code=2)
    assert "does not say what it takes; give --input NAME:1x3x224x224:float32" in err
    _, err = said(capsys, "inspect", "thing.pt2", "--input", "x:1x3x8x8", code=2)
    assert "thing.pt2 is not compiled by AOTInductor" in err
    (here / "thing.gguf").write_bytes(b"?")
    _, err = said(capsys, "inspect", "thing.gguf", code=2)
    assert "is of no kind that is known here; give one of: *.engine, *.onnx, *.pt2, *.xml" in err


def test_damaged_and_reaching_files_are_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = model.read_bytes()
    cut = model.with_name("cut.onnx")
    cut.write_bytes(whole[: len(whole) // 2])
    _, err = said(capsys, "inspect", "cut.onnx", "--input", SIZED, code=2)
    assert "is not an ONNX graph" in err
    secret = model.parent / "secret"
    secret.write_bytes(bytes(64))
    (model.parent / "inner").mkdir()
    graph = onnx.load(model)
    first = graph.graph.initializer[0]
    first.ClearField("raw_data")
    first.data_location = onnx.TensorProto.EXTERNAL
    first.external_data.add(key="location", value="../secret")
    onnx.save(graph, model.parent / "inner" / "reaching.onnx")
    _, err = said(capsys, "inspect", "inner/reaching.onnx", "--input", SIZED, code=2)
    assert "keeps weights in '../secret', which is no file beside it" in err
    assert sorted(p.name for p in (model.parent / "inner").iterdir()) == ["reaching.onnx"]


def test_weights_in_a_file_beside_the_graph(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_two_inputs(here / "plain.onnx")
    graph = onnx.load(path)
    onnx.save(
        graph, here / "split.onnx", save_as_external_data=True, location="split.data",
        size_threshold=0,
    )  # fmt: skip
    found, _ = said(capsys, "inspect", "split.onnx", "--input", SIZED, "--json")
    assert [file["name"] for file in found["files"]] == ["split.onnx", "split.data"]
    assert found["model"]["parameters"] == np.sum(
        [np.prod(one.dims) for one in graph.graph.initializer]
    )
