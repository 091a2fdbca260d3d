"""Bad input: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stmdeploy import create_backbone
from stmdeploy.cli.main import main
from stmdeploy.files.writing import sha256_of
from tests.backbones.test_checkpoint import Bomb

NANO = ["export", "--stm", "convnext", "--scale", "nano"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of every bad kind, and a good one."""
    folder = tmp_path_factory.mktemp("files")
    torch.save(create_backbone("convnext", "nano").state_dict(), folder / "good.pth")
    (folder / "cut.pth").write_bytes((folder / "good.pth").read_bytes()[:100_000])
    torch.save(create_backbone("pvt", "nano").state_dict(), folder / "pvt.pth")
    torch.save({"model": Bomb(folder / "ran")}, folder / "bomb.pth")
    (folder / "file").write_text("in the way")
    (folder / "wrong.toml").write_text("batches = [1]")
    (folder / "kind.toml").write_text('budget-s = "long"')
    return folder


@pytest.fixture(autouse=True)
def folder(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files, and an empty folder beside them to work in."""
    (files / "work").mkdir()
    monkeypatch.chdir(files / "work")
    yield files
    shutil.rmtree(files / "work")


def contents(folder: Path) -> dict[Path, str]:
    return {path: sha256_of(path) if path.is_file() else "" for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["export", "--stm", "hallo"], "unknown STM 'hallo'; did you mean 'halo'?"),
        (["export", "--stm", "halo", "--scale", "tinny"], "did you mean 'tiny'?"),
        (["export", "--stm", "unified_dcn_v3_tiny", "--scale", "base"], "is of scale 'tiny'"),
        (["export"], "give --stm"),
        (["baseline", "create", "--gpu", "none-such"], "unknown GPU 'none-such'"),
        (["baseline", "create", "--gpu", "a100,t4"], "--gpu a100,t4 needs a cluster"),
        (["export", "--stm", "dcn", "--target", "onx"], "did you mean 'onnx'?"),
        (["export", "--stm", "dcn", "--precision", "fp3"], "unknown precision 'fp3'"),
        ([*NANO, "--lowering", "low"], "unknown lowering 'low'"),
        ([*NANO, "--opset", "7"], "choose 19 to 23"),
        ([*NANO, "--opset", "many"], "should be a valid integer"),
        ([*NANO, "--image-size", "100"], "nearest that works is 96x96"),
        (["export", "--stm", "halo", "--image-size", "100"], "nearest that works is 224x224"),
        ([*NANO, "--image-size", "big"], "write 224 or HEIGHTxWIDTH"),
        ([*NANO, "--num-classes", "0"], "number of classes is 0"),
        ([*NANO, "--checkpoint", "../none.pth"], "no checkpoint file at ../none.pth"),
        ([*NANO, "--checkpoint", "../cut.pth"], "../cut.pth cannot be read"),
        ([*NANO, "--checkpoint", "../pvt.pth"], "does not fit the model"),
        ([*NANO, "--checkpoint", "../bomb.pth"], "nothing in it was run"),
        ([*NANO, "--checkpoint", "../file"], "is damaged or holds more than tensors"),
        (["export", "--stm", "halo,dcn", "--checkpoint", "../good.pth"], "cannot fit 2 models"),
        (["export", "--stm", "pvt_v2", "--checkpoint", "official"], "no official checkpoint"),
        ([*NANO, "--out", "../file"], "cannot write to ../file"),
        ([*NANO, "--out", "../file/deeper"], "cannot write to ../file/deeper: not a directory"),
        ([*NANO, "--out", "/proc/none"], "cannot write to /proc/none"),
        ([*NANO, "--checkpoint", ""], "--checkpoint is empty"),
        ([*NANO, "--image-size", "3200000"], "image side is 3200000; give at most 16384"),
        ([*NANO, "--image-size", "9" * 5000], "is not understood"),
        ([*NANO, "--num-classes", "1000000000000"], "give at most 1000000"),
        (["count", "--model", "sys:exit"], "the callable failed: SystemExit"),
        (["export", "--model", "halo"], "write package.module:callable"),
        (["profile", "--batch", "0"], "batch is 0"),
        (["profile", "--batch", "one"], "write whole numbers"),
        (["profile", "--threads", "0"], "threads is 0"),
        (["profile", "--image-size", "100"], "must be multiples of"),
        (["profile", "--runtime", "onnx"], "did you mean 'onnxruntime'?"),
        (["profile", "--budget-s", "-1"], "budget is -1.0"),
        (["profile", "--gpu", "a1000"], "did you mean 'a100'?"),
        (["profile", "--gpu", "rtx4090"], "this machine has no NVIDIA GeForce RTX 4090: it has"),
        (["profile", "--out", "../file"], "cannot write to ../file"),
        (["count", "--stm", "hallo"], "did you mean 'halo'?"),
        (["report"], "run `stmdeploy profile` first"),
        (["report", "--out", "../none"], "no results in ../none"),
        (["results", "list"], "run `stmdeploy profile` first"),
        (["results", "merge", "../none"], "no results in ../none"),
        (["results", "prune"], "nothing says what to prune"),
        (["profile", "--sweep", "../none"], "--sweep ../none: no such file"),
        (["profile", "--sweep", "../file"], "is not TOML"),
        (["profile", "--sweep", "../wrong.toml"], "unknown key 'batches'; did you mean 'batch'?"),
        (["profile", "--sweep", "../kind.toml"], "budget-s = 'long' is not understood"),
        (["profile", "--resume"], "no results in stmdeploy-results"),
        (["profile", "--resume", "--batch", "1"], "--resume takes no flags that describe rows"),
        (["profile", "--processes", "0"], "number of processes is 0"),
        (["profile", "--in-flight", "0"], "requests in flight is 0"),
        (["profile", "--scenario", "ofline"], "did you mean 'offline'?"),
        (["profile", "--scenario", "server", "--batch", "1"], "give --target-latency-ms"),
        (["profile", "--scenario", "single-stream"], "sends one image at a time, not 8"),
        (["profile", "--python", "/no/python"], "--python /no/python cannot be started"),
        (["profile", "--memory-limit-mib", "1"], "memory limit in MiB is 1"),
        (["profile", "--trace", "x"], "--trace needs --layers"),
        (["list", "colours"], "colours"),
        (["exprot"], "exprot"),
        (["export", "--stmm", "dcn"], "--stm"),
    ],
)
def test_one_line_exit_2_nothing_left(
    arguments: list[str], says: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(folder)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    complaint = captured.err.splitlines()[-1]
    assert says in complaint
    assert complaint.startswith("stmdeploy: ")
    assert captured.out == ""
    assert "Traceback" not in captured.err
    assert sum(line.startswith("stmdeploy: ") for line in captured.err.splitlines()) == 1
    assert contents(folder) == before


def test_the_good_checkpoint_is_good(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*NANO, "--target", "torch", "--checkpoint", "../good.pth"]) == 0
    assert "wrote stmdeploy-artifacts/" in capsys.readouterr().err
    assert (folder / "work" / "stmdeploy-artifacts").is_dir()


def test_no_arguments_print_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "stmdeploy: " not in capsys.readouterr().err


def test_a_crash_is_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stmdeploy.cli.listings.LISTINGS", {})
    assert main(["list"]) == 70
    assert "KeyError" in capsys.readouterr().err


def test_a_model_that_prints_keeps_stdout_clean(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "work" / "printing_rival.py").write_text(
        "from torch import nn\n"
        "def net():\n"
        "    print('hello')\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))\n"
    )
    assert main(["count", "--model", "printing_rival:net", "--image-size", "2", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["counts"][0]["macs"] == 60
    assert "hello" in captured.err
