"""An exporter of somebody else's: a package of its own, which this project knows nothing of."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PACKAGE = Path(__file__).parents[2] / "examples/own_exporter"
SMALL = ("--stm", "convnext", "--scale", "nano", "--image-size", "32", "--num-classes", "10")
QUICK = ("--runtime", "saved", "--batch", "1", "--budget-s", "0.2", "--threads", "1")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has it, built and installed by pip."""
    source, place = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(PACKAGE, source / "package")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
        "--no-index", "--target", str(place), str(source / "package"),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(place)}


@pytest.fixture
def stmdeploy(installed: dict[str, str], tmp_path: Path) -> Any:
    """Runs a command there, and reads its document."""

    def run(*words: str) -> Any:
        command = [sys.executable, "-P", "-m", "stmdeploy", *words, "--json"]
        done = subprocess.run(
            command, env=installed, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_it_is_small() -> None:
    assert len((PACKAGE / "saved_programs.py").read_text().splitlines()) < 80


@pytest.mark.slow
def test_it_is_found_listed_and_measured(stmdeploy: Any) -> None:
    listed = {one["target"]: one for one in stmdeploy("list", "targets")["targets"]}
    assert listed["saved"]["runtimes"] == ["saved"] and not listed["saved"]["unavailable"]
    promised = stmdeploy("list", "promises")["promises"]
    assert {p["precision"] for p in promised if p["target"] == "saved" and p["claim"] == "yes"}
    (row,) = stmdeploy("profile", *SMALL, *QUICK, "--processes", "1", "--no-explain")["rows"]
    assert row["failure"] is None and row["latency_ms_p50"] > 0


@pytest.mark.nightly
def test_it_is_exported_to_and_checked(stmdeploy: Any) -> None:
    """A baseline is measured in waves of fresh processes, each of which imports torch."""
    (made,) = stmdeploy("export", *SMALL, "--target", "saved", "--out", "made")["artifacts"]
    assert made["state"] == "verified" and made["verification"]["runtime"].startswith("saved")
    stmdeploy("baseline", "create", *SMALL, *QUICK, "--out", "baseline")
    words = ("--budget-s", "200", "--threshold-percent", "1000")
    (checked,) = stmdeploy("check", "baseline", "made", *words)["rows"]
    assert checked["verdict"] in ("no change", "improvement")
