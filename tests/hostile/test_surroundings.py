"""A machine that lacks what a program expects: no home, no room, few files, somebody beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from stmdeploy import StmdeployError
from stmdeploy.backbones.checkpoint import locate_checkpoint
from stmdeploy.cli.main import main
from stmdeploy.files.places import cache_folder, temporary_folder
from stmdeploy.plugins.progress import Silent
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import file_info, manifest_path, read_artifact
from tests.hostile.good import SWEEP_ID, Good

NET = ["--stm", "convnext", "--scale", "nano", "--image-size", "32", "--num-classes", "10"]
READERS = (["list"], ["hardware", "list"], ["results", "show"], ["report", "--html", "r.html"])


def stmdeploy(
    folder: Path, *words: str, before: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """A command in a folder, by a shell that limits it first."""
    return subprocess.run(
        ["bash", "-c", f'{before} exec "$0" -m stmdeploy "$@"', sys.executable, *words],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **environment},
    )  # fmt: skip


def one_line(done: subprocess.CompletedProcess[str], *codes: int) -> str:
    """What it said; neither a traceback nor a verdict."""
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode in codes, (done.returncode, done.stderr)
    return done.stderr


@pytest.fixture
def store(good: Good, tmp_path: Path) -> Path:
    """A folder with a store."""
    shutil.copytree(good.store, tmp_path / "stmdeploy-results")
    return tmp_path


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as where nothing tells
    with pytest.raises(StmdeployError, match="neither XDG_CACHE_HOME nor HOME"):
        cache_folder()
    assert main(["hardware", "list"]) == 0
    with pytest.raises(StmdeployError, match="set XDG_CACHE_HOME"):
        locate_checkpoint("https://x.invalid/w.pth", Silent())


@pytest.mark.parametrize("words", READERS)
@pytest.mark.parametrize("limit", [8, 16])
def test_with_few_files(store: Path, words: list[str], limit: int) -> None:
    done = stmdeploy(store, *words, before=f"ulimit -n {limit};")
    # With eight not even the interpreter finds its modules, which is its own to say.
    if "Fatal Python error" not in done.stderr and "ModuleNotFoundError" not in done.stderr:
        one_line(done, 0, 2, 5)
    assert done.returncode != 1 or limit == 8


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("words", [*READERS[2:], ["results", "prune", "--keep", "0"],
                                   ["export", *NET, "--out", "stmdeploy-results"]])  # fmt: skip
def test_a_folder_that_is_read_only(store: Path, words: list[str]) -> None:
    mount = f"mount --bind {store} {store} && mount -o remount,bind,ro {store};"
    script = f'{mount} cd {store}; exec "$0" -m stmdeploy "$@"'
    command = ["unshare", "--mount", "bash", "-c", script, sys.executable, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("this container may not mount")
    assert "cannot write to" in one_line(done, 2)


def test_without_a_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    with pytest.raises(StmdeployError, match="no folder for temporary files"):
        temporary_folder()


@pytest.mark.nightly
def test_two_exports_into_one_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stmdeploy", "export", *NET, "--target", "torch"]
    both = [subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]  # fmt: skip
    for one in both:
        _, said = one.communicate()
        assert one.returncode == 0, said
    (artifact,) = (tmp_path / "stmdeploy-artifacts").glob("*.pt")
    read_artifact(artifact)
    assert len(list(artifact.parent.iterdir())) == 2


def test_two_who_prune_and_show_one_store(store: Path) -> None:
    prune = [sys.executable, "-m", "stmdeploy", "results", "prune", SWEEP_ID]
    show = [sys.executable, "-m", "stmdeploy", "results", "show", SWEEP_ID]
    both = [
        subprocess.Popen(words, cwd=store, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                         text=True)
        for words in (prune, show, prune)
    ]  # fmt: skip
    for one in both:
        _, said = one.communicate()
        assert one.returncode in (0, 2) and "Traceback" not in said, said
    assert Store(store / "stmdeploy-results").sweeps() == ()


def endless(path: Path, good: Good) -> None:
    """An ONNX file that computes for ever, with a manifest that is right."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Relu", ["x"], ["y"])],
        "body",
        [helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
         helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
         helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )  # fmt: skip
    value = helper.make_tensor_value_info
    shapes: dict[str, list[str | int | None]] = {
        "image": ["batch", 3, 32, 32], "logits": ["batch", 10]
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("ReduceMean", ["image", "axes"], ["small"], keepdims=0),
         helper.make_node("MatMul", ["small", "wide"], ["start"]),
         helper.make_node("Loop", ["most", "yes", "start"], ["logits"], body=body)],
        "endless",
        [value("image", onnx.TensorProto.FLOAT, shapes["image"])],
        [value("logits", onnx.TensorProto.FLOAT, shapes["logits"])],
        [helper.make_tensor("most", onnx.TensorProto.INT64, [], [2**62]),
         helper.make_tensor("yes", onnx.TensorProto.BOOL, [], [True]),
         helper.make_tensor("axes", onnx.TensorProto.INT64, [2], [2, 3]),
         helper.make_tensor("wide", onnx.TensorProto.FLOAT, [3, 10], np.ones(30).tolist())],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path)
    manifest = read_artifact(good.artifact).manifest
    manifest = manifest.model_copy(update={"files": (file_info(path),)}).sealed()
    manifest_path(path).write_text(manifest.model_dump_json())


@pytest.mark.slow
def test_a_graph_without_end_is_ended(
    good: Good, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    endless(tmp_path / "a.onnx", good)
    (tmp_path / "map.json").write_text('{"class0": 0, "class1": 1, "class2": 2}')
    words = ["evaluate", "a.onnx", "--data", str(good.images), "--class-map", "map.json",
             "--timeout-s", "5"]  # fmt: skip
    assert main(words) == 5
    assert "took longer than 5 s and was ended" in capsys.readouterr().err
