"""Rows on a simulated fleet: each once, on its kind, one at a time on a node, whatever happens."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from stmdeploy import StmdeployError
from stmdeploy.cluster.fleet import Node
from stmdeploy.cluster.planning import ClusterSpec, Plan, check_cluster_sweep, plan
from stmdeploy.errors import DiskFullError, ExitCode, Failure, FailureKind
from stmdeploy.results.state import DONE, FAILED
from stmdeploy.results.store import Store
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import Row
from stmdeploy.spec.export import EngineSpec
from stmdeploy.spec.run import RunSpec, ScenarioSpec
from stmdeploy.spec.sweep import SweepSpec
from stmdeploy.sweeps.cluster.dispatching import ClusterRun
from stmdeploy.sweeps.cluster.documents import BlockAnswer, RowTask
from stmdeploy.sweeps.prepared import PreparedSweep
from stmdeploy.sweeps.profile import Place, ResumeSpec, resume
from tests.fakes import RecordedProgress
from tests.sweeps.cluster.conftest import NODES, sweep_spec
from tests.sweeps.cluster.simulated import (
    Outcome,
    SimulatedFleet,
    answered,
    environment,
    facts,
    nodes,
)

Prepare = Callable[[SweepSpec], PreparedSweep]
MakeProcess = Callable[..., ProcessRun]
DIED = Failure(FailureKind.SIGNAL, "worker died of SIGSEGV")
SPEC = ClusterSpec("simulated", patience_s=60.0)


@pytest.fixture
def progress() -> RecordedProgress:
    return RecordedProgress()


@pytest.fixture
def works(make_process: MakeProcess) -> Outcome:
    """Every row takes ten seconds."""

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        return 10.0, answered(node, make_process(), make_process())

    return outcome


def _run(prepared: PreparedSweep, fleet: SimulatedFleet, progress: RecordedProgress) -> list[Row]:
    done: list[Row] = []
    chosen = plan(fleet, prepared.spec.runs, environment(), SPEC)
    ClusterRun(prepared, fleet, SPEC, progress, done.append, lambda: fleet.now).measure(chosen)
    return done


def _check(fleet: SimulatedFleet) -> None:
    """Nobody ran another kind's row, or two at once."""
    by_node: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for ran in fleet.ran:
        assert {row.row.run.node for row in ran.task.rows} <= ran.node.accelerator_types
        if ran.ended is not None:
            by_node[ran.node.id].append((ran.started, ran.ended))
    for spans in by_node.values():
        ordered = sorted(spans)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(ordered))


def test_every_row_once_on_its_kind(
    prepare: Prepare, works: Outcome, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(*range(1, 21)))
    fleet = SimulatedFleet(list(nodes(A100=3, H100=1, L4=2)), works)
    done = _run(prepared, fleet, progress)
    assert len(done) == 60
    assert Counter(row.node for row in done) == dict.fromkeys(NODES, 20)
    assert len({(row.node, row.batch) for row in prepared.store.rows("s")}) == 60
    assert prepared.store.find_sweep("s").states == {DONE: 60}
    _check(fleet)
    # All nodes were busy until their kind had no rows left: one H100 takes twenty times ten, and
    # the reference as guest of the two blocks that it is not in.
    assert fleet.now == 220.0
    assert max(len(ran.task.rows) for ran in fleet.ran) == 8, "seven and a guest"
    assert all(ran.task.reference is not None for ran in fleet.ran)
    assert len(fleet.shared) == len(set(fleet.shared)), "every file is shared once"
    assert fleet.most_in_hand <= 2 * 6
    (row, *_) = done
    assert [attempt.failure for attempt in row.tries] == [""]
    assert row.device_name == "Test CPU" and row.measurement is not None
    assert row.measurement.processes == 2


