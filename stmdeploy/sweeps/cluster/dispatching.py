"""Rows handed out to the nodes of a cluster, and taken back into the store as they finish."""

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
from stmdeploy.results.state import DONE, FAILED, MEASURING, now_utc
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

#: A row is tried so often, on another node each time as long as there is one.
_MOST_TRIES = 3
#: Tasks that Ray has in hand for every node, so that none waits for the driver.
_AHEAD = 2
_TICK_S = 1.0


class ClusterRun:
    """A prepared sweep, being measured by the nodes of a cluster.

    The driver keeps the positions of the open rows, and of nothing else more than the few rows
    that are in hand.
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
        self._versions: dict[str, str] = {}

    def measure(self, plan: Plan) -> None:
        """Measures every open row on a node of its kind.

        Raises:
            StmdeployError: (exit code 5) the cluster is gone, or no node of a kind came back.
        """
        for difference in plan.differences:
            self._progress.warn(f"versions differ, and every row records its own: {difference}")
        for kind, chosen in plan.chosen.items():
            for reason in chosen.avoided.values():
                self._progress.warn(f"a node is left out for {kind.flag}: {reason}")
        self._versions = dict(plan.versions)
        queues = Queues(self._fleet, self._cluster, plan, self._progress, self._now)
        self._line_up(queues)
        try:
            while queues.is_open:
                queues.look()
                self._hand_out(queues)
                if not queues.running and queues.patience_is_over():
                    break
                for handle, answer in self._fleet.wait(queues.running.keys(), _TICK_S):
                    self._take_back(queues, queues.take_back(handle), answer)
        except BaseException:
            with suppress(StmdeployError):  # the cluster may be what is gone
                self._fleet.cancel(list(queues.running))
            raise
        queues.check_done()

    def _line_up(self, queues: Queues) -> None:
        kinds: dict[int, Kind] = {}
        for row in self._store.planned(self._sweep):
            if row.state == MEASURING:
                self._tried.add(row.position)
            if row.state not in (DONE, FAILED):
                kinds[row.position] = kind_of(row.row.run)
        # Rows that another driver opened again meanwhile are its own.
        mine = sorted(position for position, kind in kinds.items() if kind in queues.by_kind)
        for position in shuffled(mine, self._sweep, 0):
            queues.by_kind[kinds[position]].waiting.append(position)
        self._progress.expect(len(mine))

    def _hand_out(self, queues: Queues) -> None:
        for queue in queues.by_kind.values():
            while queue.waiting and queue.running < _AHEAD * queue.nodes:
                self._start(queues, queue, queue.waiting.popleft())

    def _start(self, queues: Queues, queue: Queue, position: int) -> None:
        spec = self._store.planned_row(self._sweep, position).row
        try:
            shipped = self._ship(self._prepared.verified(spec))
        except StmdeployError as error:
            self._fail(queues, spec, position, Failure.of(error))
            return
        except OSError as error:
            told = f"its artifact cannot be read: {error}"
            self._fail(queues, spec, position, Failure(FailureKind.NOT_EXPORTED, told))
            return
        sweep = self._spec
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
        place = Place(
            queue.kind.accelerator_type,
            queue.kind.gpu,
            frozenset(queue.avoided | self._spared(queue, failed_on)),
        )
        handle = self._fleet.start(task, place)
        queues.running[handle] = Running(queue, position, spec, place, now_utc())
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
        """Nodes that failed at a row before, as long as another one is there."""
        if not failed_on:
            return set()
        nodes = queue.places(self._fleet.nodes())
        failed = {node.id for node in nodes if node.label in failed_on}
        return failed if len(failed) < len(nodes) else set()

    def _tries(self, position: int) -> tuple[Try, ...]:
        if position not in self._tried:
            return ()
        row = self._store.row_so_far(self._sweep, position)
        return row.tries if row is not None else ()

    def _take_back(self, queues: Queues, running: Running, answer: RowAnswer | Lost) -> None:
        queue, position = running.queue, running.position
        if isinstance(answer, RowAnswer) and answer.misplaced:
            queues.avoid(queue, answer.node_id, answer.node, answer.misplaced)
            queue.waiting.append(position)
            queues.look_soon()
            return
        spec = running.spec
        tries = (*self._tries(position), _try_of(running, answer))
        if isinstance(answer, RowAnswer) and not answer.failure:
            self._keep(queues, spec, position, answer, tries)
            return
        if isinstance(answer, Lost):
            queues.look_soon()
        failure = _failure_of(answer)
        # Memory that an engine says is out would be out on another node too.
        if len(tries) < _MOST_TRIES and failure.kind is not FailureKind.OUT_OF_MEMORY:
            again = replace(failure, message=f"to be tried again: {failure.message}")
            row = self._prepared.row(spec, failure=again).model_copy(update={"tries": tries})
            self._store.save_row(self._sweep, position, row, MEASURING)
            self._tried.add(position)
            self._progress.warn(f"{_title(spec)}: {failure.message}; it is tried again")
            queue.waiting.append(position)
        else:
            self._fail(queues, spec, position, failure, tries, _environment_of(answer))

    def _fail(
        self,
        queues: Queues,
        spec: RowSpec,
        position: int,
        failure: Failure,
        tries: tuple[Try, ...] = (),
        environment: dict[str, Environment] | None = None,
    ) -> None:
        told = {"tries": tries, **(environment or {})}
        row = self._prepared.row(spec, failure=failure).model_copy(update=told)
        self._store.save_row(self._sweep, position, row, FAILED)
        self._progress.step(f"{_title(spec)} failed: {failure.message}")
        self._on_row(row)
        added = self._prepared.add_smaller(spec, failure)
        if added is not None:
            queues.by_kind[kind_of(spec.run)].waiting.append(added)
            self._progress.expect(1)

    def _keep(
        self,
        queues: Queues,
        spec: RowSpec,
        position: int,
        answer: RowAnswer,
        tries: tuple[Try, ...],
    ) -> None:
        try:
            processes = self._with_logs(spec, answer)
            row = self._row_of(spec, answer, processes, tries)
            kept = self._store.add_processes(self._sweep, position, processes, row, DONE)
        except DiskFullError as error:
            # Without its samples a row takes little room; if not even that is left, this raises.
            failure = Failure(FailureKind.STORAGE, error.message, error.hint)
            self._fail(queues, spec, position, failure, tries, _environment_of(answer))
            return
        if kept:
            self._progress.step(f"{_title(spec)} measured on {answer.node}")
            self._on_row(row)

    def _row_of(
        self,
        spec: RowSpec,
        answer: RowAnswer,
        processes: tuple[ProcessRun, ...],
        tries: tuple[Try, ...],
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
        """The processes, with LoadGen's logs brought here from the node."""
        if not answer.logs:
            return answer.processes
        folder = (logs_of(self._store, self._sweep) / spec.key).resolve()
        for name, text in answer.logs.items():
            write_atomically(folder / name, text.encode())
        return tuple(
            process.model_copy(
                update={"scenario": process.scenario.model_copy(update={"logs": str(folder)})}
            )
            if process.scenario
            else process
            for process in answer.processes
        )


