"""Hands rows out to the nodes of a cluster, and stores them as they finish."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from stmdeploy.errors import DiskFullError, Failure, FailureKind, StmdeployError
from stmdeploy.files.writing import write_atomically
from stmdeploy.plugins.progress import Progress
from stmdeploy.plugins.registry import exporter_of
from stmdeploy.results.state import DONE, FAILED, MEASURING, Measured, now_utc
from stmdeploy.schema.artifact import manifest_path, read_artifact
from stmdeploy.schema.hardware import Environment
from stmdeploy.schema.measurement import ProcessRun
from stmdeploy.schema.row import PreparedArtifact, Row, Try
from stmdeploy.spec.sweep import RowSpec, shuffled
from stmdeploy.sweeps.cluster.documents import RowAnswer, RowTask, Shipped
from stmdeploy.sweeps.cluster.fleet import Fleet, Lost, Place
from stmdeploy.sweeps.cluster.kinds import Kind, kind_of
from stmdeploy.sweeps.cluster.planning import ClusterSpec, Plan
from stmdeploy.sweeps.cluster.queues import Queue, Queues, Running
from stmdeploy.sweeps.explanation import bound_by
from stmdeploy.sweeps.folder import logs_of
from stmdeploy.sweeps.prepared import PreparedSweep

Tries = tuple[Try, ...]

#: How often a row is tried, each time on another node if there is one.
_MOST_TRIES = 3
#: Tasks handed to Ray per node, so that no node waits for the driver.
_AHEAD = 2
_TICK_S = 1.0


class ClusterRun:
    """A prepared sweep that the nodes of a cluster measure.

    The driver holds the positions of the open rows in memory, and whole only the few rows that are
    being measured.
    """

    def __init__(
        self,
        prepared: PreparedSweep,
        fleet: Fleet,
        cluster: ClusterSpec,
        progress: Progress,
        on_row: Callable[[Row], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._prepared, self._fleet, self._cluster = prepared, fleet, cluster
        self._progress, self._on_row = progress, on_row
        self._store, self._sweep, self._spec = prepared.store, prepared.id, prepared.spec
        self._shipped: dict[Path, Shipped] = {}
        self._tried: set[int] = set()

    def measure(self, plan: Plan) -> None:
        """Measures every open row on a node of its kind.

        Raises:
            StmdeployError: (exit code 5) the cluster is gone, or a kind lost its nodes for too
                long.
        """
        for difference in plan.differences:
            self._progress.warn(f"versions differ, and every row records its own: {difference}")
        for kind, chosen in plan.chosen.items():
            for reason in chosen.avoided.values():
                self._progress.warn(f"a node is left out for {kind.flag}: {reason}")
        self._versions = dict(plan.versions)
        self._queues = queues = Queues(self._fleet, self._cluster, plan, self._progress, self._now)
        self._line_up()
        try:
            while queues.is_open:
                queues.look()
                self._hand_out()
                if not queues.running and queues.patience_is_over():
                    break
                for handle, answer in self._fleet.wait(queues.running.keys(), _TICK_S):
                    self._take_back(queues.take_back(handle), answer)
        except BaseException:
            with suppress(StmdeployError):  # the cluster may be what is gone
                self._fleet.cancel(list(queues.running))
            raise
        queues.check_done()

    def _line_up(self) -> None:
        """Puts the open rows into the queues of their kinds, in random order."""
        kinds: dict[int, Kind] = {}
        for row in self._store.planned(self._sweep):
            if row.state == MEASURING:
                self._tried.add(row.position)
            if row.state not in (DONE, FAILED):
                kinds[row.position] = kind_of(row.row.run)
        # Rows of other kinds were opened again by another driver, which measures them.
        mine = sorted(position for position, kind in kinds.items() if kind in self._queues.by_kind)
        for position in shuffled(mine, self._sweep, 0):
            self._queues.by_kind[kinds[position]].waiting.append(position)
        self._progress.expect(len(mine))

    def _hand_out(self) -> None:
        for queue in self._queues.by_kind.values():
            while queue.waiting and queue.running < _AHEAD * queue.nodes:
                self._start(queue, queue.waiting.popleft())

    def _start(self, queue: Queue, position: int) -> None:
        (planned,) = self._store.planned(self._sweep, position)
        spec, sweep = planned.row, self._spec
        try:
            shipped = self._ship(self._prepared.verified(spec))
        except StmdeployError as error:
            self._fail(spec, position, Failure.of(error))
            return
        except OSError as error:
            told = f"its artifact cannot be read: {error}"
            self._fail(spec, position, Failure(FailureKind.NOT_EXPORTED, told))
            return
        task = RowTask(
            row=spec,
            artifact=shipped,
            is_source=exporter_of(spec.run.runtime).target.travels == "source",
            engine=sweep.engine,
            sampling=sweep.sampling,
            row_timeout_s=sweep.row_timeout_s,
            export_timeout_s=sweep.export_timeout_s,
            memory_limit_mib=sweep.memory_limit_mib,
            explain=sweep.explain,
            profile=queue.profile,
            versions=self._versions,
        )
        failed_on = {attempt.node for attempt in self._tries(position)}
        avoided = frozenset(queue.avoided | self._spared(queue, failed_on))
        place = Place(queue.kind.accelerator_type, queue.kind.gpu, avoided)
        handle = self._fleet.start(task, place)
        self._queues.running[handle] = Running(queue, position, spec, place, now_utc())
        queue.running += 1

    def _ship(self, path: Path) -> Shipped:
        if path not in self._shipped:
            manifest = read_artifact(path).manifest
            for file in manifest.files:
                self._fleet.share(file.sha256, path.with_name(file.name))
            text = manifest_path(path).read_text("utf-8")
            self._shipped[path] = Shipped(manifest=text, files=manifest.files)
        return self._shipped[path]

    def _spared(self, queue: Queue, failed_on: set[str]) -> set[str]:
        """Ids of nodes that a row has failed on, unless no other node is left."""
        if not failed_on:
            return set()
        nodes = queue.places(self._fleet.nodes())
        failed = {node.id for node in nodes if node.label in failed_on}
        return failed if len(failed) < len(nodes) else set()

    def _tries(self, position: int) -> Tries:
        if position not in self._tried:
            return ()
        row = self._store.row_so_far(self._sweep, position)
        return row.tries if row is not None else ()

    def _take_back(self, running: Running, answer: RowAnswer | Lost) -> None:
        queue, position = running.queue, running.position
        if isinstance(answer, RowAnswer) and answer.misplaced:
            self._queues.avoid(queue, answer.node_id, answer.node, answer.misplaced)
            queue.waiting.append(position)
            self._queues.look_soon()
            return
        tries = (*self._tries(position), _try_of(running, answer))
        if isinstance(answer, Lost):
            self._queues.look_soon()
            self._try_again(running, Failure(FailureKind.DEVICE, answer.reason), tries)
        elif answer.failure:
            self._try_again(running, answer.failure, tries, answer.environment)
        else:
            self._keep(running.spec, position, answer, tries)

    def _try_again(
        self,
        running: Running,
        failure: Failure,
        tries: Tries,
        environment: Environment | None = None,
    ) -> None:
        """Queues a failed row once more; or lets it fail, after its last try."""
        spec, position = running.spec, running.position
        # An engine that runs out of memory would do so on another node, too.
        if len(tries) >= _MOST_TRIES or failure.kind is FailureKind.OUT_OF_MEMORY:
            self._fail(spec, position, failure, tries, environment)
            return
        again = replace(failure, message=f"to be tried again: {failure.message}")
        row = self._prepared.row(spec, failure=again).model_copy(update={"tries": tries})
        self._store.save_row(self._sweep, position, row, MEASURING)
        self._tried.add(position)
        self._progress.warn(f"{_title(spec)}: {failure.message}; it is tried again")
        running.queue.waiting.append(position)

    def _fail(
        self,
        spec: RowSpec,
        position: int,
        failure: Failure,
        tries: Tries = (),
        environment: Environment | None = None,
    ) -> None:
        """Saves a failed row; the environment is that of the node, if it could answer."""
        known = {"environment": environment} if environment else {}
        row = self._prepared.row(spec, failure=failure).model_copy(update={"tries": tries, **known})
        self._store.save_row(self._sweep, position, row, FAILED)
        self._progress.step(f"{_title(spec)} failed: {failure.message}")
        self._on_row(row)
        added = self._prepared.add_smaller(spec, failure)
        if added is not None:
            self._queues.by_kind[kind_of(spec.run)].waiting.append(added)
            self._progress.expect(1)

    def _keep(self, spec: RowSpec, position: int, answer: RowAnswer, tries: Tries) -> None:
        """Saves a measured row, or a failure if the disk is full."""
        try:
            processes = self._with_logs(spec, answer)
            row = self._row_of(spec, answer, processes, tries)
            kept = self._store.add_processes(
                self._sweep, [Measured(position, 0, processes, row, DONE)]
            )
        except DiskFullError as error:
            # A row without samples takes little room; if there is not even that much, this raises.
            failure = Failure(FailureKind.STORAGE, error.message, error.hint)
            self._fail(spec, position, failure, tries, answer.environment)
            return
        if kept:
            self._progress.step(f"{_title(spec)} measured on {answer.node}")
            self._on_row(row)

    def _row_of(
        self, spec: RowSpec, answer: RowAnswer, processes: tuple[ProcessRun, ...], tries: Tries
    ) -> Row:
        """The row of an answer, with what only its node knows."""
        operations = self._prepared.artifact_of(spec).operations
        bound = bound_by(answer.peaks, spec.run, operations)
        return self._prepared.row(spec, processes, bound=bound).model_copy(
            update={
                "device_name": answer.device,
                "started_utc": answer.started_utc,
                "parts_ms": answer.parts_ms if self._spec.explain else None,
                "tries": tries,
                **(_figures_of(answer.built) if answer.built else {}),
            }
        )

    def _with_logs(self, spec: RowSpec, answer: RowAnswer) -> tuple[ProcessRun, ...]:
        """The processes, after LoadGen's logs were copied here from the node."""
        if not answer.logs:
            return answer.processes
        folder = (logs_of(self._store, self._sweep) / spec.key).resolve()
        for name, text in answer.logs.items():
            write_atomically(folder / name, text.encode())
        return tuple(_with_log_folder(process, str(folder)) for process in answer.processes)


def _with_log_folder(process: ProcessRun, folder: str) -> ProcessRun:
    if process.scenario is None:
        return process
    scenario = process.scenario.model_copy(update={"logs": folder})
    return process.model_copy(update={"scenario": scenario})


def _try_of(running: Running, answer: RowAnswer | Lost) -> Try:
    if isinstance(answer, Lost):
        node, started, ended, failure = "", running.started_utc, now_utc(), answer.reason
    else:
        node, started, ended = answer.node, answer.started_utc, answer.ended_utc
        failure = answer.failure.message if answer.failure else ""
    return Try(node=node, started_utc=started, ended_utc=ended, failure=failure)


def _figures_of(built: PreparedArtifact) -> dict[str, object]:
    """Fields of a row that differ for an engine built on the node."""
    return {
        "artifact_sha256": built.sha256,
        "artifact_mib": built.mib,
        "build_s": built.build_s,
        "relative_l2_error": built.relative_l2_error,
    }


def _title(spec: RowSpec) -> str:
    run = spec.run
    return f"{spec.model.label} on {run.runtime}, {run.node}, {run.precision}, batch {run.batch}"