def test_rows_of_a_kind_are_compared_whichever_node_measured_them(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    """Copies of a row: each by turns with those of its block, and by the guest with the others."""
    prepared = prepare(sweep_spec(1, repeats=10))

    def outcome(task: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        slower = (1.0 if node.name == "A100-0" else 3.0) * (2.0 if task.row.repeat == 4 else 1.0)
        waves = [
            make_process(samples_ms=(slower * f,) * 2, turns=(1, 1), wave=wave)
            for wave, f in enumerate((1.0, 1.0 + 0.001 * task.row.repeat, 0.999))
        ]
        return 10.0, answered(node, *waves)

    fleet = SimulatedFleet(list(nodes(A100=2, H100=1, L4=1)), outcome)
    _run(prepared, fleet, progress)
    by_node = {node: [r for r in prepared.store.rows("s") if r.node == node] for node in NODES}
    for rows in by_node.values():
        keys = {row.key: row.repeat for row in rows}
        for row in rows:
            found = {keys[one.key]: math.exp(one.difference) for one in row.contrasts}
            assert found.keys() == {*range(10)} - {row.repeat}, "with those of its kind, and all"
            ratio = 2.0 if row.repeat == 4 else 1.0
            for other, value in found.items():
                assert value == pytest.approx(ratio / (2.0 if other == 4 else 1.0), rel=0.01)
    nodes_of_a100 = {row.tries[0].node for row in by_node["A100"]}
    assert len(nodes_of_a100) == 2, "it is three times slower, which no ratio knows of"


def test_a_reference_that_fails_costs_no_other_row(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(1, repeats=20))

    def outcome(task: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if task.row.repeat == 0:
            return 1.0, answered(node, failure=DIED)
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), outcome)
    done = _run(prepared, fleet, progress)
    assert len(done) == 60
    assert [row.repeat for row in done if row.failure is not None] == [0, 0, 0]
    assert max(len(row.tries) for row in done if row.failure is None) == 1


def test_a_lost_node_costs_no_row(
    prepare: Prepare, works: Outcome, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(*range(1, 11)))
    fleet = SimulatedFleet(list(nodes(A100=2, H100=2, L4=1)), works)

    def at_25_s() -> None:
        if fleet.now > 20 and any(node.name == "A100-1" for node in fleet.alive):
            fleet.kill("A100-1")

    fleet.on_tick = at_25_s
    done = _run(prepared, fleet, progress)
    assert len({(row.node, row.batch) for row in done}) == len(done) == 30
    _check(fleet)
    lost = [row for row in done if len(row.tries) == 2]
    assert len(lost) == 5, "the rows of a block"
    for again in lost:
        assert again.node == "A100"
        assert again.tries[0].failure == "NodeDiedError: the node is dead"
        assert again.tries[1].node.startswith("A100-0 ")
        assert again.failure is None and again.measurement is not None
    assert any("it is tried again" in line for line in progress.warnings)


def test_what_fails_is_tried_on_other_nodes(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(1, 2))

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if node.name == "A100-0":
            return 1.0, answered(node, failure=DIED)
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=2, H100=1, L4=1)), outcome)
    done = _run(prepared, fleet, progress)
    assert all(row.failure is None for row in done) and len(done) == 6
    tried = [row.tries for row in done if len(row.tries) > 1]
    assert tried, "the first node got one of the rows"
    for first, second in tried:
        assert first.node.startswith("A100-0 ") and first.failure == "worker died of SIGSEGV"
        assert second.node.startswith("A100-1 ")


def test_a_row_that_fails_everywhere_fails(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(1, 2))

    def outcome(task: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if task.row.run.batch == 2 and "A100" in node.accelerator_types:
            return 1.0, answered(node, failure=DIED)
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), outcome)
    done = _run(prepared, fleet, progress)
    (failed,) = [row for row in done if row.failure]
    assert (failed.node, failed.batch, len(failed.tries)) == ("A100", 2, 3)
    assert failed.device_name == "A100" and failed.environment.processor == "Test CPU"
    assert failed.environment.versions == {"onnxruntime": "of the node"}
    assert prepared.store.find_sweep("s").states == {DONE: 5, FAILED: 1}


