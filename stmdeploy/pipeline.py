"""The stages in order: build -> count -> export -> verify -> measure -> store."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from stmdeploy.cluster.dispatching import ClusterRun
from stmdeploy.cluster.planning import ClusterSpec, Plan, check_cluster_sweep, plan
from stmdeploy.cluster.ray_fleet import RayFleet
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.files import remove_leftovers, scratch_folder, writable
from stmdeploy.hardware import environment
from stmdeploy.measure.loadgen import why_no_loadgen
from stmdeploy.measuring import check_interpreters
from stmdeploy.preparing import ARTIFACTS, LOGS, PreparedSweep
from stmdeploy.promises import check_precision
from stmdeploy.registry import exporter_for_runtime, exporter_for_target
from stmdeploy.results.row import PreparedArtifact, Row
from stmdeploy.results.store import DONE, FAILED, Store, SweepInfo
from stmdeploy.spec import (
    LOOP,
    ExportSpec,
    ModelSpec,
    RunSpec,
    available_threads,
)
from stmdeploy.sweep import RowSpec, SweepSpec
from stmdeploy.sweeping import SweepRun
from stmdeploy.trust import (
    Wish,
    refuse_wishes,
    wishes_of_artifact,
    wishes_of_model,
    wishes_of_run,
    wishes_of_sweep,
)

if TYPE_CHECKING:
    from stmdeploy.artifact import Artifact, Operation
    from stmdeploy.backbones.source import BuiltModel
    from stmdeploy.complexity import Complexity
    from stmdeploy.contracts import OperatorTime, Progress

#: Steps that `progress` is told of: building and counting.
COUNT_STEPS = 2


@dataclass(frozen=True)
class CountedModel:
    """A built model and what it costs."""

    built: BuiltModel
    complexity: Complexity


@dataclass(frozen=True)
class LayerTimes:
    """The operators of some inferences of a row."""

    row: RowSpec
    inferences: tuple[tuple[OperatorTime, ...], ...]


@dataclass(frozen=True)
class SweepResult:
    """A sweep as it stands after measuring."""

    sweep: SweepInfo
    rows: tuple[Row, ...]


def count_model(spec: ModelSpec, progress: Progress) -> CountedModel:
    """Builds a model and counts its parameters and MACs at batch 1.

    Raises:
        StmdeployError: the model cannot be built or traced.
    """
    from stmdeploy.backbones.source import build_model
    from stmdeploy.complexity import count

    built = build_model(spec, progress)
    progress.step(f"counting {spec.name}")
    return CountedModel(built, count(built.module, spec.image_size))


def check_export(spec: ExportSpec) -> None:
    """Raises StmdeployError for a target or precision that cannot be, before any work."""
    exporter = exporter_for_target(spec.target)
    check_precision(exporter, spec.precision)


def export_model(spec: ExportSpec, progress: Progress) -> Artifact:
    """Builds, exports and verifies one artifact; it appears whole or not at all.

    Raises:
        StmdeployError: bad input (2), or outputs that differ from PyTorch (4).
    """
    from stmdeploy.backbones.source import build_model
    from stmdeploy.exporting import EXPORT_STEPS, export_built

    exporter = exporter_for_target(spec.target)
    progress.expect(1 + EXPORT_STEPS)
    with writable(spec.folder):
        return export_built(build_model(spec.model, progress), exporter, spec, progress)


def check_sweep(spec: SweepSpec) -> None:
    """Raises StmdeployError for a runtime, precision or interpreter that cannot be."""
    for run in spec.runs:
        exporter = exporter_for_runtime(run.runtime, source_only=bool(run.node))
        for precision in spec.precisions:
            check_precision(exporter, precision)
    if spec.nodes:
        check_cluster_sweep(spec)
        return
    for run in spec.runs:
        if run.scenario.name != LOOP and not run.python and (hint := why_no_loadgen()):
            raise StmdeployError("mlcommons-loadgen is not installed", hint)
    check_interpreters({run.python for run in spec.runs})


def profile(
    spec: SweepSpec,
    folder: Path,
    progress: Progress,
    on_row: Callable[[Row], None],
    *,
    store_url: str = "",
    cluster: ClusterSpec | None = None,
) -> SweepResult:
    """Measures a sweep, each process of each row in a worker of its own; here, or on a cluster.

    What is measured is stored at once, in the store of `folder` or of a server; an interrupt
    keeps it, and `resume` goes on from there. A row that fails is stored with its reason and the
    others go on; `on_row` is told of every row that is finished.

    Raises:
        StmdeployError: bad input, before anything is measured; nothing is then left behind.
    """
    check_sweep(spec)
    with _measuring(cluster, spec, spec.runs, progress) as measuring, writable(folder):
        store = Store(folder, url=store_url, create=True)
        _sweep_leftovers(folder)
        sweep = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        store.add_sweep(sweep, spec.to_json(), [(row.key, row.to_json()) for row in spec.rows()])
        prepared = PreparedSweep(store, sweep, progress)
        try:
            prepared.prepare()
        except StmdeployError:
            store.remove_sweep(sweep)
            if not store.sweeps():
                store.remove()
            raise
        measuring(prepared, progress, on_row)
        result = SweepResult(store.find_sweep(sweep), store.rows(sweep))
        store.close()
        return result


def _sweep_leftovers(folder: Path) -> None:
    """Removes what killed exports left among the artifacts of a store."""
    artifacts = folder / ARTIFACTS
    if artifacts.is_dir():
        for one in artifacts.iterdir():
            remove_leftovers(one)


Measuring = Callable[[PreparedSweep, "Progress", Callable[[Row], None]], None]


@contextmanager
def _measuring(
    cluster: ClusterSpec | None, spec: SweepSpec, runs: tuple[RunSpec, ...], progress: Progress
) -> Iterator[Measuring]:
    """Who measures the rows of a sweep, of which some runs are still open. A cluster is asked
    first who can run those, and let go of at the end."""
    if bool(spec.nodes) != (cluster is not None):
        raise StmdeployError(
            "the sweep is of the nodes of a cluster"
            if spec.nodes
            else "the sweep is of one machine",
            "give --cluster ADDRESS" if spec.nodes else "leave --cluster out",
        )
    if cluster is None:
        yield lambda prepared, told, on_row: SweepRun(prepared, told, on_row).measure()
        return
    progress.detail(f"asking the cluster {cluster.address}")
    fleet = RayFleet(cluster.address)
    try:
        chosen = plan(fleet, runs, environment(), cluster)
        yield lambda prepared, told, on_row: ClusterRun(
            prepared, fleet, cluster, told, on_row
        ).measure(chosen)
    finally:
        fleet.close()


def plan_cluster(spec: SweepSpec, cluster: ClusterSpec) -> Plan:
    """Which nodes of a cluster would run what.

    Raises:
        StmdeployError: as `stmdeploy.cluster.dispatching.plan`.
    """
    check_sweep(spec)
    fleet = RayFleet(cluster.address)
    try:
        return plan(fleet, spec.runs, environment(), cluster)
    finally:
        fleet.close()


def prepare(spec: SweepSpec, folder: Path, progress: Progress) -> dict[RowSpec, PreparedArtifact]:
    """Exports what the rows of a sweep need, each model in a worker, and measures nothing.

    Args:
        folder: holds the artifacts afterwards, and a store of its own.

    Raises:
        StmdeployError: bad input, or an export that failed, with its exit code.
    """
    check_sweep(spec)
    rows = spec.rows()
    store = Store(folder, create=True)
    store.add_sweep("prepared", spec.to_json(), [(row.key, row.to_json()) for row in rows])
    prepared = PreparedSweep(store, "prepared", progress)
    prepared.prepare()
    store.close()
    found = {row: prepared.artifact_of(row) for row in rows}
    for row, artifact in found.items():
        if artifact.failure:
            raise StmdeployError(
                f"{row.model.label} for {row.run.runtime}: {artifact.failure}",
                "mend the model, or the exporter",
                ExitCode(artifact.code),
            )
    return found


def operations_of(
    models: tuple[ModelSpec, ...], lowering: str | None, progress: Progress
) -> dict[ModelSpec, tuple[Operation, ...]]:
    """What models must do, from their ONNX graphs, which are exported for it.

    Raises:
        StmdeployError: bad input, or an export that failed.
    """
    runs = (RunSpec("onnxruntime", 1, available_threads()),)
    spec = SweepSpec(models, runs, lowering=lowering)
    with scratch_folder("bound") as folder:
        found = prepare(spec, folder, progress)
    return {row.model: artifact.operations for row, artifact in found.items()}


def resume(
    folder: Path,
    sweep: str | None,
    progress: Progress,
    on_row: Callable[[Row], None],
    *,
    retry_failed: bool = False,
    store_url: str = "",
    cluster: ClusterSpec | None = None,
    trust: bool = False,
) -> SweepResult:
    """Goes on with a sweep where it was left; finished rows are not measured again.

    Args:
        trust: whether programs, addresses and paths that the store names are used.

    Raises:
        StmdeployError: no such sweep, its runtimes are no longer there, or it names what only
            somebody who is trusted may.
    """
    store = Store(folder, url=store_url)
    info = _to_resume(store, sweep, retry_failed=retry_failed, on_cluster=cluster is not None)
    spec = store.asked(info.id)
    refuse_wishes(_wishes(store, info.id, spec), f"sweep {info.id} of {store.name}", trust=trust)
    check_sweep(spec)
    states = {DONE} if retry_failed else {DONE, FAILED}
    still_open = tuple(row.row.run for row in store.planned(info.id) if row.state not in states)
    prepared = PreparedSweep(store, info.id, progress)
    with (
        _measuring(cluster, spec, still_open, progress) as measuring,
        writable(store.folder),
    ):
        _sweep_leftovers(store.folder)
        if retry_failed:
            store.plan_failed_again(info.id)
        prepared.prepare()
        measuring(prepared, progress, on_row)
    return SweepResult(store.find_sweep(info.id), store.rows(info.id))


def _wishes(store: Store, sweep: str, spec: SweepSpec) -> Iterator[Wish]:
    """What a stored sweep names: in its own spec, in those of its rows, and as artifacts."""
    yield from wishes_of_sweep(spec)
    for planned in store.planned(sweep):
        row = planned.row
        yield from (*wishes_of_model(row.model), *wishes_of_run(row.run))
    for prepared in store.prepared(sweep).values():
        for artifact in prepared.artifacts:
            if artifact.path is not None:
                yield from wishes_of_artifact(
                    artifact.path, exporter_for_target(artifact.target, source_only=True)
                )


def _to_resume(
    store: Store, sweep: str | None, *, retry_failed: bool, on_cluster: bool
) -> SweepInfo:
    """The sweep that is named; else the newest that is open, of a cluster's or of one machine's
    as it is to be measured, for a server holds those of others too."""
    if sweep is not None or retry_failed or (_unexplained(store) and not on_cluster):
        return store.find_sweep(sweep)
    newest = store.find_sweep(None, unfinished=True)
    for info in reversed(store.sweeps()):
        nodes = store.asked(info.id).nodes
        if info.unfinished and bool(nodes) == on_cluster:
            return info
    return newest  # which says what is wrong with it


def _unexplained(store: Store) -> bool:
    """Whether the newest sweep was ended after its last measurement, before its rows were
    explained."""
    sweeps = store.sweeps()
    if not sweeps or sweeps[-1].unfinished:
        return False
    if not store.asked(sweeps[-1].id).explain:
        return False
    return any(row.parts_ms is None for row in store.measured(sweeps[-1].id).values())


def look_into(spec: SweepSpec, progress: Progress, repeats: int = 10) -> list[LayerTimes]:
    """Where the time of every row of a sweep goes; nothing is stored.

    Raises:
        StmdeployError: bad input, or a row that failed.
    """
    check_sweep(spec)
    with scratch_folder("layers") as folder:
        store = Store(folder, create=True)
        store.add_sweep("layers", spec.to_json(), [(r.key, r.to_json()) for r in spec.rows()])
        prepared = PreparedSweep(store, "layers", progress)
        prepared.prepare()
        found = []
        for row, answer in SweepRun(prepared, progress, lambda _: None).layers(repeats):
            if answer.layers is None:
                code = ExitCode(answer.code or ExitCode.WORKER_FAILED)
                raise StmdeployError(
                    f"{row.model.label} on {row.run.runtime}: {answer.failure}", answer.hint, code
                )
            found.append(LayerTimes(row, answer.layers))
        store.close()
        return found


def prune(store: Store, sweep: str, *, samples_only: bool) -> None:
    """Throws away a sweep with its artifacts and logs, or only its raw samples."""
    if samples_only:
        store.drop_samples(sweep)
        return
    store.remove_sweep(sweep)
    for kind in (ARTIFACTS, LOGS):
        shutil.rmtree(store.folder / kind / sweep, ignore_errors=True)
