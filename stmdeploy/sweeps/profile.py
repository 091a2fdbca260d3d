"""A sweep from beginning to end: checked, stored, prepared, measured; and resumed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stmdeploy.cluster.planning import ClusterSpec, Plan, plan
from stmdeploy.cluster.ray_fleet import RayFleet
from stmdeploy.errors import StmdeployError
from stmdeploy.files.writing import writable
from stmdeploy.hardware.environment import environment
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_for_target
from stmdeploy.plugins.trust import (
    Wish,
    refuse_wishes,
    wishes_of_artifact,
    wishes_of_model,
    wishes_of_run,
    wishes_of_sweep,
)
from stmdeploy.results.state import DONE, FAILED, SweepInfo
from stmdeploy.results.store import Store
from stmdeploy.schema.row import Row
from stmdeploy.spec.run import RunSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.asked import check_sweep
from stmdeploy.sweeps.cluster.dispatching import ClusterRun
from stmdeploy.sweeps.cluster.node import MEASURING
from stmdeploy.sweeps.folder import remove_partial
from stmdeploy.sweeps.here import SweepRun
from stmdeploy.sweeps.prepared import PreparedSweep

OnRow = Callable[[Row], None]


@dataclass(frozen=True)
class Place:
    """Where rows are kept, and where they are measured.

    Attributes:
        folder: folder of the store, its artifacts and logs.
        store_url: URL of a PostgreSQL server; empty for a file in the folder.
        cluster: cluster whose nodes measure; None for this machine.
    """

    folder: Path
    store_url: str = ""
    cluster: ClusterSpec | None = None


@dataclass(frozen=True)
class SweepResult:
    """A sweep as it stands after measuring."""

    sweep: SweepInfo
    rows: tuple[Row, ...]
    reference: str = ""


def profile(spec: SweepSpec, place: Place, progress: Progress, on_row: OnRow) -> SweepResult:
    """Measures a sweep, each process of each row in its own worker, here or on a cluster.

    What is measured is stored at once; an interrupt keeps it, and `resume` goes on from there. A
    row that fails is stored with its reason, and the others go on. `on_row` gets every row that is
    finished.

    Raises:
        StmdeployError: bad input, before anything is measured; nothing is then left behind.
    """
    check_sweep(spec)
    with _measuring(place.cluster, spec, spec.runs, progress) as measure, writable(place.folder):
        store = Store(place.folder, url=place.store_url, create=True)
        remove_partial(place.folder)
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
        measure(prepared, progress, on_row)
        result = SweepResult(store.find_sweep(sweep), store.rows(sweep), spec.reference)
        store.close()
        return result


@dataclass(frozen=True)
class ResumeSpec:
    """Which sweep to resume, and how.

    Attributes:
        sweep: its id, or the beginning of it; None for the newest unfinished sweep.
        retry_failed: whether to measure failed rows again, too.
        trust: whether to use programs, addresses and paths that the store names.
    """

    sweep: str | None = None
    retry_failed: bool = False
    trust: bool = False


def resume(asked: ResumeSpec, place: Place, progress: Progress, on_row: OnRow) -> SweepResult:
    """Resumes a sweep where it was left; finished rows are not measured again.

    Raises:
        StmdeployError: no such sweep, its runtimes are no longer installed, or it names what needs
            ``--trust``.
    """
    store = Store(place.folder, url=place.store_url)
    info = _to_resume(store, asked, on_cluster=place.cluster is not None)
    spec = store.asked(info.id)
    wishes = _wishes(store, info.id, spec)
    refuse_wishes(wishes, f"sweep {info.id} of {store.name}", trust=asked.trust)
    check_sweep(spec)
    states = {DONE} if asked.retry_failed else {DONE, FAILED}
    still_open = tuple(row.row.run for row in store.planned(info.id) if row.state not in states)
    prepared = PreparedSweep(store, info.id, progress)
    with _measuring(place.cluster, spec, still_open, progress) as measure, writable(store.folder):
        remove_partial(store.folder)
        if asked.retry_failed:
            store.plan_failed_again(info.id)
        prepared.prepare()
        measure(prepared, progress, on_row)
    return SweepResult(store.find_sweep(info.id), store.rows(info.id), spec.reference)


_Measuring = Callable[[PreparedSweep, Progress, OnRow], None]


@contextmanager
def _measuring(
    cluster: ClusterSpec | None, spec: SweepSpec, runs: tuple[RunSpec, ...], progress: Progress
) -> Iterator[_Measuring]:
    """A function that measures the open runs of a sweep, here or on a connected cluster.

    A cluster is asked first which of its nodes can run them.
    """
    if spec.nodes and cluster is None:
        raise StmdeployError("the sweep is for cluster nodes", "give --cluster ADDRESS")
    if cluster is None:
        yield lambda prepared, told, on_row: SweepRun(prepared, told, on_row).measure()
        return
    if not spec.nodes:
        raise StmdeployError("the sweep is for a single machine", "leave --cluster out")
    progress.detail(f"asking the nodes of the cluster {cluster.address}")
    with closing(RayFleet(cluster.address, MEASURING)) as fleet:
        chosen = plan(fleet, runs, environment(), cluster)
        yield lambda prepared, told, on_row: ClusterRun(
            prepared, fleet, cluster, told, on_row
        ).measure(chosen)


def plan_cluster(spec: SweepSpec, cluster: ClusterSpec) -> Plan:
    """Which nodes of a cluster would run which rows.

    Raises:
        StmdeployError: as `stmdeploy.cluster.planning.plan`.
    """
    check_sweep(spec)
    with closing(RayFleet(cluster.address, MEASURING)) as fleet:
        return plan(fleet, spec.runs, environment(), cluster)


def _wishes(store: Store, sweep: str, spec: SweepSpec) -> Iterator[Wish]:
    """What a stored sweep names: in its specification, in those of its rows, and as artifacts."""
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


def _to_resume(store: Store, asked: ResumeSpec, *, on_cluster: bool) -> SweepInfo:
    """The named sweep; else the newest unfinished one for a cluster, or for a single machine.

    A server may hold both kinds.
    """
    named = asked.sweep is not None or asked.retry_failed
    if named or (_unexplained(store) and not on_cluster):
        return store.find_sweep(asked.sweep)
    newest = store.find_sweep(None, unfinished=True)
    for info in reversed(store.sweeps()):
        nodes = store.asked(info.id).nodes
        if info.unfinished and bool(nodes) == on_cluster:
            return info
    return newest  # of the other kind; `_measuring` says so


def _unexplained(store: Store) -> bool:
    """Whether the newest sweep is measured, but was ended before all its rows were explained."""
    sweeps = store.sweeps()
    if not sweeps or sweeps[-1].unfinished or not store.asked(sweeps[-1].id).explain:
        return False
    return any(row.parts_ms is None for row in store.measured(sweeps[-1].id).values())