def test_out_of_memory_is_not_tried_again_but_smaller(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(8, smaller_batch=True))

    def outcome(task: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if task.row.run.batch > 4 and "L4" in node.accelerator_types:
            return 1.0, answered(
                node, failure=Failure(FailureKind.OUT_OF_MEMORY, "CUDA out of memory")
            )
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), outcome)
    done = _run(prepared, fleet, progress)
    assert [(r.batch, bool(r.failure)) for r in done if r.node == "L4"] == [(8, True), (4, False)]
    assert len([ran for ran in fleet.ran if "L4" in ran.node.accelerator_types]) == 2


def test_a_driver_that_ends_is_taken_up(
    prepare: Prepare, works: Outcome, progress: RecordedProgress
) -> None:
    spec = sweep_spec(*range(1, 11))
    prepared = prepare(spec)
    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), works)

    def interrupt() -> None:
        if fleet.now > 85:
            raise KeyboardInterrupt

    fleet.on_tick = interrupt
    with pytest.raises(KeyboardInterrupt):
        _run(prepared, fleet, progress)
    before = prepared.store.find_sweep("s").states[DONE]
    assert 0 < before < 30
    prepared.store.close()
    again = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), works)
    resumed = prepare(spec)
    assert len(_run(resumed, again, progress)) == 30 - before
    assert resumed.store.find_sweep("s").states == {DONE: 30}
    assert len({(row.node, row.batch) for row in resumed.store.rows("s")}) == 30


def test_a_full_disk_costs_the_row(
    prepare: Prepare, works: Outcome, progress: RecordedProgress, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = prepare(sweep_spec(1))

    def full(*_: object, **__: object) -> bool:
        raise DiskFullError("cannot write to results.db: database or disk is full")

    monkeypatch.setattr(prepared.store, "add_processes", full)
    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), works)
    done = _run(prepared, fleet, progress)
    assert [row.failure for row in done] == [
        "cannot write to results.db: database or disk is full"
    ] * 3


def test_a_sweep_says_whose_it_is(prepare: Prepare, tmp_path: Path) -> None:
    """A cluster's is not measured here by mistake, nor the other way round."""
    prepare(sweep_spec(1)).store.close()
    with pytest.raises(StmdeployError, match="is for cluster nodes; give --cluster"):
        resume(ResumeSpec(), Place(tmp_path), RecordedProgress(), lambda _: None)
    here = Path(tmp_path / "here")
    here.mkdir()
    local = sweep_spec(1, runs=(RunSpec("onnxruntime", 1, 1),))
    store = Store(here, create=True)
    store.add_sweep("s", local.to_json(), [(r.key, r.to_json()) for r in local.rows()])
    with pytest.raises(StmdeployError, match="is for a single machine; leave --cluster out"):
        resume(ResumeSpec(), Place(here, cluster=SPEC), RecordedProgress(), lambda _: None)


def test_tries_are_remembered_by_the_next_driver(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(1))

    def dies(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        return 5.0, answered(node, make_process()) if node.name != "H100-0" else None

    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), dies)
    with pytest.raises(StmdeployError, match=r"1 for --nodes H100; bring a node back") as caught:
        _run(prepared, fleet, progress)
    assert caught.value.code == ExitCode.WORKER_FAILED
    assert fleet.now > SPEC.patience_s
    back = SimulatedFleet([*nodes(A100=1, L4=1), nodes(H100=2)[1]], dies)
    (row,) = _run(prepare(sweep_spec(1)), back, progress)
    assert [attempt.failure for attempt in row.tries] == ["NodeDiedError: the node is dead", ""]


