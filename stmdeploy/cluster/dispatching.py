"""Rows handed out to the nodes of a cluster, and taken back into the store as they finish."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stmdeploy.artifact import manifest_path, read_artifact
from stmdeploy.cluster.documents import RowAnswer, RowTask, Shipped
from stmdeploy.cluster.fleet import Fleet, Handle, Lost, Node, Place
from stmdeploy.cluster.kinds import Kind, kind_of, why_not
from stmdeploy.cluster.planning import ClusterSpec, Plan
from stmdeploy.contracts import Progress
from stmdeploy.errors import ExitCode, StmdeployError
from stmdeploy.explaining import bound_by
from stmdeploy.files import DiskFullError, write_atomically
from stmdeploy.preparing import LOGS, NOT_EXPORTED, PreparedSweep, out_of_memory
from stmdeploy.registry import exporter_of
from stmdeploy.results.row import Environment, PreparedArtifact, ProcessRun, Row, Try
from stmdeploy.results.store import DONE, FAILED, MEASURING, now_utc
from stmdeploy.sweep import RowSpec, shuffled

#: A row is tried so often, on another node each time as long as there is one.
_MOST_TRIES = 3
#: Tasks that Ray has in hand for every node, so that none waits for the driver.
_AHEAD = 2
_TICK_S = 1.0
#: How often the nodes are looked at again.
_LOOK_S = 10.0


@dataclass
class _Queue:
    """The rows of one kind that are still to be handed out, and where they may go."""

    kind: Kind
    avoided: set[str]
    profile: str
    waiting: deque[int] = field(default_factory=deque)
    running: int = 0
    nodes: int = 0
    none_since: float | None = None


@dataclass(frozen=True)
class _Running:
    """A row in somebody's hands."""

    queue: _Queue
    position: int
    spec: RowSpec
    place: Place
    started_utc: str


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
        self._queues: dict[Kind, _Queue] = {}
        self._running: dict[Handle, _Running] = {}
        self._shipped: dict[Path, Shipped] = {}
        self._met: set[str] = set()
        self._tried: set[int] = set()
        self._versions: dict[str, str] = {}
        self._looked = -math.inf

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
            self._queues[kind] = _Queue(kind, set(chosen.avoided), chosen.profile)
        self._met = set(plan.facts)
        self._versions = dict(plan.versions)
        self._line_up()
        try:
            while any(queue.waiting or queue.running for queue in self._queues.values()):
                self._look_at_nodes()
                self._hand_out()
                if not self._running and self._patience_is_over():
                    break
                for handle, answer in self._fleet.wait(self._running.keys(), _TICK_S):
                    self._take_back(self._running.pop(handle), answer)
        except BaseException:
            with suppress(StmdeployError):  # the cluster may be what is gone
                self._fleet.cancel(list(self._running))
            raise
        self._say_who_is_missed()

    def _line_up(self) -> None:
        kinds: dict[int, Kind] = {}
        for row in self._store.planned(self._sweep):
            if row.state == MEASURING:
                self._tried.add(row.position)
            if row.state not in (DONE, FAILED):
                kinds[row.position] = kind_of(row.row.run)
        # Rows that another driver opened again meanwhile are its own.
        mine = sorted(position for position, kind in kinds.items() if kind in self._queues)
        for position in shuffled(mine, self._sweep, 0):
            self._queues[kinds[position]].waiting.append(position)
        self._progress.expect(len(mine))

    # The nodes

    def _look_at_nodes(self) -> None:
        now = self._now()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        nodes = self._fleet.nodes()
        self._meet(nodes)
        self._take_back_unplaceable(nodes)
        for queue in self._queues.values():
            queue.nodes = len(_places(queue, nodes))
            if queue.nodes or not (queue.waiting or queue.running):
                queue.none_since = None
            elif queue.none_since is None:
                queue.none_since = now
                self._progress.warn(f"no node is left for {queue.kind.flag}: waiting for one")
            elif now - queue.none_since > self._cluster.patience_s:
                self._give_back(queue)

    def _meet(self, nodes: Sequence[Node]) -> None:
        """Asks nodes that joined since what they are; those that do not fit are left out."""
        wanted = {queue.kind.accelerator_type for queue in self._queues.values()}
        new = [n for n in nodes if n.id not in self._met and n.accelerator_types & wanted]
        facts = self._fleet.survey(new) if new else {}
        for node in new:
            self._met.add(node.id)
            for queue in self._queues.values():
                if queue.kind.accelerator_type not in node.accelerator_types:
                    continue
                if reason := why_not(queue.kind, node, facts[node.id]):
                    queue.avoided.add(node.id)
                    self._progress.warn(f"{node.label} is left out: {reason}")

    def _take_back_unplaceable(self, nodes: Sequence[Node]) -> None:
        """Rows that wait for a node which is gone, and may not go to those that are left."""
        for handle, running in list(self._running.items()):
            kind, avoided = running.place.accelerator_type, running.place.avoided
            of_type = [node for node in nodes if kind in node.accelerator_types]
            if of_type and all(node.id in avoided for node in of_type):
                self._give_up([handle])

    def _give_back(self, queue: _Queue) -> None:
        """Takes rows back that no node is left for."""
        self._give_up([h for h, running in self._running.items() if running.queue is queue])

    def _give_up(self, handles: list[Handle]) -> None:
        self._fleet.cancel(handles)
        for handle in handles:
            running = self._running.pop(handle)
            running.queue.waiting.append(running.position)
            running.queue.running -= 1

    def _patience_is_over(self) -> bool:
        now = self._now()
        return all(
            queue.none_since is not None and now - queue.none_since > self._cluster.patience_s
            for queue in self._queues.values()
            if queue.waiting
        )

    def _say_who_is_missed(self) -> None:
        missed = [f"{len(q.waiting)} for {q.kind.flag}" for q in self._queues.values() if q.waiting]
        if missed:
            raise StmdeployError(
                f"rows are left that no node can take: {', '.join(missed)}",
                "bring a node back and go on with --resume --cluster ADDRESS",
                ExitCode.WORKER_FAILED,
            )

    # The rows

    def _hand_out(self) -> None:
        for queue in self._queues.values():
            while queue.waiting and queue.running < _AHEAD * queue.nodes:
                self._start(queue, queue.waiting.popleft())

    def _start(self, queue: _Queue, position: int) -> None:
        spec = self._store.planned_row(self._sweep, position).row
        artifact = self._prepared.artifact_of(spec)
        if artifact.failure or artifact.path is None:
            failure = f"{NOT_EXPORTED}{artifact.failure}"
            self._fail(spec, position, failure, code=artifact.code)
            return
        try:
            shipped = self._ship(self._prepared.verified(spec))
        except (StmdeployError, OSError) as error:
            self._fail(spec, position, f"{NOT_EXPORTED}{error}")
            return
        sweep = self._spec
        task = RowTask(
            row=spec,
            artifact=shipped,
            is_source=exporter_of(spec.run.runtime).travels == "source",
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
        self._running[handle] = _Running(queue, position, spec, place, now_utc())
        queue.running += 1

    def _ship(self, path: Path) -> Shipped:
        if path not in self._shipped:
            manifest = read_artifact(path).manifest
            for file in manifest.files:
                self._fleet.share(file.sha256, path.with_name(file.name))
            text = manifest_path(path).read_text("utf-8")
            self._shipped[path] = Shipped(manifest=text, files=manifest.files)
        return self._shipped[path]

    def _spared(self, queue: _Queue, failed_on: set[str]) -> set[str]:
        """Nodes that failed at a row before, as long as another one is there."""
        if not failed_on:
            return set()
        nodes = _places(queue, self._fleet.nodes())
        failed = {node.id for node in nodes if node.label in failed_on}
        return failed if len(failed) < len(nodes) else set()

    def _tries(self, position: int) -> tuple[Try, ...]:
        if position not in self._tried:
            return ()
        row = self._store.row_so_far(self._sweep, position)
        return row.tries if row is not None else ()

    def _take_back(self, running: _Running, answer: RowAnswer | Lost) -> None:
        queue, position = running.queue, running.position
        queue.running -= 1
        if isinstance(answer, RowAnswer) and answer.misplaced:
            queue.avoided.add(answer.node_id)
            self._progress.warn(f"{answer.node} is left out: {answer.misplaced}")
            queue.waiting.append(position)
            self._looked = -math.inf
            return
        spec = running.spec
        tries = (*self._tries(position), _try_of(running, answer))
        if isinstance(answer, RowAnswer) and not answer.failure:
            self._keep(spec, position, answer, tries)
            return
        if isinstance(answer, Lost):
            self._looked = -math.inf  # the nodes are others now
        failure = tries[-1].failure
        if len(tries) < _MOST_TRIES and not _is_final(answer):
            so_far = self._prepared.row(spec, (), f"to be tried again: {failure}")
            row = so_far.model_copy(update={"tries": tries})
            self._store.save_row(self._sweep, position, row, MEASURING)
            self._tried.add(position)
            self._progress.warn(f"{_title(spec)}: {failure}; it is tried again")
            queue.waiting.append(position)
        else:
            code = answer.code if isinstance(answer, RowAnswer) else 0
            self._fail(spec, position, failure, tries, _environment_of(answer), code=code)

    def _fail(
        self,
        spec: RowSpec,
        position: int,
        failure: str,
        tries: tuple[Try, ...] = (),
        environment: dict[str, Environment] | None = None,
        *,
        code: int = 0,
    ) -> None:
        told = {"tries": tries, **(environment or {})}
        code = code or int(ExitCode.WORKER_FAILED)
        row = self._prepared.row(spec, (), failure, code=code).model_copy(update=told)
        self._store.save_row(self._sweep, position, row, FAILED)
        self._progress.step(f"{_title(spec)} failed: {failure}")
        self._on_row(row)
        added = self._prepared.add_smaller(spec, failure)
        if added is not None:
            self._queues[kind_of(spec.run)].waiting.append(added)
            self._progress.expect(1)

    def _keep(
        self, spec: RowSpec, position: int, answer: RowAnswer, tries: tuple[Try, ...]
    ) -> None:
        try:
            processes = self._with_logs(spec, answer)
            row = self._row_of(spec, answer, processes, tries)
            kept = self._store.add_processes(self._sweep, position, processes, row, DONE)
        except DiskFullError as error:
            # Without its samples a row takes little room; if not even that is left, this raises.
            self._fail(spec, position, error.message, tries, _environment_of(answer))
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
        folder = (self._store.folder / LOGS / self._sweep / spec.key).resolve()
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


def _places(queue: _Queue, nodes: Iterable[Node]) -> list[Node]:
    """The nodes that a queue's rows may go to."""
    return [
        node
        for node in nodes
        if queue.kind.accelerator_type in node.accelerator_types and node.id not in queue.avoided
    ]


def _is_final(answer: RowAnswer | Lost) -> bool:
    """Whether another node would fail too: memory that an engine says is out, but not a worker
    that was killed, nor a node."""
    if isinstance(answer, Lost) or "SIGKILL" in answer.failure:
        return False
    return out_of_memory(answer.failure)


def _environment_of(answer: RowAnswer | Lost) -> dict[str, Environment]:
    """That of the node that failed, where it could say."""
    return {"environment": answer.environment} if isinstance(answer, RowAnswer) else {}


def _try_of(running: _Running, answer: RowAnswer | Lost) -> Try:
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
        failure=answer.failure,
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
