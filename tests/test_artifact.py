"""Artifacts on disk: every file is checked against its manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.artifact import MANIFEST_SCHEMA_VERSION, manifest_path, read_artifact
from stmdeploy.spec import ModelSpec
from tests.artifacts import SharedArtifacts


@pytest.fixture(scope="module")
def exported(artifacts: SharedArtifacts) -> Path:
    model = ModelSpec("unified_convnext_nano", image_size=(32, 32), num_classes=3)
    return artifacts.exported(model, "torch").path


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(exported.parent, tmp_path, dirs_exist_ok=True)
    return tmp_path / exported.name


def test_an_intact_artifact(artifact: Path) -> None:
    read = read_artifact(artifact)
    assert read.size_bytes == artifact.stat().st_size
    assert read.manifest.model.name == "unified_convnext_nano"


def test_a_flipped_byte(artifact: Path) -> None:
    content = bytearray(artifact.read_bytes())
    content[len(content) // 2] ^= 1
    artifact.write_bytes(content)
    with pytest.raises(StmdeployError, match="was changed: it does not match the hash"):
        read_artifact(artifact)


def test_a_truncated_file(artifact: Path) -> None:
    content = artifact.read_bytes()
    artifact.write_bytes(content[:-100])
    whole = len(content)
    with pytest.raises(StmdeployError, match=f"is cut short: {whole - 100} of {whole} bytes"):
        read_artifact(artifact)


def test_a_file_that_grew(artifact: Path) -> None:
    artifact.write_bytes(artifact.read_bytes() + b"x")
    with pytest.raises(StmdeployError, match="its manifest describes a file of"):
        read_artifact(artifact)


def test_a_swapped_manifest(artifact: Path) -> None:
    other = artifact.with_name("other.pt")
    shutil.copy(artifact, other)
    shutil.copy(manifest_path(artifact), manifest_path(other))
    with pytest.raises(StmdeployError, match=rf"is the manifest of {artifact.name}, not of this"):
        read_artifact(other)


def test_an_edited_manifest(artifact: Path) -> None:
    text = manifest_path(artifact).read_text()
    assert '"fp32"' in text
    manifest_path(artifact).write_text(text.replace('"fp32"', '"fp16"'))
    with pytest.raises(StmdeployError, match="was edited: its seal does not match"):
        read_artifact(artifact)


def test_a_missing_file(artifact: Path) -> None:
    artifact.unlink()
    with pytest.raises(StmdeployError, match="is missing"):
        read_artifact(artifact)


def test_a_missing_manifest(artifact: Path) -> None:
    manifest_path(artifact).unlink()
    with pytest.raises(StmdeployError, match=r"\.json: No such file"):
        read_artifact(artifact)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '{"kind": "other"}', "\udcff"])
def test_a_damaged_manifest(artifact: Path, text: str) -> None:
    manifest_path(artifact).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StmdeployError, match="is not a manifest"):
        read_artifact(artifact)


def test_a_newer_manifest(artifact: Path) -> None:
    content = json.loads(manifest_path(artifact).read_text())
    newer = MANIFEST_SCHEMA_VERSION + 1
    manifest_path(artifact).write_text(json.dumps({**content, "schema_version": newer}))
    said = f"has schema {newer}, this stmdeploy reads {MANIFEST_SCHEMA_VERSION}"
    with pytest.raises(StmdeployError, match=said):
        read_artifact(artifact)