def _failure_of(answer: RowAnswer | Lost) -> Failure:
    if isinstance(answer, Lost):
        return Failure(FailureKind.DEVICE, answer.reason)
    assert answer.failure is not None
    return answer.failure


def _environment_of(answer: RowAnswer | Lost) -> dict[str, Environment]:
    """That of the node that failed, where it could say."""
    return {"environment": answer.environment} if isinstance(answer, RowAnswer) else {}


def _try_of(running: Running, answer: RowAnswer | Lost) -> Try:
    if isinstance(answer, Lost):
        return Try(
            node="",
            started_utc=running.started_utc,
            ended_utc=now_utc(),
            failure=answer.reason,
        )
    return Try(
        node=answer.node,
        started_utc=answer.started_utc,
        ended_utc=answer.ended_utc,
        failure=answer.failure.message if answer.failure else "",
    )


def _figures_of(built: PreparedArtifact) -> dict[str, object]:
    """The fields of a row that are of an engine which was built where it ran."""
    return {
        "artifact_sha256": built.sha256,
        "artifact_mib": built.mib,
        "build_s": built.build_s,
        "relative_l2_error": built.relative_l2_error,
    }


def _title(spec: RowSpec) -> str:
    run = spec.run
    return f"{spec.model.label} on {run.runtime}, {run.node}, {run.precision}, batch {run.batch}"
