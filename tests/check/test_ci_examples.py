"""The GitHub Action and the GitLab example: their own steps, run here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.check.conftest import Made

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


#: The program itself, but for the clock.
STMDEPLOY = f"""\
#!{sys.executable}
import sys

import pytest

sys.path.insert(0, {str(ROOT)!r})
from stmdeploy.cli.main import main
from tests.check.known import KnownPairs

KnownPairs().install(pytest.MonkeyPatch())
sys.exit(main())
"""


@pytest.fixture(autouse=True)
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a runner has installed: `stmdeploy`, then the interpreter's own programs."""
    program = tmp_path / "bin" / "stmdeploy"
    program.parent.mkdir()
    program.write_text(STMDEPLOY)
    program.chmod(0o755)
    here = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{program.parent}:{here}:{os.environ['PATH']}")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, **more}


def run_action(folder: Path, summary: Path, **inputs: str) -> subprocess.CompletedProcess[str]:
    """The steps of action.yml in order, as a runner would; the last one's result."""
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    known = {name: given.get("default", "") for name, given in action["inputs"].items()}
    assert inputs.keys() <= known.keys()
    values = {**known, **inputs}

    def filled(text: str) -> str:
        return re.sub(r"\$\{\{ *inputs\.(\w+) *\}\}", lambda found: values[found[1]], text)

    assert action["runs"]["using"] == "composite"
    for step in action["runs"]["steps"]:
        assert step["shell"] == "bash"
        assert "${{" not in step["run"], "an input in a script is a way in for whoever writes it"
        more = {name: filled(value) for name, value in step.get("env", {}).items()}
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=folder, capture_output=True, text=True, check=False,
            env=environment(GITHUB_ACTIONS="true", GITHUB_STEP_SUMMARY=str(summary), **more),
        )  # fmt: skip
        if done.returncode:
            break
    return done


def test_the_action(in_its_folder: Made, tmp_path: Path) -> None:
    summary = tmp_path / "summary.md"
    wanted = {"baseline": "baseline.tar.gz", "install": "none"}
    done = run_action(
        in_its_folder.folder, summary, candidate="baseline", arguments="--threshold-percent 60",
        junit=str(tmp_path / "a b.xml"), html=str(tmp_path / "page.html"), **wanted,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 no change" in summary.read_text()
    assert (tmp_path / "a b.xml").is_file() and (tmp_path / "page.html").is_file()
    done = run_action(
        in_its_folder.folder, summary, candidate=str(in_its_folder.slowed),
        arguments="--threshold-percent 60", junit=str(tmp_path / "x.xml"),
        html=str(tmp_path / "x.html"), **wanted,
    )  # fmt: skip
    assert done.returncode == 1
    assert "::error title=stmdeploy%3A regression::" in done.stdout
    assert summary.read_text().count("### Latency") == 2


@pytest.mark.nightly
def test_the_gitlab_example(in_its_folder: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: dict[str, Any] = yaml.safe_load((ROOT / "examples/ci/gitlab-ci.yml").read_text())
    job, variables = jobs["latency"], jobs[".stmdeploy"]["variables"]
    assert job["cache"]["policy"] == "pull", "what is checked makes no baseline"
    assert job["artifacts"]["reports"]["junit"] == "stmdeploy-check.xml"
    (install,) = jobs[".stmdeploy"]["before_script"]
    assert install == 'python -m pip install "$STMDEPLOY"'
    assert jobs["latency-baseline"]["cache"]["paths"] == [variables["BASELINE"]]
    monkeypatch.chdir(in_its_folder.folder)
    # A model of the test's instead of a backbone, so that it takes seconds.
    model = "--model check_rivals:net --image-size 64 --threads 1 --budget-s 0.1"
    for name, more in (("latency-baseline", model), ("latency", "--threshold-percent 60 --trust")):
        script = "\n".join(jobs[name]["script"]).replace("--stm convnext --scale micro", "")
        done = subprocess.run(
            ["bash", "-eo", "pipefail", "-c", f"{script} {more}"], text=True,
            capture_output=True, check=False, env=environment(**variables),
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for name in ("stmdeploy-check.xml", "stmdeploy-check.html"):
        assert (in_its_folder.folder / name).is_file()
