"""Every reader of documents from outside, against thousands of hostile ones.

How many of each: ``STMDEPLOY_HOSTILE_EXAMPLES``; a few by day, 1,300 by `make nightly`.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import zlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stmdeploy.backbones.catalogue import CATALOG_VARIABLE
from stmdeploy.check.bundle import DOCUMENT, Baseline
from stmdeploy.cli.main import main
from stmdeploy.errors import StmdeployError
from stmdeploy.hardware.profiles import FOLDERS_VARIABLE
from stmdeploy.results.database import FILE_NAME
from stmdeploy.schema.artifact import file_info, manifest_path
from stmdeploy.schema.manifest import Manifest
from tests.hostile.attempts import attempt, command
from tests.hostile.good import MODEL, Good
from tests.hostile.mutations import (
    Change,
    Damage,
    as_json,
    as_toml,
    changed,
    changes,
    damaged,
    damages,
)

EXAMPLES = int(os.environ.get("STMDEPLOY_HOSTILE_EXAMPLES", "5"))
hostile = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
some_changes = st.lists(changes, min_size=1, max_size=3)
some_damage = st.lists(damages, min_size=1, max_size=3)

SWEEP_FILE: dict[str, Any] = {
    "stm": ["convnext", "dcn"], "scale": "nano", "batch": [1, 8], "image_size": ["32", "64x32"],
    "num_classes": 10, "threads": 1, "budget_s": 0.5, "processes": 2, "precision": ["fp32"],
    "runtime": "onnxruntime", "explain": False, "scenario": "loop", "in_flight": [1, 2],
    "provider": "cpu", "hint": "latency", "row_timeout_s": 60,
    "memory_limit_mib": 1000, "lowering": "tokens",
}  # fmt: skip
POLICY: dict[str, Any] = {
    "threshold-percent": 5.0, "budget-s": 30, "cannot-tell": "fail",
    "gates": {"memory": 10, "size": 1}, "rows": [{"match": "*dcn*", "threshold-percent": 3}],
}  # fmt: skip
PROFILE: dict[str, Any] = {
    "title": "Mine", "names": ["NVIDIA Mine"], "compute_capability": "8.0", "memory_gb": 80,
    "bandwidth_gb_s": 2039.0, "l2_mb": 40, "tdp_w": 400, "batches": [1, 8],
    "precisions": ["fp32", "fp16"], "peak_tflops": {"fp32": 19.5, "fp16": 78.0},
    "tensor_tflops": {"fp16": 312.0}, "source": "datasheet", "families": ["mines"],
    "accelerator_type": "MINE", "sources": {"tdp_w": "elsewhere"},
}  # fmt: skip
CATALOG: dict[str, Any] = {
    "convnext": {"scales": {"mine": {"depths": [1, 1, 1, 1], "dims": [32, 64, 128, 256]}}},
    "swin": {"scales": {"mine": {"depths": [2, 2, 2, 1], "dims": [32, 64, 128, 256],
                                 "heads": [1, 2, 4, 8]}}},
}  # fmt: skip
CLASSES: dict[str, Any] = {"class0": 0, "class1": 5, "class2": 9}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in; whatever appears beside it has escaped."""
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    yield inside
    beside = [path for path in tmp_path.rglob("*") if path.is_file() and inside not in path.parents]
    assert beside == [], "something was written outside"


def check(work: Callable[[], int], folder: Path) -> None:
    """Fails the test if an attempt had an effect that none may have."""
    fault = attempt(work, folder).fault
    assert not fault, fault


class Fresh:
    """Folders inside a place, each gone after its attempt."""

    def __init__(self, place: Path) -> None:
        self._place = place

    def __enter__(self) -> Path:
        self._folder = TemporaryDirectory(dir=self._place)
        return Path(self._folder.name)

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


def either(whole: Any, dump: Callable[[Any], bytes]) -> st.SearchStrategy[bytes]:
    """A document that was changed, or whose bytes were damaged."""
    return st.one_of(
        st.builds(lambda some: dump(changed(whole, some)), some_changes),
        st.builds(lambda some: damaged(dump(whole), some), some_damage),
    )


