"""The wheel, installed without the sources: what a user gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.metadata import Metadata

ROOT = Path(__file__).parents[1]
#: Files that are no Python, which a wheel would lack if nobody named them.
DATA = (
    "stmdeploy/py.typed",
    "stmdeploy/backbones/catalogue.toml",
    "stmdeploy/artifacts/promises.toml",
    "stmdeploy/check/formats/page.html.j2",
    "stmdeploy/report/assets/report.html.j2",
    "stmdeploy/report/assets/plots.js",
    "stmdeploy/profiles/a100-40gb.toml",
    "stmdeploy/exporters/cuda_kernels.toml",
)


def run(*words: str | Path, cwd: Path) -> str:
    """The output of a command that must not fail."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, check=False, env=clean
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def sources_in(folder: Path) -> Path:
    """A copy of what a package is made of."""
    sources = folder / "sources"
    sources.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    for name in ("stmdeploy", "exporters", "profiles"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    return sources


@pytest.mark.slow
def test_a_wheel_is_made_of_the_source_distribution(tmp_path: Path) -> None:
    """The same one that the sources give; its metadata are valid, as twine would have them."""
    sources, built = sources_in(tmp_path), tmp_path / "built"
    hook = "import sys, setuptools.build_meta as b; print(b.build_sdist(sys.argv[1]))"
    run(sys.executable, "-c", hook, built, cwd=sources)
    (archive,) = built.glob("stmdeploy-*.tar.gz")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert all((unpacked / name).is_file() for name in ("README.md", "LICENSE", "pyproject.toml"))
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w")
    names = []
    for number, source in enumerate((sources, unpacked)):
        run(*pip, tmp_path / str(number), source, cwd=tmp_path)
        (wheel,) = (tmp_path / str(number)).glob("*.whl")
        with zipfile.ZipFile(wheel) as opened_wheel:
            names.append(sorted(opened_wheel.namelist()))
            (about,) = (name for name in names[-1] if name.endswith("METADATA"))
            metadata = Metadata.from_email(opened_wheel.read(about), validate=True)
    assert names[0] == names[1]
    assert metadata.description and metadata.description.startswith("# stmdeploy")
    wanted = metadata.requires_python
    assert wanted is not None and wanted.contains("3.12.0") and not wanted.contains("3.10.0")
    assert metadata.license_expression == "MIT"


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, and an empty folder."""

    wheel: Path
    python: Path
    site: Path
    folder: Path

    def run(self, *words: str) -> str:
        """The output of a command."""
        return run(self.python, *words, cwd=self.folder)


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    """It has the dependencies of this environment, but not its stmdeploy: its path is no site
    folder, so that what points to the sources is not read."""
    sources, built = sources_in(tmp_path), tmp_path / "built"
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", built, sources, cwd=tmp_path)
    (wheel,) = built.glob("stmdeploy-*.whl")
    venv.create(tmp_path / "env", with_pip=False)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(*pip, "install", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    here = tmp_path / "here"
    here.mkdir()
    return Installed(wheel, tmp_path / "env" / "bin" / "python", site, here)


#: A model, and how it is run; `nano` is of the catalogue that the environment names.
JOB = "--stm convnext --scale nano --image-size 32 --num-classes 10 --batch 1".split()


@pytest.mark.slow
def test_the_wheel_works_without_the_sources(installed: Installed) -> None:
    with zipfile.ZipFile(installed.wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith("METADATA"))
        about = archive.read(metadata).decode()
    assert set(DATA) <= names
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/")) for name in names)
    assert "Description-Content-Type: text/markdown" in about
    assert "License-Expression: MIT" in about
    told = installed.run("-c", "import stmdeploy; print(stmdeploy.__file__)")
    assert Path(told.strip()).is_relative_to(installed.site)
    quick = "--budget-s 0.3 --processes 1 --no-explain --json".split()
    rows = json.loads(installed.run("-m", "stmdeploy", "profile", *JOB, *quick))["rows"]
    assert rows[0]["failure"] is None and rows[0]["latency_ms_p50"] > 0
    installed.run("-m", "stmdeploy", "report")
    assert (installed.folder / "stmdeploy-results" / "report.html").is_file()


@pytest.mark.nightly
def test_the_wheel_checks_without_the_sources(installed: Installed) -> None:
    installed.run("-m", "stmdeploy", "baseline", "create", *JOB, "--budget-s", "0.3")
    words = "--budget-s 3 --cannot-tell pass --threshold-percent 200".split()
    installed.run("-m", "stmdeploy", "check", "stmdeploy-baseline", *words)
