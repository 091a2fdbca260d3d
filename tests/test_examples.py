"""The examples, run as a reader would run them."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stmdeploy.cli.main import main
from tests.test_documentation import parse

EXAMPLES = Path(__file__).parents[1] / "examples"
QUICK = ["--budget-s", "0.3", "--processes", "3", "--no-explain", "--threads", "1", "--json"]
#: Runs the code of a notebook cell by cell, and shows what a cell ends with, as a kernel does.
KERNEL = """
import ast, sys, json
space = {"__name__": "__main__"}
for number, source in enumerate(json.load(sys.stdin)):
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, f"cell {number}", "exec"), space)
    if last is not None:
        value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), space)
        html = getattr(value, "_repr_html_", None)
        print("SHOWN", number, type(value).__name__, len(html() if html else repr(value)))
"""


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the examples, as the working folder."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path / "examples")
    return tmp_path / "examples"


def test_every_example_is_listed() -> None:
    told = (EXAMPLES / "README.md").read_text("utf-8")
    linked = set(re.findall(r"\]\(([^)/]+)/?[^)]*\)", told))
    assert {path.name for path in EXAMPLES.iterdir()} - {"README.md"} <= linked


@pytest.mark.nightly
def test_the_notebook_runs(examples: Path) -> None:
    """From its first cell to its last, in one process: rows, ratios, plots, an export, a check."""
    cells = json.loads((examples / "three_backbones.ipynb").read_text("utf-8"))["cells"]
    code = ["".join(one["source"]) for one in cells if one["cell_type"] == "code"]
    assert not any(one.get("outputs") for one in cells), "outputs are of the machine that runs it"
    done = subprocess.run(
        [sys.executable, "-P", "-c", KERNEL], input=json.dumps(code), cwd=examples, text=True,
        capture_output=True, check=False, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = re.findall(r"^SHOWN \d+ (\w+) (\d+)$", done.stdout, re.MULTILINE)
    assert [kind for kind, _ in shown] == [
        "Results", "DataFrame", "Figure", "Figure", "DataFrame", "float", "int",
    ]  # fmt: skip
    assert all(int(size) > 500 for kind, size in shown if kind not in ("float", "int"))
    assert "no change" in done.stdout or "cannot tell" in done.stdout


@pytest.mark.slow
def test_models_of_ones_own(
    examples: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(examples / "own_model")
    words = ["profile", "--model", "my_models:small", "--image-size", "64", "--batch", "1", *QUICK]
    assert main([*words, "--num-classes", "100"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert row["failure"] is None and row["stm"] == "custom"
    picked = ["export", "--model", "my_models:with_two_outputs", "--image-size", "64", "--json"]
    assert main(picked) == 2
    assert "name the output to take, as in --output logits" in capsys.readouterr().err
    assert main([*picked, "--output", "logits"]) == 0
    (made,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert made["model"]["num_classes"] == 10


def test_the_sweep_of_a_file(examples: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--sweep", str(examples / "sweep.toml"), "--dry-run", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert len(rows) == 3 * 2 * 2
    assert {row["runtime"] for row in rows} == {"onnxruntime", "torch"}


def test_the_workflow_for_github(examples: Path) -> None:
    """Its commands are understood; what is checked makes no baseline."""
    workflow: dict[str, Any] = yaml.safe_load((examples / "ci/github.yml").read_text("utf-8"))
    lines = {
        name: [step["run"] for step in job["steps"] if "run" in step]
        for name, job in workflow["jobs"].items()
    }
    for told in lines.values():
        for line in told:
            if line.startswith("stmdeploy "):
                parse(line.split()[1:])
    assert any(line.startswith("stmdeploy baseline create") for line in lines["baseline"])
    assert not any("baseline create" in line for line in lines["check"])
    assert workflow["jobs"]["check"]["if"] == "github.event_name == 'pull_request'"


@pytest.mark.nightly
def test_a_repository_for_triton(examples: Path) -> None:
    """Served it is not: there is no server here. The client's code is Python, at least."""
    bin_folder = Path(sys.executable).parent
    settings = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "SCALE": "nano"}
    done = subprocess.run(
        ["bash", "serve.sh"], cwd=examples / "triton", env=settings, text=True,
        capture_output=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert list((examples / "triton/repository").glob("*/config.pbtxt"))
    ast.parse((examples / "triton/client.py").read_text("utf-8"))