def test_a_node_that_comes_back_in_time_goes_on(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(1, 2))
    first, second = nodes(H100=2)

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        return 5.0, None if node == first else answered(node, make_process())

    fleet = SimulatedFleet([*nodes(A100=1, L4=1), first], outcome)

    def replace_it() -> None:
        if fleet.now > 20 and second not in fleet.alive:
            fleet.alive.append(second)

    fleet.on_tick = replace_it
    assert len(_run(prepared, fleet, progress)) == 6
    assert any("no node is left for --nodes H100" in line for line in progress.warnings)


def test_a_row_that_waits_for_a_node_that_dies_comes_back(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    """It failed on the one node of its kind that is left, and may go there after all."""
    prepared = prepare(sweep_spec(1, 2, 3))
    failures: list[RowTask] = []

    def outcome(task: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if node.name == "A100-1":
            return 1000.0, answered(node, make_process())
        if node.name == "A100-0" and not failures:
            failures.append(task)
            return 1.0, answered(node, failure=DIED)
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=2, H100=1, L4=1)), outcome)

    def at_100_s() -> None:
        if fleet.now > 100 and any(node.name == "A100-1" for node in fleet.alive):
            fleet.kill("A100-1")

    fleet.on_tick = at_100_s
    done = _run(prepared, fleet, progress)
    assert len(done) == 9 and all(row.failure is None for row in done)


def test_a_late_node_that_cannot_is_left_out(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    """Though it would always be the first one that is free again."""
    prepared = prepare(sweep_spec(*range(1, 11)))
    late = nodes(A100=3)[2]

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        assert node != late
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=2, H100=1, L4=1)), outcome)
    fleet.said = {late.id: "No module named 'stmdeploy'"}

    def joins() -> None:
        if fleet.now > 15 and late not in fleet.alive:
            fleet.alive.append(late)
            fleet.busy_first(late)

    fleet.on_tick = joins
    assert len(_run(prepared, fleet, progress)) == 30
    assert any("is left out: No module named 'stmdeploy'" in w for w in progress.warnings)


def test_a_killed_worker_is_tried_elsewhere(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    """It may have been a preemption; what an engine says of its memory is final."""
    prepared = prepare(sweep_spec(1))

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if node.name == "A100-0":
            killed = Failure(FailureKind.KILLED, "worker was killed (SIGKILL)")
            return 1.0, answered(node, failure=killed)
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=2, H100=1, L4=1)), outcome)
    done = _run(prepared, fleet, progress)
    assert all(row.failure is None for row in done)


def test_a_node_of_two_kinds_is_refused(works: Outcome) -> None:
    both = Node("both", "both", frozenset({"A100", "EPYC"}), gpus=1)
    fleet = SimulatedFleet([both, *nodes(H100=1, L4=1)], works)
    runs = [*sweep_spec(1).runs, RunSpec("onnxruntime", 1, 1, node="EPYC")]
    with pytest.raises(StmdeployError, match="would measure both at once"):
        plan(fleet, runs, environment(), SPEC)


