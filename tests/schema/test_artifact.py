"""Artifacts on disk: every file is checked against its manifest."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import onnx
import pytest
from onnx import helper

from stmdeploy import StmdeployError
from stmdeploy.schema.artifact import _state_of, file_info, manifest_path, read_artifact
from stmdeploy.schema.manifest import MANIFEST_SCHEMA_VERSION, Manifest
from stmdeploy.schema.onnx_files import external_files
from stmdeploy.spec.model import ModelSpec
from tests.hostile.good import Good
from tests.sharing import SharedArtifacts


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
    with pytest.raises(StmdeployError, match="was changed: its hash is not the one"):
        read_artifact(artifact)


def test_a_truncated_file(artifact: Path) -> None:
    content = artifact.read_bytes()
    artifact.write_bytes(content[:-100])
    whole = len(content)
    with pytest.raises(StmdeployError, match=f"is cut short: {whole - 100} of {whole} bytes"):
        read_artifact(artifact)


def test_a_file_that_grew(artifact: Path) -> None:
    artifact.write_bytes(artifact.read_bytes() + b"x")
    with pytest.raises(StmdeployError, match=r"has \d+ bytes, not \d+ as in its manifest"):
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
    with pytest.raises(StmdeployError, match=r"\.json: no such file"):
        read_artifact(artifact)


@pytest.mark.parametrize("text", ["", "{", "{}", "[1]", '{"kind": "other"}', "\udcff"])
def test_a_damaged_manifest(artifact: Path, text: str) -> None:
    manifest_path(artifact).write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StmdeployError, match=r"is (no stmdeploy-artifact|not JSON)"):
        read_artifact(artifact)


def test_a_newer_manifest(artifact: Path) -> None:
    content = json.loads(manifest_path(artifact).read_text())
    newer = MANIFEST_SCHEMA_VERSION + 1
    manifest_path(artifact).write_text(json.dumps({**content, "schema_version": newer}))
    said = f"has schema {newer}, this stmdeploy reads {MANIFEST_SCHEMA_VERSION}"
    with pytest.raises(StmdeployError, match=said):
        read_artifact(artifact)


def test_a_file_that_is_exchanged_after_its_first_check_is_seen(artifact: Path) -> None:
    held = read_artifact(artifact)
    held.check()
    content = artifact.read_bytes()
    other = artifact.with_name("other")
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(other, ns=(artifact.stat().st_atime_ns, artifact.stat().st_mtime_ns))
    other.replace(artifact)
    with pytest.raises(StmdeployError, match="was changed"):
        held.check()


def test_a_file_that_is_overwritten_in_place_with_its_old_times_is_seen(artifact: Path) -> None:
    held = read_artifact(artifact)
    stat = artifact.stat()
    # As if it had been hashed long ago: its state is known by heart.
    held._seen[artifact.name] = _state_of(artifact)
    time.sleep(0.02)  # a tick of the file system
    with artifact.open("r+b") as file:
        file.write(b"\xff")
    os.utime(artifact, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(StmdeployError, match="was changed"):
        held.check()


def test_what_was_not_written_to_is_not_hashed_again(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = read_artifact(artifact)
    monkeypatch.setattr("stmdeploy.schema.artifact._TICK_S", -1e9)
    held.check()
    monkeypatch.setattr(
        "stmdeploy.schema.artifact.sha256_of", lambda _: pytest.fail("hashed again")
    )
    held.check()


def test_a_manifest_that_is_exchanged_is_seen(artifact: Path) -> None:
    held = read_artifact(artifact)
    other = held.manifest.model_copy(update={"lowering": "tokens-plain"}).sealed()
    manifest_path(artifact).write_text(other.model_dump_json())
    with pytest.raises(StmdeployError, match="changed while it was in use"):
        held.check()


def described(path: Path, manifest: Manifest, *files: Path) -> Path:
    """An artifact of some files, described by a manifest that is sealed as anybody can."""
    infos = tuple(map(file_info, (path, *files)))
    sealed = manifest.model_copy(update={"files": infos}).sealed()
    manifest_path(path).write_text(sealed.model_dump_json())
    return path


def test_external_data_that_the_manifest_does_not_list_is_refused(
    good: Good, tmp_path: Path
) -> None:
    manifest = read_artifact(good.artifact).manifest
    path, data = tmp_path / "a.onnx", tmp_path / "a.data"
    onnx.save(onnx.load(good.artifact), path, save_as_external_data=True, location=data.name)
    assert external_files(path) == ("a.data",)
    with pytest.raises(StmdeployError, match=r"refers to 'a\.data', which its"):
        read_artifact(described(path, manifest))
    assert read_artifact(described(path, manifest, data)).path == path


@pytest.mark.parametrize("where", ["initializer", "attribute", "subgraph", "function", "context"])
def test_every_place_that_names_a_file_is_looked_at(tmp_path: Path, where: str) -> None:
    tensor = helper.make_tensor("w", onnx.TensorProto.FLOAT, [1], [1.0])
    del tensor.float_data[:]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside")
    constant = helper.make_node("Constant", [], ["w"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [])
    nodes = {
        "attribute": [constant],
        "subgraph": [helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)],
        "context": [helper.make_node(
            "EPContext", [], [], domain="com.microsoft", embed_mode=0,
            ep_cache_context="../outside"),
            helper.make_node("EPContext", [], [], domain="com.microsoft", embed_mode=0)],
    }  # fmt: skip
    graph = helper.make_graph(
        nodes.get(where, []), "g", [], [], [tensor] if where == "initializer" else []
    )
    model = helper.make_model(graph)
    if where == "function":
        opset = [helper.make_opsetid("", 20)]
        model.functions.append(helper.make_function("d", "f", [], ["w"], [constant], opset))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    assert external_files(tmp_path / "a.onnx") == ("../outside",)


def test_weights_beside_an_xml_must_be_listed(good: Good, tmp_path: Path) -> None:
    manifest = read_artifact(good.artifact).manifest
    path = tmp_path / "a.xml"
    path.write_text("<net/>")
    assert read_artifact(described(path, manifest)).path == path
    path.with_suffix(".bin").write_bytes(b"weights")
    with pytest.raises(StmdeployError, match=r"'a\.bin', which its manifest does not list"):
        read_artifact(path)
