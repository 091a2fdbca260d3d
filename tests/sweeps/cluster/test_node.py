"""What runs on a node: artifacts and engines from its cache, rows measured by turns."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.artifacts.engine import built_engine
from stmdeploy.cluster.facts import facts_here
from stmdeploy.cluster.fleet import Node
from stmdeploy.cluster.shipping import Fetch, Shipped, cache_folder, place_artifact
from stmdeploy.errors import Failure, FailureKind
from stmdeploy.plugins.progress import Silent
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.spec.export import EngineSpec, ExportSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec, ScenarioSpec
from stmdeploy.sweeps.blocks import Memory
from stmdeploy.sweeps.cluster.documents import BlockAnswer, BlockTask, RowAnswer, RowTask
from stmdeploy.sweeps.cluster.node import measure_block
from stmdeploy.sweeps.exports import path_of
from stmdeploy.worker.exports import export_model
from tests.sweeps.cluster.conftest import MODEL

HERE = Node("0" * 16, "test", frozenset())
MakeTask = Callable[..., BlockTask]
MakeRowTask = Callable[..., RowTask]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def fetched() -> list[str]:
    """The hashes that were asked for."""
    return []


@pytest.fixture
def fetch(artifact: Path, fetched: list[str]) -> Callable[[str], bytes]:
    contents = {
        file.sha256: artifact.with_name(file.name).read_bytes()
        for file in read_artifact(artifact).manifest.files
    }

    def one(sha256: str) -> bytes:
        fetched.append(sha256)
        return contents[sha256]

    return one


def test_an_artifact_comes_once(
    make_row_task: MakeRowTask, fetch: Callable[[str], bytes], fetched: list[str], artifact: Path
) -> None:
    shipped = make_row_task().artifact
    path = place_artifact(shipped, fetch)
    assert cache_folder() in path.parents
    assert path.read_bytes() == artifact.read_bytes()
    assert place_artifact(shipped, fetch) == path
    assert len(fetched) == len(shipped.files)
    path.write_bytes(b"damaged")
    assert read_artifact(place_artifact(shipped, fetch)).path == path, "it is fetched again"


def test_what_comes_is_checked(make_row_task: MakeRowTask) -> None:
    shipped = make_row_task().artifact
    with pytest.raises(StmdeployError, match="cut short"):
        place_artifact(shipped, lambda _: b"something else")
    with pytest.raises(StmdeployError, match="is no stmdeploy-artifact"):
        place_artifact(shipped.model_copy(update={"manifest": "{}"}), lambda _: b"")


def only(answer: BlockAnswer) -> RowAnswer:
    """What came of the one row of a task."""
    assert answer.misplaced == ""
    (row,) = answer.rows
    return row


def test_a_block_is_measured_whole_by_turns(
    make_task: MakeTask, make_row_task: MakeRowTask, fetch: Callable[[str], bytes]
) -> None:
    """And a row of it that cannot be measured costs no other."""
    good, row = make_row_task(), make_row_task().row
    second = make_row_task(row=replace(row, repeat=1))
    no_engine = make_row_task(row=replace(row, run=replace(row.run, runtime="tensorrt-rtx")))
    versions = {"onnxruntime": facts_here().environment.versions["onnxruntime"]}
    task = make_task(good, no_engine, second, reference=0, versions=versions)
    answer = measure_block(task, HERE, fetch)
    assert answer.node == HERE.label and answer.started_utc < answer.ended_utc
    first, failed, third = answer.rows
    assert failed.failure and "is no engine of tensorrt_rtx" in failed.failure.message
    assert not failed.processes
    for one in (first, third):
        assert one.failure is None and len(one.processes) == 6
        assert [process.wave for process in one.processes] == list(range(6))
        assert all(process.alive == 2 for process in one.processes)
        assert one.device == one.processes[0].environment.processor


def test_what_does_not_fit_into_memory_takes_turns_with_the_reference(
    make_task: MakeTask, make_row_task: MakeRowTask, fetch: Callable[[str], bytes]
) -> None:
    row = make_row_task().row
    rows = [make_row_task(row=replace(row, repeat=i), memory=Memory(1e9)) for i in range(3)]
    task = make_task(*rows, reference=1, sampling=SamplingSpec(budget_s=0.1, processes=3))
    answer = measure_block(task, HERE, fetch)
    waves = [[process.wave for process in one.processes] for one in answer.rows]
    assert waves == [[0, 1, 2], [0, 1, 2, 3, 4, 5], [3, 4, 5]]


def test_a_gpu_that_is_not_here_is_no_failure(
    make_task: MakeTask, make_row_task: MakeRowTask, fetch: Callable[[str], bytes]
) -> None:
    row = make_row_task().row
    on_gpu = make_row_task(row=replace(row, run=replace(row.run, device="cuda", node="a100")))
    answer = measure_block(make_task(on_gpu, profile="a100-40gb"), HERE, fetch)
    assert answer.misplaced.startswith("this machine has no NVIDIA A100 40GB")


def test_another_version_is_no_failure(make_task: MakeTask, fetch: Callable[[str], bytes]) -> None:
    mine = facts_here().environment.versions["onnxruntime"]
    answer = measure_block(make_task(versions={"onnxruntime": "0.1"}), HERE, fetch)
    assert answer.misplaced == f"it has onnxruntime {mine}, the others 0.1"


def logs_of(scenario: ScenarioSpec, make: MakeTask, row: RowTask, fetch: Fetch) -> set[str]:
    pytest.importorskip("mlperf_loadgen")
    run = replace(row.row.run, scenario=scenario)
    with_scenario = row.model_copy(update={"row": replace(row.row, run=run)})
    answer = only(measure_block(make(with_scenario), HERE, fetch))
    assert answer.failure is None and len(answer.processes) == 1
    return set(answer.logs)


def test_logs_of_a_scenario_come_along(
    make_task: MakeTask, make_row_task: MakeRowTask, fetch: Fetch
) -> None:
    scenario = ScenarioSpec("offline", duration_s=0.2)
    logs = logs_of(scenario, make_task, make_row_task(), fetch)
    assert any(name.endswith("summary.txt") for name in logs)


@pytest.mark.nightly
def test_logs_of_servers_search_too(
    make_task: MakeTask, make_row_task: MakeRowTask, fetch: Fetch
) -> None:
    """They lie in a folder of their own."""
    server = ScenarioSpec("server", duration_s=1.0, target_latency_ms=1000.0)
    logs = logs_of(server, make_task, make_row_task(), fetch)
    assert any(name.startswith("search/") for name in logs)


def test_what_nobody_expects_is_an_answer_too(make_task: MakeTask) -> None:
    """Without one the driver would not know which node it was."""

    def lost(_: str) -> bytes:
        raise RuntimeError("the object store is gone")

    answer = measure_block(make_task(), HERE, lost)
    told = "RuntimeError: the object store is gone"
    assert only(answer).failure == Failure(FailureKind.ERROR, told)
    assert answer.node == HERE.label


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an engine is built from, as the driver exports it; the builder is not asked."""
    pytest.importorskip("tensorrt_rtx")
    spec = ExportSpec(
        MODEL, "tensorrt-rtx", tmp_path_factory.mktemp("source"), "fp16", source_only=True
    )
    return path_of(export_model(MODEL, (spec,), 300, Silent()).artifacts[0])