def test_a_misplaced_row_goes_elsewhere_and_is_nobodys_failure(
    prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    prepared = prepare(sweep_spec(1, 2, 3))

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        if node.name == "A100-0":
            return 0.1, answered(node, misplaced="it has onnxruntime 1.0, the others 2.0")
        return 10.0, answered(node, make_process())

    fleet = SimulatedFleet(list(nodes(A100=2, H100=1, L4=1)), outcome)
    done = _run(prepared, fleet, progress)
    assert [len(row.tries) for row in done] == [1] * 9
    assert sum(ran.node.name == "A100-0" for ran in fleet.ran) <= 2


def test_a_kind_that_nobody_has_is_said_at_once(
    works: Outcome,
) -> None:
    fleet = SimulatedFleet(list(nodes(A100=2, T4=1)), works)
    with pytest.raises(StmdeployError, match=r"no node .* 'H100'.* there are A100 x2, T4 x1"):
        plan(fleet, sweep_spec(1).runs, environment(), SPEC)


def test_versions_that_differ_are_refused_or_recorded(
    prepare: Prepare, works: Outcome, progress: RecordedProgress
) -> None:
    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), works)
    fleet.said = {node.id: facts(onnxruntime="1.2") for node in fleet.alive}
    runs, here = sweep_spec(1).runs, environment(onnxruntime="1.1", numpy="2.0")
    with pytest.raises(StmdeployError, match=r"onnxruntime 1.1 \(this machine\) and 1.2 \(A100"):
        plan(fleet, runs, here, SPEC)
    allowed = ClusterSpec("simulated", allow_version_differences=True)
    found = plan(fleet, runs, here, allowed)
    assert found.versions == {} and len(found.differences) == 1
    prepared = prepare(sweep_spec(1))
    ClusterRun(prepared, fleet, allowed, progress, lambda _: None).measure(found)
    assert any("every row records its own" in line for line in progress.warnings)
    same = plan(fleet, runs, environment(onnxruntime="1.2"), SPEC)
    assert same.versions == {"onnxruntime": "1.2"}, "of nodes that join later"


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (RunSpec("aotinductor", 1, 1, node="A100"), "only runs on the machine that compiled it"),
        (RunSpec("onnxruntime", 1, 1, node="A100", python="/usr/bin/python3"), "--python"),
    ],
)
def test_what_is_of_one_machine_is_refused(run: RunSpec, message: str) -> None:
    with pytest.raises(StmdeployError, match=message):
        check_cluster_sweep(sweep_spec(1, runs=(run,)))


def test_a_timing_cache_is_of_one_machine(tmp_path: Path) -> None:
    engine = EngineSpec(timing_cache=tmp_path)
    with pytest.raises(StmdeployError, match="--timing-cache-file is a path on this machine"):
        check_cluster_sweep(sweep_spec(1, engine=engine))


def test_loadgen_must_be_on_the_nodes(works: Outcome) -> None:
    fleet = SimulatedFleet(list(nodes(A100=1, H100=1, L4=1)), works)
    without = facts().model_copy(update={"unavailable": {"loadgen": "pip install it"}})
    fleet.said = {node.id: without for node in fleet.alive}
    runs = [replace(run, scenario=ScenarioSpec("offline")) for run in sweep_spec(1).runs]
    with pytest.raises(StmdeployError, match="cannot run loadgen: pip install it"):
        plan(fleet, runs, environment(), SPEC)
    assert isinstance(plan(fleet, sweep_spec(1).runs, environment(), SPEC), Plan)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.slow
@pytest.mark.parametrize("count", [90, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_a_hundred_nodes_and_thousands_of_rows(
    count: int, prepare: Prepare, make_process: MakeProcess, progress: RecordedProgress
) -> None:
    """Planned, scheduled and stored, with a driver whose memory does not grow with the rows."""
    spec = sweep_spec(*range(1, count // 3 + 2))
    spec = replace(spec, runs=spec.runs[:count])
    prepared = prepare(spec)
    samples = tuple(10.0 + i % 7 / 10 for i in range(300))
    process = make_process(samples_ms=samples)

    def outcome(_: RowTask, node: Node) -> tuple[float, BlockAnswer | None]:
        return 0.003, answered(node, process, process, process)

    fleet = SimulatedFleet(list(nodes(A100=40, H100=40, L4=20)), outcome, keep=False)
    resident: list[float] = []
    chosen = plan(fleet, spec.runs, environment(), SPEC)

    def look(_: Row) -> None:
        resident.append(_resident_mib())

    ClusterRun(prepared, fleet, SPEC, progress, look).measure(chosen)
    assert len(resident) == count
    assert prepared.store.find_sweep("s").states == {DONE: count}
    assert fleet.most_in_hand <= 200
    first = count // 10
    grown = max(resident[first:]) - resident[first]
    assert grown < 16, f"{grown:.1f} MiB more over {count - first} rows"
