"""What only shows in a process of its own: imports, signals, pipes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "pandas",
    "numpy",
    "fvcore",
    "pyarrow",
    "sqlalchemy",
)


def imported_by(code: str) -> set[str]:
    """Top-level packages that are loaded once the code has run."""
    silence = "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n    "
    report = "import json, sys; print(json.dumps(sorted({m.split('.')[0] for m in sys.modules})))"
    command = [sys.executable, "-c", f"{silence}{code}\n{report}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(json.loads(result.stdout))


@pytest.mark.parametrize(
    "arguments", [["--help"], ["export", "--help"], ["check", "--help"], ["--version"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    loaded = imported_by(f"from stmdeploy.cli.main import main; main({arguments})")
    assert not loaded & set(HEAVY)


def test_list_imports_no_engine() -> None:
    loaded = imported_by("from stmdeploy.cli.main import main; main(['list', 'targets'])")
    assert not loaded & {"torch", "onnx", "onnxruntime", "onnxscript", "pandas", "fvcore"}


def test_report_imports_no_engine(tmp_path: Path) -> None:
    Store(tmp_path, create=True).add_sweep("s", "{}", [("a", "A")])
    command = ["report", "--out", str(tmp_path)]
    loaded = imported_by(f"from stmdeploy.cli.main import main; assert main({command}) == 2")
    assert not loaded & {"torch", "onnx", "onnxruntime", "onnxscript", "fvcore"}


def test_a_check_imports_no_engine(tmp_path: Path) -> None:
    command = ["check", str(tmp_path / "none")]
    loaded = imported_by(f"from stmdeploy.cli.main import main; assert main({command}) == 2")
    assert not loaded & {"torch", "onnx", "onnxruntime", "onnxscript", "fvcore", "scipy", "jinja2"}


def test_public_api_is_light() -> None:
    assert not imported_by("import stmdeploy; stmdeploy.list_backbones()") & set(HEAVY)


def test_python_m_and_exit_codes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stmdeploy"]
    good = subprocess.run([*command, "list", "--json"], capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert json.loads(good.stdout)["backbones"]
    bad = subprocess.run(
        [*command, "export", "--stm", "x"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert bad.returncode == 2
    assert bad.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", ["list", "list --json", "--help"])
def test_a_closed_pipe_is_quiet(arguments: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m stmdeploy {arguments} | true"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    assert result.returncode in (0, 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_stdout_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "stmdeploy", "list", "--json"]
        result = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 2
    assert result.stderr.startswith("stmdeploy: cannot write to stdout: no space left")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("streams", "codes"),
    [
        ("2>/dev/full", {0, 2}), (">/dev/full 2>/dev/full", {2}), (">&-", {2, 141}),
        ("2>&-", {0, 2}), (">&- 2>&-", {2, 141}), ("<&- 2>/dev/full", {0, 2}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("words", ["results show --out none", "export --stm none", "--help"])
def test_streams_that_are_full_or_closed_are_no_regression(
    streams: str, codes: set[int], words: str, tmp_path: Path
) -> None:
    """Nor a traceback: 1 is a verdict, and nothing but a verdict."""
    command = f"{sys.executable} -m stmdeploy {words} {streams}"
    result = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode in codes | {70}
    assert result.returncode != 1
    assert "Traceback" not in result.stderr + result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(signal.SIGINT, marks=pytest.mark.nightly),
        pytest.param(signal.SIGTERM, marks=pytest.mark.nightly),
        signal.SIGHUP,
    ],
)
def test_an_interrupted_profile_keeps_its_rows(sent: signal.Signals, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [
        "profile",
        "--stm",
        "convnext",
        "--scale",
        "nano",
        "--image-size",
        "32",
        "--no-explain",
        "--runtime",
        "torch",
        "--batch",
        "1,2,3",
        "--budget-s",
        "2",
        "--out",
        str(out),
    ]
    environment = {**os.environ, "STMDEPLOY_TEST_TAG": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "stmdeploy", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # A shell that runs this in its background, or nohup, has told it to ignore some.
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 600
    while not rows_in(out):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(sent)
    stdout, stderr = process.communicate(timeout=600)
    assert process.returncode == 130
    assert stdout == ""
    assert "interrupted" in stderr
    assert "go on with: stmdeploy profile --resume" in stderr
    assert "Traceback" not in stderr
    assert len(rows_in(out)) == 3, "a wave is stored whole"
    (sweep,) = Store(out).sweeps()
    assert sweep.unfinished, "and was not the last"
    assert not list(out.glob(".stmdeploy-partial-*"))
    while processes_tagged(str(tmp_path)):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.1)


def rows_in(out: Path) -> tuple[Row, ...]:
    """The rows of the one sweep of a store, if there is one yet."""
    try:
        store = Store(out)
        return store.rows(store.find_sweep(None).id)
    except StmdeployError:
        return ()


def processes_tagged(tag: str) -> list[int]:
    """Live processes that inherited the tag in their environment."""
    tagged = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if tag.encode() in (folder / "environ").read_bytes():
                tagged.append(int(folder.name))
        except OSError:
            continue
    return tagged