@hostile
@given(content=either(SWEEP_FILE, as_toml))
def test_sweep_files(place: Path, content: bytes) -> None:
    with Fresh(place) as folder:
        (folder / "sweep.toml").write_bytes(content)
        words = ("profile", "--sweep", str(folder / "sweep.toml"), "--dry-run", "--out",
                 str(folder / "none"))  # fmt: skip
        check(command(*words), folder)


@hostile
@given(content=either(POLICY, as_toml))
def test_policies(place: Path, content: bytes) -> None:
    with Fresh(place) as folder:
        (folder / "policy.toml").write_bytes(content)
        check(command("check", "none", "--config", str(folder / "policy.toml")), folder)


@hostile
@given(content=either(PROFILE, as_toml))
def test_profiles(place: Path, good: Good, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    from stmdeploy.hardware.profiles import profiles

    with Fresh(place) as folder:
        (folder / "mine.toml").write_bytes(content)
        monkeypatch.setenv(FOLDERS_VARIABLE, str(folder))
        profiles.cache_clear()
        check(command("bound", str(good.artifact), "--gpu", "mine"), folder)
        check(command("hardware", "show", "mine", "--json"), folder)
    profiles.cache_clear()


@hostile
@given(content=either(CATALOG, as_toml))
def test_catalogs(place: Path, content: bytes) -> None:
    from stmdeploy.backbones import catalogue as catalog

    def listed() -> int:
        for name in ("_table", "_by_name", "_aliases"):
            getattr(catalog, name).cache_clear()
        os.environ[CATALOG_VARIABLE] = str(folder / "catalog.toml")
        return main(["list", "--json"])

    with Fresh(place) as folder:
        (folder / "catalog.toml").write_bytes(content)
        check(listed, folder)


def told(work: Callable[[], object]) -> Callable[[], int]:
    """Some work on a reader that no command reaches without a worker, as a command would do it."""

    def run() -> int:
        try:
            work()
        except StmdeployError as error:
            print(error)  # noqa: T201
            return int(error.code)
        return 0

    return run


@hostile
@given(content=either(CLASSES, as_json))
def test_class_maps(place: Path, good: Good, content: bytes) -> None:
    from stmdeploy.backbones.images import image_folder

    with Fresh(place) as folder:
        (folder / "map.json").write_bytes(content)
        check(told(lambda: image_folder(good.images, 10, folder / "map.json")), folder)


def _manifest(good: Good) -> Any:
    return json.loads(manifest_path(good.artifact).read_text())


def resealed(content: bytes, kind: type[Manifest | Baseline]) -> bytes:
    """A document with a seal that is right, where it is of its kind at all: anybody can do that."""
    try:
        return kind.model_validate_json(content).sealed().model_dump_json().encode()
    except Exception:  # noqa: BLE001
        return content


@hostile
@given(data=st.data())
def test_manifests(place: Path, good: Good, data: st.DataObject) -> None:
    content = data.draw(either(_manifest(good), as_json))
    if data.draw(st.booleans()):
        content = resealed(content, Manifest)
    with Fresh(place) as folder:
        artifact = folder / good.artifact.name
        os.link(good.artifact, artifact)
        manifest_path(artifact).write_bytes(content)
        check(command("inspect", str(artifact)), folder)
        check(command("inspect", str(artifact), "--json"), folder)
        check(command("bound", str(artifact), "--gpu", "a100-80gb"), folder)


@hostile
@given(some=some_damage)
def test_graphs(place: Path, good: Good, some: list[Damage]) -> None:
    """An ONNX file that its manifest describes."""
    with Fresh(place) as folder:
        artifact = folder / good.artifact.name
        artifact.write_bytes(damaged(good.artifact.read_bytes(), some))
        manifest = Manifest.model_validate(_manifest(good))
        manifest = manifest.model_copy(update={"files": (file_info(artifact),)}).sealed()
        manifest_path(artifact).write_text(manifest.model_dump_json())
        check(command("inspect", str(artifact)), folder)


@hostile
@given(data=st.data())
def test_baselines(place: Path, good: Good, data: st.DataObject) -> None:
    whole = json.loads((good.baseline / DOCUMENT).read_text())
    content = data.draw(either(whole, as_json))
    if data.draw(st.booleans()):
        content = resealed(content, Baseline)
    with Fresh(place) as folder:
        shutil.copytree(good.baseline, folder / "baseline", copy_function=os.link)
        (folder / "baseline" / DOCUMENT).unlink()
        (folder / "baseline" / DOCUMENT).write_bytes(content)
        check(command("baseline", "show", str(folder / "baseline")), folder)
        check(command("check", str(folder / "baseline"), "no-candidate"), folder)


@hostile
@given(some=some_damage, packed=st.booleans())
def test_archives(place: Path, good: Good, some: list[Damage], packed: bool) -> None:
    """Damaged as they are packed, or within."""
    from gzip import compress, decompress

    content = good.archive.read_bytes()
    if packed:
        content = damaged(content, some)
    else:
        # Headers are what matters, not weights: they are the first sixteenth.
        content = decompress(content)
        content = compress(
            damaged(content[: len(content) // 16], some) + content[len(content) // 16 :], 1
        )
    with Fresh(place) as folder:
        (folder / "baseline.tar.gz").write_bytes(content)
        check(command("baseline", "show", str(folder / "baseline.tar.gz")), folder)


TEXTS = (
    ("sweeps", "spec"), ("sweeps", "id"), ("sweeps", "created_utc"), ("models", "prepared"),
    ("rows", "spec"), ("rows", "row"), ("rows", "state"), ("rows", "key"), ("processes", "process"),
    ("rows", "measured_utc"), ("rows", "position"), ("processes", "samples"),
    ("schema_version", "version"),
)  # fmt: skip
READERS = (
    ("results", "list"), ("results", "show"), ("results", "show", "--markdown"),
    ("results", "show", "--json"), ("report", "--latex"), ("recommend",),
    ("results", "export", "rows.csv"), ("profile", "--resume"), ("results", "prune", "--keep", "0"),
    ("results", "evaluations"),
)  # fmt: skip


@hostile
@given(data=st.data())
def test_stores(place: Path, good: Good, data: st.DataObject) -> None:
    """A value of a store is another; whatever reads it next says so, or does not mind."""
    table, column = data.draw(st.sampled_from(TEXTS))
    with Fresh(place) as folder:
        shutil.copytree(good.store, folder / "store")
        file = folder / "store" / FILE_NAME
        with closing(sqlite3.connect(file)) as connection, connection:
            (old,) = connection.execute(f"SELECT {column} FROM {table}").fetchone()
            new = data.draw(_other(old))
            connection.execute("PRAGMA foreign_keys=OFF")
            try:
                connection.execute(f"UPDATE {table} SET {column} = ?", (new,))
            except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                return
        words = data.draw(st.sampled_from(READERS))
        check(command(*words, "--out", str(folder / "store")), folder)
        if words[0] != "profile":
            merged = str(folder / "merged")
            check(command("results", "merge", str(folder / "store"), "--out", merged), folder)


def _other(old: Any) -> st.SearchStrategy[Any]:
    if isinstance(old, bytes):
        numbers = array("d")
        numbers.frombytes(zlib.decompress(old))
        return st.one_of(
            st.builds(lambda some: damaged(old, some), some_damage),
            st.builds(
                lambda i, v: zlib.compress(array("d", [*numbers[:i], v, *numbers[i + 1 :]])),
                st.integers(0, len(numbers) - 1),
                st.one_of(st.floats(), st.sampled_from([0.0, -1.0, 1e300, float("nan")])),
            ),
        )
    if not isinstance(old, str) or not old.startswith("{"):
        return st.one_of(st.sampled_from(["", "x", "../../../x", "\x1b[2J", "a" * 300, -1, 2**62,
                                          1.5, b"\xff\0", "planned", "done"]), st.integers(),
                         st.text(max_size=50))  # fmt: skip
    return either(json.loads(old), as_json).map(lambda b: b.decode("utf-8", "surrogateescape"))


@hostile
@given(some=some_damage, readers=st.sampled_from(READERS))
def test_store_files(place: Path, good: Good, some: list[Damage], readers: tuple[str, ...]) -> None:
    """A damaged SQLite file."""
    with Fresh(place) as folder:
        (folder / "store").mkdir()
        content = damaged((good.store / FILE_NAME).read_bytes(), some)
        (folder / "store" / FILE_NAME).write_bytes(content)
        check(command(*readers, "--out", str(folder / "store")), folder)


@hostile
@given(some=some_damage)
def test_checkpoints(place: Path, good: Good, some: list[Damage]) -> None:
    from stmdeploy.backbones.checkpoint import load_checkpoint
    from stmdeploy.backbones.source import build_module
    from stmdeploy.plugins.progress import Silent

    with Fresh(place) as folder:
        path = folder / "weights.pth"
        path.write_bytes(damaged(good.checkpoint.read_bytes(), some))
        module = build_module(MODEL)
        check(told(lambda: load_checkpoint(module, str(path), Silent())), folder)


@hostile
@given(some=some_damage, suffix=st.sampled_from([".png", ".jpg", ".gif", ".bmp", ".tiff", ".webp",
                                                 ".ppm"]))  # fmt: skip
def test_images(place: Path, good: Good, some: list[Damage], suffix: str) -> None:
    from stmdeploy.backbones.images import load_images

    with Fresh(place) as folder:
        content = (good.images / "class0" / f"image{suffix}").read_bytes()
        (folder / f"image{suffix}").write_bytes(damaged(content, some))
        check(told(lambda: load_images(folder, 1, (32, 32), print)), folder)


@hostile
@given(data=st.data())
def test_fused_layers(place: Path, good: Good, data: st.DataObject) -> None:
    """What lies beside an engine, and is listed."""
    layers = [{"name": "a", "kind": "conv", "input_dtypes": ["f32"], "weight_dtypes": ["f32"],
               "output_dtypes": ["f32"], "onnx_nodes": ["n"]}]  # fmt: skip
    content = data.draw(either(layers, as_json))
    with Fresh(place) as folder:
        artifact = folder / "net.engine"
        beside = folder / "net.layers.json"
        artifact.write_bytes(b"engine")
        beside.write_bytes(content)
        engine: dict[str, Any] = {
                  "module": "m", "version": "1", "gpu": "", "compute_capabilities": ["8.9"],
                  "batch": [1, 1, 1], "builder_level": None, "workspace_mib": None,
                  "layers_before": 1, "layers_after": 1, "output_dtypes": {}, "weights_bytes": None,
                  "activation_bytes": None, "onnx_sha256": "", "build_s": 1.0}  # fmt: skip
        manifest = Manifest.model_validate(
            {**_manifest(good), "engine": engine,
             "files": [file_info(artifact).model_dump(), file_info(beside).model_dump()]}
        ).sealed()  # fmt: skip
        manifest_path(artifact).write_text(manifest.model_dump_json())
        check(command("inspect", str(artifact), "--layers"), folder)


def test_the_mutations_can_break_something(place: Path) -> None:
    """A reader without care, as a control: what is counted as fine above is not always."""
    content = as_json(changed({"a": 1}, [Change(0, "nest", 100_000)]))
    with Fresh(place) as folder:
        assert "Traceback" in attempt(lambda: len(json.loads(content)), folder).fault
        assert "::" in attempt(lambda: print("::set-output x") or 0, folder).fault  # noqa: T201
    assert as_toml({"x": {"y": [1]}}) == b'"x" = {"y" = [1]}'
