"""A sweep over three kinds of nodes, prepared once for all tests of dispatching."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stmdeploy.cluster.shipping import Shipped
from stmdeploy.plugins.progress import Silent
from stmdeploy.results.store import Store
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.schema.row import Prepared
from stmdeploy.spec.model import ModelSpec
from stmdeploy.spec.run import RunSpec, SamplingSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.blocks import Memory
from stmdeploy.sweeps.cluster.documents import BlockTask, RowTask
from stmdeploy.sweeps.prepared import PreparedSweep
from tests.sweeps.cluster.local_cluster import LocalCluster, local_cluster

MODEL = ModelSpec("unified_convnext_nano", (32, 32))
NODES = ("A100", "H100", "L4")


def sweep_spec(*batches: int, **fields: Any) -> SweepSpec:
    """Rows of one model on three kinds of nodes, at some batches."""
    runs = tuple(RunSpec("onnxruntime", batch, 1, node=node) for node in NODES for batch in batches)
    spec = SweepSpec((MODEL,), runs, explain=False, sampling=SamplingSpec(budget_s=0.3))
    return replace(spec, **fields)


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> PreparedSweep:
    """The model, built and exported by a sweep of its own."""
    store = Store(tmp_path_factory.mktemp("exported"), create=True)
    store.add_sweep("first", sweep_spec(1).to_json(), [("a", "")])
    prepared = PreparedSweep(store, "first", Silent())
    prepared.prepare()
    return prepared


@pytest.fixture
def prepare(exported: PreparedSweep, tmp_path: Path) -> Callable[[SweepSpec], PreparedSweep]:
    """Prepares a sweep of that model in a new store, or takes up the one that is there."""

    def make(spec: SweepSpec) -> PreparedSweep:
        store = Store(tmp_path, create=True)
        if not store.sweeps():
            store.add_sweep("s", spec.to_json(), [(r.key, r.to_json()) for r in spec.rows()])
            store.save_prepared("s", 0, _copied(exported, store))
        prepared = PreparedSweep(store, "s", Silent())
        prepared.prepare()
        return prepared

    return make


def _copied(exported: PreparedSweep, store: Store) -> Prepared:
    """What was exported, in another store's folder: a sweep takes artifacts of its own alone."""
    ready = exported.store.prepared("first")[0]
    (one,) = ready.artifacts
    assert one.path is not None
    folder = store.folder.resolve() / "artifacts" / "s"
    shutil.copytree(one.path.parent, folder)
    return ready.model_copy(
        update={"artifacts": (one.model_copy(update={"path": folder / one.path.name}),)}
    )


@pytest.fixture(scope="session")
def artifact(exported: PreparedSweep) -> Path:
    """Its main file."""
    path = exported.store.prepared("first")[0].artifacts[0].path
    assert path is not None
    return read_artifact(path).path


@pytest.fixture
def make_row_task(artifact: Path) -> Callable[..., RowTask]:
    """Builds the task of a row of that model at batch 1; keyword arguments overwrite its fields."""

    def build(**fields: object) -> RowTask:
        task = RowTask(
            row=sweep_spec(1).rows()[0],
            artifact=Shipped(
                manifest=manifest_path(artifact).read_text("utf-8"),
                files=read_artifact(artifact).manifest.files,
            ),
            is_source=False,
            memory=Memory(200.0),
        )
        return task.model_copy(update=fields)

    return build


@pytest.fixture
def make_task(make_row_task: Callable[..., RowTask]) -> Callable[..., BlockTask]:
    """Builds a task of some rows; keyword arguments overwrite its fields."""

    def build(*rows: RowTask, **fields: object) -> BlockTask:
        spec = sweep_spec(1)
        task = BlockTask(
            rows=rows or (make_row_task(),),
            reference=None,
            engine=spec.engine,
            sampling=spec.sampling,
            row_timeout_s=600.0,
            export_timeout_s=600.0,
            memory_limit_mib=None,
            explain=False,
            profile="",
            versions={},
        )
        return task.model_copy(update=fields)

    return build


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A Ray cluster of this test module's own."""
    with local_cluster() as made:
        yield made