def test_a_source_is_verified_and_no_engine(source: Path) -> None:
    manifest = read_artifact(source).manifest
    assert source.name.endswith(".tensorrt-rtx.onnx")
    assert manifest.engine is None and manifest.not_run == "its engine is built where it runs"
    assert 0 < manifest.proof.relative_l2_error < 5e-3


@pytest.mark.slow
def test_an_engine_is_built_once_for_what_it_depends_on(source: Path, tmp_path: Path) -> None:
    """By TensorRT-RTX itself, which builds without a GPU."""
    run = RunSpec("tensorrt-rtx", 1, 2, "cuda", precision="fp16")
    folder = tmp_path / "engines"

    def build(run: RunSpec, engine: EngineSpec, of: Path = source) -> Path:
        return built_engine(of, run, engine, folder, Silent()).path

    first = build(run, EngineSpec())
    manifest = read_artifact(first).manifest
    assert first.name == source.name.replace(".tensorrt-rtx.onnx", ".rtx.engine")
    assert manifest.engine is not None and manifest.engine.module == "tensorrt_rtx"
    assert manifest.state == "built, not run" and manifest.not_run == "no GPU"
    written = first.stat().st_mtime_ns
    assert build(run, EngineSpec()) == first and first.stat().st_mtime_ns == written, "found"
    others = [
        build(run, EngineSpec(batch=(1, 2, 4))),
        build(replace(run, gpu_name="NVIDIA L4"), EngineSpec()),
    ]
    assert len({first, *others}) == 3, "other settings and another GPU have engines of their own"
    first.write_bytes(b"damaged")
    assert read_artifact(build(run, EngineSpec())).manifest.state == "built, not run"


def test_a_row_of_a_source_builds_there(
    source: Path, make_task: MakeTask, make_row_task: MakeRowTask, tmp_path: Path
) -> None:
    """Where there is no GPU, its engine is built and then says that it cannot run."""
    row = make_row_task().row
    on_engine = replace(row, run=replace(row.run, runtime="tensorrt-rtx", precision="fp16"))
    files = read_artifact(source).manifest.files
    shipped = Shipped(manifest=manifest_path(source).read_text("utf-8"), files=files)
    task = make_task(make_row_task(row=on_engine, artifact=shipped, is_source=True))
    contents = {file.sha256: source.with_name(file.name).read_bytes() for file in files}
    answer = only(measure_block(task, HERE, contents.__getitem__))
    assert answer.failure and answer.failure.message.endswith("is built, not run: no GPU")
    assert list((cache_folder() / "engines").rglob("*.rtx.engine"))
    shutil.rmtree(tmp_path / "cache")
