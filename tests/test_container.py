"""The container, without an engine to build it: linted, its steps run, what it names looked up."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
DOCKERFILE = ROOT / "Dockerfile"
VARIANTS = ("gpu", "cpu")


def _instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, arguments), continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [
        (word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line)
    ]


def _stages() -> list[list[tuple[str, str]]]:
    """The instructions of every stage."""
    stages: list[list[tuple[str, str]]] = []
    for word, rest in _instructions():
        if word == "FROM":
            stages.append([])
        if stages:
            stages[-1].append((word, rest))
    return stages


def _copied() -> list[str]:
    """What the build takes of the repository."""
    return [source for word, rest in _stages()[0] if word == "COPY" for source in rest.split()[:-1]]


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([program, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
    assert "hadolint ignore" not in DOCKERFILE.read_text("utf-8")


def test_two_stages_pinned_and_not_root() -> None:
    instructions, stages = _instructions(), _stages()
    assert len(stages) == 2
    (base,) = {rest.split()[0] for word, rest in instructions if word == "FROM"}
    arguments = dict(
        rest.split("=", 1) for word, rest in instructions if "=" in rest and word == "ARG"
    )
    assert base == "python:${PYTHON}"
    assert re.fullmatch(r"3\.\d+\.\d+-slim-\w+", arguments["PYTHON"])
    final = dict(stages[1])
    assert final["USER"] == "10001"
    assert final["ENTRYPOINT"] == '["stmdeploy"]'
    assert final["VOLUME"] == final["WORKDIR"] == "/work"
    (made,) = [rest for word, rest in stages[1] if word == "RUN"]
    assert "--uid 10001" in made and made.endswith("install --directory --owner stmdeploy /work")


def test_everything_it_copies_is_there_and_sent_along() -> None:
    """`.dockerignore` keeps all else out of what is sent to the engine."""
    ignored = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    allowed = {line.removeprefix("!") for line in ignored if line.startswith("!")}
    assert "*" in ignored
    for source in _copied():
        assert (ROOT / source).exists(), source
        assert source.rstrip("/") in allowed, source
    assert {source.rstrip("/") for source in _copied()} == allowed
    assert not any(fnmatch("stmdeploy-results", pattern) for pattern in allowed)


def test_every_package_of_the_project_is_copied() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    folders = set(project["tool"]["setuptools"]["package-dir"].values())
    assert folders <= {source.rstrip("/") for source in _copied()}
    for named in ("readme", *project["project"]["license-files"]):
        assert project["project"].get(named, named) in _copied()


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_extra_and_file_that_a_variant_names_exists(variant: str) -> None:
    path = ROOT / "docker" / f"{variant}.extras"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = path.read_text("utf-8").strip().split(",")
    assert set(extras) <= set(project["project"]["optional-dependencies"])
    pinned = (ROOT / "constraints.txt").read_text("utf-8").lower().replace("_", "-")
    for extra in extras:
        for requirement in project["project"]["optional-dependencies"][extra]:
            name = re.split(r"[\[<>=]", requirement)[0]
            assert f"{name}==" in pinned, f"{name} of {extra} is not pinned"


@pytest.mark.nightly
def test_its_steps_install_a_working_stmdeploy(tmp_path: Path) -> None:
    """Those of the first stage, CPU variant, on a copy of what is sent: paths moved, else as is."""
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "VARIANT": "cpu", "PATH": path}
    ran = []
    for word, rest in _stages()[0]:
        if word == "COPY":
            *froms, to = rest.split()
            for name in froms:
                _copy(ROOT / name, source / (to if to != "./" else name))
        elif word == "RUN":
            moved = rest.replace("/opt/stmdeploy", str(target))
            ran.append(moved.replace("/opt/wheel", str(tmp_path / "wheel")))
            subprocess.run(["sh", "-euc", ran[-1]], cwd=source, env=variables, check=True)
    assert ran and "pip install" in ran[-1]
    assert len(list((tmp_path / "wheel").glob("stmdeploy-*.whl"))) == 1
    shutil.rmtree(source)  # the second stage has no source
    work = tmp_path / "work"
    work.mkdir()
    entry = target / "bin" / "stmdeploy"

    def say(*words: str) -> str:
        return subprocess.run(
            [entry, *words], cwd=work, check=True, capture_output=True, text=True
        ).stdout

    assert say("--version").startswith("stmdeploy ")
    assert "unified_dcn_v3_micro" in say("list")
    out = say("export", "--stm", "convnext", "--scale", "micro", "--image-size", "32", "--json")
    assert '"target": "onnx"' in out
    imports = "import ray, psycopg, openvino, mlperf_loadgen, stmdeploy.profiles"
    subprocess.run([target / "bin" / "python", "-c", imports], cwd=work, check=True)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def test_compose_names_what_is_there() -> None:
    path = ROOT / "docker" / "compose.yaml"
    text = path.read_text("utf-8")
    document = yaml.safe_load(text)
    services = document["services"]
    assert set(services) == {"postgres", *VARIANTS}
    arguments = {rest.split("=")[0] for word, rest in _stages()[0] if word == "ARG"}
    for variant in VARIANTS:
        build = services[variant]["build"]
        assert (path.parent / build["context"] / "Dockerfile").resolve() == DOCKERFILE
        assert build["args"] == {"VARIANT": variant} and set(build["args"]) <= arguments
        store = services[variant]["environment"]["STMDEPLOY_STORE"]
        assert store.startswith("postgresql+psycopg://") and "@postgres/" in store
        assert "depends_on" in services[variant]
    assert re.search(r":\d+\.\d+", services["postgres"]["image"]), "pinned"
    assert set(document["volumes"]) == {"rows", "artifacts"}
    # No password but the user's own.
    assert set(re.findall(r"PASSWORD: (.*)", text)) == {"${POSTGRES_PASSWORD:?choose a password}"}


@pytest.mark.parametrize("name", ["ci", *VARIANTS])
def test_what_is_installed_has_a_hash_and_the_version_of_the_constraints(name: str) -> None:
    """`make locks` writes them; by hash alone, so that what an index serves cannot change."""
    lines = (ROOT / "locks" / f"{name}.txt").read_text("utf-8").splitlines()
    assert not [line for line in lines if "://" in line]
    locked: dict[str, str] = {}
    hashes: dict[str, int] = {}
    for line in lines:
        if found := re.match(r"([a-z0-9.-]+)(?:\[[a-z,]+\])?==([^ ;]+)", line):
            package, locked[found[1]] = found[1], found[2]
        elif re.match(r"    --hash=sha256:[0-9a-f]{64}( \\)?$", line):
            hashes[package] = hashes.get(package, 0) + 1
    assert locked.keys() == hashes.keys() and len(locked) > 50
    text = (ROOT / "constraints.txt").read_text("utf-8").lower().replace("_", "-")
    pinned = dict(line.split("==") for line in text.splitlines() if "==" in line)
    assert not {p: v for p, v in locked.items() if pinned.get(p, v) != v}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for requirement in project["dependencies"]:
        assert re.split(r"[\[<>=]", requirement)[0] in locked
