"""No library opens a connection: the kernel ends whatever process asks for an internet socket."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile import offline
from tests.hostile.good import Good

pytestmark = pytest.mark.skipif(not offline.possible(), reason="no seccomp filter for this machine")

NET = ["--stm", "convnext", "--scale", "nano", "--image-size", "32", "--num-classes", "10"]
FAST = ["--budget-s", "0.1", "--processes", "1", "--batch", "1"]
BOTH = ["--runtime", "onnxruntime,openvino"]


def run(folder: Path, *words: str) -> None:
    """A command, all of whose processes are without a network."""
    command = [sys.executable, "-m", "tests.hostile.offline", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False,
                          env=offline.environment())  # fmt: skip
    assert done.returncode == 0, f"{words}: {done.returncode}: {done.stderr[-2000:]}"


def test_the_guard_works(tmp_path: Path) -> None:
    """Else nothing below could fail."""
    code = f"import socket; socket.socket(socket.{socket.AF_INET.name}); print('through')"
    command = [sys.executable, "-c", f"from tests.hostile import offline; offline.guard(); {code}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False,
                          env=offline.environment())  # fmt: skip
    assert done.returncode == -signal.SIGSYS
    assert "through" not in done.stdout


@pytest.mark.slow
def test_profile_and_report_open_no_connection(tmp_path: Path) -> None:
    run(tmp_path, "profile", *NET, *FAST, "--no-explain")
    run(tmp_path, "report", "--markdown")


@pytest.mark.nightly
def test_other_runtimes_bounds_and_parts_open_no_connection(tmp_path: Path) -> None:
    run(tmp_path, "profile", *NET, *FAST, *BOTH)
    run(tmp_path, "report", "--figures", "figures")


@pytest.mark.nightly
def test_exports_open_no_connection(tmp_path: Path) -> None:
    """NNCF and OpenVINO's converter report to their makers, if they are let."""
    few = ["--target", "openvino", "--precision", "int8", "--calibration-images", "1"]
    run(tmp_path, "export", *NET, *few)


@pytest.mark.nightly
@pytest.mark.parametrize("target", ["torch", "tensorrt-rtx", "aotinductor"])
def test_exports_to_other_targets_open_no_connection(tmp_path: Path, target: str) -> None:
    run(tmp_path, "export", *NET, "--target", target)


@pytest.mark.slow
def test_an_evaluation_opens_no_connection(tmp_path: Path, good: Good) -> None:
    (tmp_path / "map.json").write_text('{"class0": 0, "class1": 1, "class2": 2}')
    run(tmp_path, "evaluate", str(good.artifact), "--data", str(good.images), "--class-map",
        "map.json")  # fmt: skip
